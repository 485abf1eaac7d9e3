"""Tests of the inference and training benchmarks, on small images."""

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from paths import BENCHMARKS, DETECTRON2_CONFIGS

from panet import optimize_for_inference
from panet.utils.cpu import has_fast_bfloat16

sys.path.append(str(BENCHMARKS))

import boxes
import inference
import measure
import pooling
import rows
import training
from macs import flop_counter

CPU = torch.device("cpu")
STAGES = {"rest", "backbone", "pyramid", "rpn", "pooling", "box head", "mask head"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxes, "IMAGE_SIZE", (96, 128))
    monkeypatch.setattr(pooling, "IMAGE_SIZE", (96, 128))
    for module in (inference, training, pooling):
        monkeypatch.setattr(module, "NUM_PROPOSALS", 20)
    monkeypatch.setattr(inference, "NUM_DETECTIONS", 5)


def test_the_stock_configuration_equals_that_of_detectron2() -> None:
    ours = rows.ROWS["stock-fp32"].load_config(CPU)
    folder = DETECTRON2_CONFIGS / "COCO-InstanceSegmentation"
    theirs = get_cfg()
    theirs.merge_from_file(str(folder / "mask_rcnn_R_50_FPN_1x.yaml"))

    def difference(a: CfgNode, b: CfgNode, path: str = "") -> set[str]:
        keys = set()
        for key in a.keys() | b.keys():
            if isinstance(a.get(key), CfgNode):
                keys |= difference(a[key], b[key], f"{path}{key}.")
            elif a.get(key) != b.get(key):
                keys.add(path + key)
        return keys

    training_only = {"DATASETS.", "INPUT.", "SOLVER.STEPS", "SOLVER.MAX_ITER"}
    rest = {k for k in difference(ours, theirs) if not k.startswith(tuple(training_only))}
    assert rest <= {"MODEL.DEVICE", "MODEL.WEIGHTS"}


def test_every_model_uses_the_given_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    image = boxes.images(1, generator)
    proposed = [boxes.proposals(boxes.random_boxes(20, generator), CPU)]
    detected = [boxes.detections(boxes.random_boxes(5, generator), CPU)]
    for name in ("stock-fp32", "panet-2fc-fp32"):
        model = rows.ROWS[name].build_model(CPU).eval()
        for _ in range(2):
            with torch.no_grad(), boxes.forced(model, proposed, detected):
                instances = model(image)[0]["instances"]
            assert torch.equal(instances.pred_boxes.tensor, detected[0].pred_boxes.tensor)
            assert instances.has("pred_masks")


def test_the_naive_model_gives_the_same_results() -> None:
    generator = torch.Generator().manual_seed(0)
    image = boxes.images(1, generator)
    rois = [boxes.Boxes(boxes.random_boxes(9, generator))]
    outputs = []
    for name in ("panet-2fc-fp32", "panet-naive-fp32"):
        row = rows.ROWS[name]
        model = row.build_model(CPU).eval()
        with torch.no_grad():
            features = model.backbone(model.preprocess_image(image).tensor)
            levels = [features[name] for name in ("p2", "p3", "p4", "p5")]
            outputs.append([*levels, *model.roi_heads.box_pooler(levels, rois)])
    for ours, naive in zip(*outputs, strict=True):
        scale = naive.abs().max().item()
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("script", "stages"),
    [(inference, STAGES | {"paste"}), (training, STAGES | {"backward", "optimizer"})],
)
def test_report(
    script: object,
    stages: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "_peak_in_new_process", lambda name, device: 100.0)
    file = tmp_path / "report.json"
    arguments = ["--device", "cpu", "--rounds", "1", "--json", str(file)]
    names = ["panet-2fc-fp32", "panet-2fc-bf16", "torchvision-fp32"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "--rows", *names])
    measure.benchmark(script.__doc__, script.set_up)
    printed = capsys.readouterr().out
    if not has_fast_bfloat16():
        names.remove("panet-2fc-bf16")
        assert "panet-2fc-bf16 is skipped" in printed
    report = json.loads(file.read_text())
    *rows_by_stage, peer = report["rows"]
    assert [row["name"] for row in report["rows"]] == ["stock-fp32", *names]
    assert report["rows"][0]["ratio_to_stock"] == 1.0
    assert not peer["stages"]
    assert peer["multiply_adds"] > 1e9
    for row in rows_by_stage:
        assert row["device"] == "cpu"
        assert row["dtype"] == ("bfloat16" if row["name"].endswith("bf16") else "float32")
        assert row["peak_mb"] == 100.0
        assert row["multiply_adds"] > 1e9
        assert set(row["stages"]) == stages
        assert sum(row["stages"].values()) == pytest.approx(row["seconds"], rel=0.1)
    assert set(report["pooling_speedup"]) == {"forward", "forward_backward"}
    assert "torchvision-fp32" in printed


def test_optimized_and_naive_models_have_the_same_macs() -> None:
    generator = torch.Generator().manual_seed(0)
    image = boxes.images(1, generator)
    proposed = [boxes.proposals(boxes.random_boxes(20, generator), CPU)]
    detected = [boxes.detections(boxes.random_boxes(5, generator), CPU)]
    counted = []
    for name in ("panet-2fc-fp32", "panet-naive-fp32"):
        model = rows.ROWS[name].build_model(CPU).eval()
        if not rows.ROWS[name].naive:
            model = optimize_for_inference(model)
        with torch.no_grad(), boxes.forced(model, proposed, detected), flop_counter() as counter:
            model(image)
        counted.append(counter.get_total_flops())
    # The optimized model computes the last mask layer for one class only.
    assert counted[0] == pytest.approx(counted[1], rel=0.02)


def test_bfloat16_rows_are_skipped_on_cpus_without_instructions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda: False)
    names = ["stock-fp32", "stock-bf16"]
    assert measure.supported_rows(names, CPU) == ["stock-fp32"]
    assert "stock-bf16 is skipped" in capsys.readouterr().out
    assert measure.supported_rows(names, torch.device("cuda")) == names


def test_peak_memory_is_measured_in_its_own_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--device", "cpu", "--peak-memory-of", "stock-fp32"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    measure.benchmark("", inference.set_up)
    assert float(capsys.readouterr().out.splitlines()[-1]) > 100
