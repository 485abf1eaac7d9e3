"""The page of a report."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from small_runs import ground_truth, predict, registered, write_predictions, write_run

from panet.reporting import read_run, write_report
from panet.utils.errors import UserError

KEYS = ("image_id", "category_id", "bbox", "segmentation")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), "")


class Page(HTMLParser):
    """What a page shows and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.pictures: dict[str, str] = {}
        self.styles = ""
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.references += [values[name] for name in ("src", "href", "srcset") if name in values]
        self.styles += values.get("style", "")
        if tag == "img":
            self.pictures[values["alt"]] = values["src"]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "style" and "{" in data:
            self.styles += data
        else:
            self.text += data


def report(folder: Path, **numbers: float) -> Page:
    output = folder / "pages" / "report.html"
    write_report(read_run(folder), output, **numbers)  # type: ignore[arg-type]
    return Page(output)


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def test_a_whole_run(tiny_cfg: CfgNode) -> None:
    page = report(write_run(tiny_cfg), num_examples=2)
    text = " ".join(page.text.split())
    for words in (
        "evaluated on tiny_shapes: 12 images",
        "APl",
        "triangle",
        "box AP",
        "60 of 4",
        "NVIDIA H100",
        "2 of",
        "META_ARCHITECTURE: GeneralizedRCNN",
    ):
        assert words in text
    charts = [name for name, uri in page.pictures.items() if uri.startswith("data:image/svg")]
    assert charts == [
        "Losses",
        "Learning rate",
        "AP over time",
        "Precision and recall, box",
        "Precision and recall, mask",
        "Confusion matrix",
    ]
    assert len(page.pictures) == len(charts) + 4


def test_refers_to_nothing_outside(tiny_cfg: CfgNode) -> None:
    page = report(write_run(tiny_cfg), num_examples=1)
    assert "script" not in page.tags
    assert len(page.references) > 6
    assert all(reference.startswith("data:") for reference in page.references)
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    for uri in page.pictures.values():
        if uri.startswith("data:image/svg"):
            root = ElementTree.fromstring(decoded(uri))
            for element in root.iter():
                for name, value in element.attrib.items():
                    if name.endswith(("href", "src")):
                        assert value.startswith(("#", "data:"))
                    assert all(link == "#" for link in re.findall(r"url\((.)", value))


def test_text_of_the_run_is_no_markup(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.WEIGHTS = "<script>alert(1)</script>"
    page = report(write_run(tiny_cfg), num_examples=0)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_examples_show_a_frame_on_both_sides(tiny_cfg: CfgNode) -> None:
    content = ground_truth(tiny_cfg)
    item = max(content["annotations"], key=lambda item: item["area"])
    folder = write_run(tiny_cfg)
    others = [other for other in content["annotations"] if other is not item]
    write_predictions(
        folder, [{key: other[key] for key in KEYS} | {"score": 0.9} for other in others]
    )
    page = report(folder, num_examples=3)
    (caption,) = [name for name in page.pictures if "no prediction" in name]
    assert f"of {item['area']:,} pixels" in caption
    assert "1 of 1, framed." in page.text
    assert "0 of 0, framed." in page.text
    picture = cv2.imdecode(np.frombuffer(decoded(page.pictures[caption]), np.uint8), 1)
    framed = np.abs(picture.astype(int) - [220, 0, 255]).max(axis=2) < 40
    for half in np.array_split(framed, 2, axis=1):
        assert half.sum() > 200


def test_without_masks(tiny_cfg: CfgNode) -> None:
    folder = write_run(tiny_cfg)
    predictions = predict(ground_truth(tiny_cfg))
    for item in predictions:
        del item["segmentation"]
    write_predictions(folder, predictions)
    page = report(folder, num_examples=1)
    assert "Precision and recall, box" in page.pictures
    assert "Precision and recall, mask" not in page.pictures
    assert "mask AP" not in page.text


def test_without_predictions_on_any_image(tiny_cfg: CfgNode) -> None:
    folder = write_run(tiny_cfg)
    write_predictions(folder, [])
    page = report(folder, num_examples=1)
    assert "Confusion matrix" in page.pictures


def test_what_the_run_lacks_is_said(tiny_cfg: CfgNode) -> None:
    folder = write_run(tiny_cfg)
    lines = (folder / "metrics.json").read_text().splitlines()
    (folder / "metrics.json").write_text("\n".join(lines[:4]))
    assert "metrics.json has one AP, at iteration 29" in report(folder).text
    (folder / "metrics.json").write_text("\n".join(lines[:3]))
    assert "metrics.json has no AP" in report(folder).text
    (folder / "metrics.json").write_text(lines[4])
    text = report(folder).text
    assert "metrics.json has no losses" in text
    assert "metrics.json has no learning rate" in text
    for name in ("metrics.json", "log.txt", "inference/coco_instances_results.json"):
        (folder / name).unlink()
    page = report(folder)
    assert "The run has no metrics.json" in page.text
    assert "The run has no inference/coco_instances_results.json" in page.text
    assert page.pictures == {}
    assert "tiny_shapes" in page.text


def test_images_that_are_gone_are_named(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    content = ground_truth(tiny_cfg)
    folder = write_run(tiny_cfg)
    with registered("gone", content, tmp_path, str(tmp_path)) as name:
        run = read_run(folder, ["DATASETS.TEST", f"('{name}',)"])
        write_report(run, folder / "report.html")
    page = Page(folder / "report.html")
    assert re.search(r"The image .*\d\.jpg cannot be read", page.text)
    assert "Confusion matrix" in page.pictures


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_examples": -1}, "number of examples is -1"),
        ({"min_score": 1.5}, "score threshold is 1.5"),
        ({"min_iou": 0.0}, "IoU threshold is 0.0"),
    ],
)
def test_numbers_out_of_range(tiny_cfg: CfgNode, numbers: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        report(write_run(tiny_cfg), **numbers)


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium to open the page with")
def test_a_browser_opens_it_without_complaints(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    folder = write_run(tiny_cfg)
    report(folder, num_examples=1)
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
        # Whatever would be asked of a network fails, and would be logged.
        *("--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path / 'profile'}"),
        *("--virtual-time-budget=2000", "--dump-dom", (folder / "pages/report.html").as_uri()),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert run.stdout.count("<img") == 8
    assert "CONSOLE" not in run.stderr, run.stderr
