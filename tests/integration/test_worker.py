"""Tests that prediction on many images loses and repeats nothing when it is interrupted."""

import csv
import errno
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from small_models import write_model

from panet.cli.predict import report_unreadable
from panet.data.shapes import draw_image
from panet.prediction import Predictor, read_image, worker
from panet.prediction.annotated_video import write_annotated_videos
from panet.prediction.folder import ResultsFolder, read_json
from panet.prediction.inputs import Source, common_folder, find_files, name_sources
from panet.prediction.media import probe_video
from panet.prediction.results_file import merge
from panet.prediction.worker import count_images, predict_share, unfinished_sources

GOOD = {
    "a/x.jpg": (96, 96),
    "a/y.png": (100, 140),
    "b/x.jpg": (140, 100),
    "b/x.png": (96, 96),
    "b/c/x.jpg": (97, 141),
}
BAD = ("a/empty.jpg", "b/text.png", "b/pixel.png", "a/film.mp4")


@pytest.fixture
def predictor(tiny_cfg: CfgNode, tmp_path: Path) -> Predictor:
    small = write_model(tiny_cfg, tmp_path / "model", ("disk", "square", "triangle", "star"))
    return Predictor.from_name(str(small.config_file), str(small.weights))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write readable and unreadable images, some with the same file names."""
    root = tmp_path / "photos"
    for index, (name, (height, width)) in enumerate(GOOD.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), cv2.resize(draw_image(9, index)[0], (width, height)))
    (root / "a/empty.jpg").touch()
    (root / "b/text.png").write_text("no image")
    Image.new("RGB", (1, 1)).save(root / "b/pixel.png")
    (root / "a/film.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def film(photos: Path) -> Path:
    path = photos / "clips" / "film.avi"
    path.parent.mkdir()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 8, (96, 80))
    for index in range(7):
        writer.write(cv2.resize(draw_image(4, index)[0], (96, 80)))
    writer.release()
    return path


def sources_in(root: Path) -> list[Source]:
    files = find_files([str(root)])
    assert common_folder(files) == root
    return name_sources(files, root)


def run(
    predictor: Predictor,
    folder: ResultsFolder,
    sources: list[Source],
    batch_size: int = 1,
    processes: int = 1,
) -> int:
    """Run the shares of all processes one after the other; return the final counter."""
    folder.path.mkdir(exist_ok=True)
    counter = multiprocessing.get_context("spawn").Value("q", 0)
    folder.unreadable_list.write_text("")
    folder.write_categories(predictor.categories)
    unfinished = unfinished_sources(sources, folder)
    for rank in range(processes):
        predict_share(
            predictor,
            folder,
            unfinished,
            batch_size=batch_size,
            rank=rank,
            processes=processes,
            counter=counter,
        )
    write_annotated_videos(sources, folder)
    merge(folder, with_csv=True)
    return int(counter.value)


def contents(folder: ResultsFolder) -> dict[str, bytes]:
    """Read all files except the list of unreadable files, whose order varies."""
    return {
        path.relative_to(folder.path).as_posix(): path.read_bytes()
        for path in folder.path.rglob("*")
        if path.is_file() and path.name != "unreadable.txt"
    }


def assert_close(ours: ResultsFolder, expected: ResultsFolder) -> None:
    """Check that the results are equal except for rounding errors."""
    assert read_json(ours.path / "images.json") == read_json(expected.path / "images.json")
    found = [json.loads((f.path / "results.json").read_text()) for f in (ours, expected)]
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found):
        for key in ("image_id", "file_name", "category_id", "category"):
            assert one[key] == other[key]
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.02)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        masks = rle.decode([one["segmentation"], other["segmentation"]])
        assert (masks[..., 0] != masks[..., 1]).mean() < 2e-3


def test_good_images_are_predicted_and_bad_ones_listed(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out", with_masks=True)
    sources = sources_in(photos)
    assert count_images(sources) == len(GOOD) + len(BAD)
    assert run(predictor, folder, sources) == len(GOOD) + len(BAD)
    lines = folder.unreadable_list.read_text().splitlines()
    assert {line.split("\t")[0] for line in lines} == {str(photos / name) for name in BAD}

    coco = COCO(str(folder.path / "images.json"))
    results = coco.loadRes(str(folder.path / "results.json"))
    assert [coco.imgs[i]["file_name"] for i in sorted(coco.imgs)] == [
        *("a/x.jpg", "a/y.png", "b/c/x.jpg", "b/x.jpg", "b/x.png")
    ]
    entries = json.loads((folder.path / "results.json").read_text())
    rows = (folder.path / "results.csv").read_text().splitlines()
    assert len(rows) == len(entries) + 1
    for image_id, image in coco.imgs.items():
        name = image["file_name"]
        assert (image["height"], image["width"]) == GOOD[name]
        pixels = read_image(photos / name)
        expected = predictor.detections(predictor(pixels))
        assert len(expected) > 0
        own = [entry for entry in entries if entry["image_id"] == image_id]
        assert own == [{"image_id": image_id, "file_name": name, **found} for found in expected]
        assert len(results.getAnnIds([image_id])) == len(expected)
        assert read_image(folder.picture(name)).shape == pixels.shape
        for number, found in enumerate(expected, start=1):
            mask = np.asarray(Image.open(folder.masks(name) / f"{number:03d}.png"))
            np.testing.assert_array_equal(mask > 0, rle.decode(found["segmentation"]) > 0)
        assert len(list(folder.masks(name).iterdir())) == len(expected)
    first = rows[1].split(",")
    assert first[:5] == ["1", "a/x.jpg", "", str(entries[0]["category_id"]), entries[0]["category"]]
    assert [float(value) for value in first[6:10]] == entries[0]["bbox"]
    assert int(first[10]) == rle.area(entries[0]["segmentation"])


def test_batches_and_several_processes_give_the_same(
    predictor: Predictor, photos: Path, film: Path, tmp_path: Path
) -> None:
    sources = sources_in(photos)
    one = ResultsFolder(tmp_path / "one")
    run(predictor, one, sources)
    images = len(read_json(one.path / "images.json")["images"])
    assert images == len(GOOD) + 7
    for processes in (2, 3):
        folder = ResultsFolder(tmp_path / f"{processes}")
        infer = mock.Mock(side_effect=predictor.infer)
        with mock.patch.object(predictor, "infer", infer):
            count = run(predictor, folder, sources, batch_size=3, processes=processes)
        calls = [len(call.args[0]) for call in infer.call_args_list]
        assert count == images + len(BAD)
        assert sum(calls) == images  # each image once
        assert max(calls) > 1
        assert_close(folder, one)
        lists = [sorted(f.unreadable_list.read_text().splitlines()) for f in (folder, one)]
        assert lists[0] == lists[1]


def test_frames_are_numbered_and_make_a_video(
    predictor: Predictor, film: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out")
    sources = sources_in(film.parent)
    assert run(predictor, folder, sources) == 7
    images = read_json(folder.path / "images.json")["images"]
    assert [(image["file_name"], image["frame"]) for image in images] == [
        ("film.avi", number) for number in range(1, 8)
    ]
    results = read_json(folder.path / "results.json")
    assert {found["frame"] for found in results} == set(range(1, 8))
    assert probe_video(folder.annotated_video("film.avi")) == (7, 8)
    assert len(list((folder.path / "pictures" / "film.avi").iterdir())) == 7
    with mock.patch.object(predictor, "infer", side_effect=AssertionError):
        assert run(predictor, folder, sources) == 0


class Stopped(BaseException):
    """Simulates a killed process: nothing after it is executed."""


def stop_before(step: int) -> Iterator[Any]:
    """Yield patches of functions that change files, which stop at the given change."""
    done = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done >= step:  # also stops changes by cleanup code
                raise Stopped
            return function(*args, **kwargs)

        return call

    yield mock.patch.object(Path, "replace", counted(Path.replace))
    yield mock.patch.object(Path, "unlink", counted(Path.unlink))
    yield mock.patch.object(Path, "mkdir", counted(Path.mkdir))
    yield mock.patch.object(os, "fsync", counted(os.fsync))
    yield mock.patch.object(shutil, "rmtree", counted(shutil.rmtree))


def test_stopped_anywhere_it_goes_on_to_the_same_end(
    predictor: Predictor, photos: Path, film: Path, tmp_path: Path
) -> None:
    for name in ("a/x.jpg", "a/y.png", "b/text.png"):
        (photos / name).unlink()
    sources = sources_in(photos)
    undisturbed = ResultsFolder(tmp_path / "undisturbed", with_masks=True)
    run(predictor, undisturbed, sources)
    expected = contents(undisturbed)
    folder = ResultsFolder(tmp_path / "stopped", with_masks=True)
    folder.path.mkdir()
    stops = 0
    infer = mock.Mock(side_effect=predictor.infer)
    with mock.patch.object(predictor, "infer", infer):
        for attempt in range(1000):
            patches = list(stop_before(5 + 3 * attempt % 41))
            try:
                for patch in patches:
                    patch.start()
                run(predictor, folder, sources)
            except Stopped:
                stops += 1
            else:
                break
            finally:
                for patch in patches:
                    patch.stop()
            for path in folder.path.rglob("*.json"):
                json.loads(path.read_text())
            merge(folder)
            names = [(i["file_name"], i.get("frame")) for i in images_of(folder)]
            assert len(names) == len(set(names))
    assert stops > 5
    assert contents(folder) == expected
    # Each stop loses at most two images: the one being written and the one in the model.
    assert infer.call_count <= len(images_of(folder)) + 2 * stops


def test_the_model_goes_on_while_results_are_written_but_not_far(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out")
    written: list[int] = []
    writers: set[threading.Thread] = set()
    infer, save = predictor.infer, ResultsFolder.save
    second_inference = threading.Event()

    def noted_infer(batch: Any) -> Any:
        written.append(len(list(folder.records.rglob("*.json"))))
        if len(written) == 2:
            second_inference.set()
        return infer(batch)

    def noted_save(self: ResultsFolder, name: str, record: Any) -> None:
        writers.add(threading.current_thread())
        # Had the model waited for the first result, this would never be set.
        assert second_inference.wait(60)
        save(self, name, record)

    with (
        mock.patch.object(predictor, "infer", noted_infer),
        mock.patch.object(ResultsFolder, "save", noted_save),
    ):
        assert run(predictor, folder, sources_in(photos)) == len(GOOD) + len(BAD)
    assert threading.current_thread() not in writers
    assert written[1] == 0  # the model did not wait for the first result
    assert all(done >= index - 1 for index, done in enumerate(written))


def test_errors_in_writing_stop_it(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "out")
    infer = mock.Mock(side_effect=predictor.infer)
    with (
        mock.patch.object(predictor, "infer", infer),
        mock.patch.object(ResultsFolder, "save", side_effect=OSError("the disk is full")),
        pytest.raises(OSError, match="the disk is full"),
    ):
        run(predictor, folder, sources_in(photos))
    assert infer.call_count <= 2


def test_a_full_disk_after_the_last_frame_keeps_the_results(
    predictor: Predictor, film: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out")
    sources = sources_in(film.parent)
    full = OSError(errno.ENOSPC, "No space left on device")
    for function in ("begin_video", "end_video"):
        with (
            mock.patch.object(ResultsFolder, function, side_effect=full),
            pytest.raises(OSError, match="No space left"),
        ):
            run(predictor, folder, sources)
        assert folder.unreadable_list.read_text() == ""
    before = [path for path in contents(folder) if path.startswith(("records", "pictures"))]
    assert before
    infer = mock.Mock(side_effect=predictor.infer)
    with mock.patch.object(predictor, "infer", infer):
        run(predictor, folder, sources)
    assert set(before) < set(contents(folder))
    assert infer.call_count == 7 - sum(path.startswith("records") for path in before)


def test_a_video_that_cannot_be_resized_is_listed(
    predictor: Predictor, film: Path, tmp_path: Path
) -> None:
    thin = film.with_name("thin.avi")
    writer = cv2.VideoWriter(str(thin), cv2.VideoWriter.fourcc(*"MJPG"), 8, (8000, 2))
    for _ in range(3):
        writer.write(np.zeros((2, 8000, 3), np.uint8))
    writer.release()
    sources = sources_in(film.parent)
    for processes in (1, 2):
        folder = ResultsFolder(tmp_path / f"{processes}")
        assert run(predictor, folder, sources, processes=processes) == 7 + 3
        assert {image["file_name"] for image in images_of(folder)} == {"film.avi"}
        assert folder.annotated_video("film.avi").exists()
        assert not folder.annotated_video("thin.avi").exists()
        assert report_unreadable(folder, sources) == 1
        (line,) = folder.unreadable_list.read_text().splitlines()
        assert line.startswith(f"{thin}\tthe image has 8000 x 2 pixels")


def test_file_names_that_are_not_utf8(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"odd-\xff")
    shutil.copy(photos / "b/x.png", photos / f"a/{odd}.png")
    shutil.copy(photos / "a/film.mp4", photos / f"a/{odd}.mp4")  # ends a process that opens it
    folder = ResultsFolder(tmp_path / "out")
    run(predictor, folder, sources_in(photos / "a"))
    assert f"{odd}.png" in {image["file_name"] for image in images_of(folder)}
    with (folder.path / "results.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert f"{odd}.png" in {row["file_name"] for row in csv.DictReader(file)}
    listed = folder.unreadable_list.read_text(errors="surrogateescape")
    assert f"{odd}.mp4\tOpenCV reads no videos whose path is not UTF-8\n" in listed


def images_of(folder: ResultsFolder) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = read_json(folder.path / "images.json")["images"]
    return images


def test_a_second_run_does_only_what_is_new_or_changed(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out", with_masks=True)
    run(predictor, folder, sources_in(photos))
    before = contents(folder)
    read: list[Path] = []

    def noted(path: Path) -> Any:
        read.append(path)
        return read_image(path)

    with mock.patch.object(worker, "read_image", noted):
        run(predictor, folder, sources_in(photos))
        assert {path.relative_to(photos).as_posix() for path in read} == set(BAD[:3])
        assert contents(folder) == before

        read.clear()
        cv2.imwrite(str(photos / "new.png"), draw_image(9, 20)[0])
        shutil.copy(photos / "b/x.png", photos / "a/empty.jpg")  # mended
        cv2.imwrite(str(photos / "a/x.jpg"), draw_image(9, 21)[0])  # changed
        (photos / "b/x.jpg").write_bytes(b"spoilt")
        run(predictor, folder, sources_in(photos))
    assert {path.relative_to(photos).as_posix() for path in read} == {
        *("new.png", "a/empty.jpg", "a/x.jpg", "b/x.jpg", "b/text.png", "b/pixel.png")
    }
    fresh = ResultsFolder(tmp_path / "fresh", with_masks=True)
    run(predictor, fresh, sources_in(photos))
    assert contents(folder) == contents(fresh)
    assert "b/x.jpg" not in {image["file_name"] for image in images_of(folder)}


def test_pictures_and_masks_can_be_had_later(
    predictor: Predictor, photos: Path, film: Path, tmp_path: Path
) -> None:
    plain = ResultsFolder(tmp_path / "out", with_pictures=False)
    sources = sources_in(photos)
    run(predictor, plain, sources)
    assert not (plain.path / "pictures").exists()
    folder = ResultsFolder(tmp_path / "out", with_masks=True)
    with mock.patch.object(predictor, "infer", side_effect=AssertionError):
        run(predictor, folder, sources)
    at_once = ResultsFolder(tmp_path / "at_once", with_masks=True)
    run(predictor, at_once, sources)
    assert contents(folder) == contents(at_once)


def test_another_video_of_the_same_name_replaces_all_frames(
    predictor: Predictor, film: Path, tmp_path: Path
) -> None:
    folder = ResultsFolder(tmp_path / "out")
    run(predictor, folder, sources_in(film.parent))
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 8, (96, 80))
    for index in range(3):
        writer.write(cv2.resize(draw_image(4, index)[0], (96, 80)))
    writer.release()
    run(predictor, folder, sources_in(film.parent))
    assert [image["frame"] for image in images_of(folder)] == [1, 2, 3]
    assert len(list((folder.path / "pictures" / "film.avi").iterdir())) == 3
    assert probe_video(folder.annotated_video("film.avi"))[0] == 3
