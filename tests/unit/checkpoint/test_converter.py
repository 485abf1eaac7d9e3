"""Converted checkpoints compute what the systems that they come from do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import restatement
import torch
from detectron2.structures import Boxes
from restatement import State
from torch import Tensor, nn

from panet import load_config
from panet.checkpoint import build_checkpointer
from panet.checkpoint.convert.converter import convert, convert_file
from panet.checkpoint.convert.systems import SOURCES
from panet.engine import PANetTrainer
from panet.prepare import prepare
from panet.utils.errors import UserError

ROIS = torch.tensor(
    [[0, 10, 10, 60, 70], [0, 0, 0, 127, 95], [0, 30.3, 50.2, 120.7, 60.9], [0, 5, 5, 12, 9.5]]
)
OFFICIAL = {
    "e2e_panet_R-50-FPN_2x_mask": (True, False),
    "e2e_panet_R-50-FPN_1x_det": (False, False),
    "e2e_panet_R-50-FPN_1x_det_2fc": (False, True),
}


def save(state: State, path: Path, key: str = "model") -> Path:
    """In the format of PyTorch 0.4, with what training programs add."""
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}}
    checkpoint = {"step": 3, key: state, "optimizer": optimizer}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=False)
    return path


def convert_and_load(path: Path, source: str) -> tuple[nn.Module, Path]:
    """Through the command line and train_net.py's way of loading."""
    converted = path.with_name("converted.pth")
    command = [
        sys.executable,
        "-m",
        "panet_cli",
        "convert-weights",
        "--from",
        source,
        path,
        converted,
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    config_file = Path(run.stdout.rpartition("--config-file ")[2].split()[0])
    cfg = prepare(
        load_config(str(config_file), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(converted)])
    )
    model = PANetTrainer.build_model(cfg).eval()
    build_checkpointer(cfg, model).load(cfg.MODEL.WEIGHTS)
    return model, config_file


def head_levels(model: nn.Module, features: dict[str, Tensor]) -> list[Tensor]:
    return [features[name] for name in model.roi_heads.box_in_features]


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OFFICIAL)
@torch.no_grad()
def test_the_authors_release(tmp_path: Path, name: str) -> None:
    mask, fully_connected = OFFICIAL[name]
    state = restatement.release_state(mask, fully_connected)
    model, config_file = convert_and_load(save(state, tmp_path / "release.pth"), "panet-pytorch")
    assert config_file.stem == name
    images = torch.randn(1, 3, 96, 128) * 40
    features = model.backbone(images)
    expected = restatement.release_levels(state, images)
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for ours, reference in zip(features.values(), expected, strict=True):
        assert_equal(ours, reference)
    levels, boxes = head_levels(model, features), [Boxes(ROIS[:, 1:])]
    pooled = model.roi_heads.box_pooler(levels, boxes)
    scores, deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    release_scores, release_deltas = restatement.release_boxes(state, expected, ROIS)
    assert_equal(scores, release_scores.roll(-1, dims=1))
    assert_equal(deltas, release_deltas[:, 4:])
    assert model.roi_heads.mask_on == mask
    if mask:
        logits = model.roi_heads.mask_head.layers(model.roi_heads.mask_pooler(levels, boxes))
        assert_equal(logits, restatement.release_masks(state, expected, ROIS)[:, 1:])


@torch.no_grad()
def test_mmdetection(tmp_path: Path) -> None:
    state = restatement.mmdet_state()
    path = save(state, tmp_path / "mmdet.pth", key="state_dict")
    model, config_file = convert_and_load(path, "mmdet")
    assert config_file.stem == "faster_rcnn_R50_PAFPN_1x"
    images = torch.randn(1, 3, 96, 128)
    features = model.backbone(images)
    expected = restatement.mmdet_levels(state, images)
    for ours, reference in zip(features.values(), expected, strict=True):
        assert_equal(ours, reference)
    pooled = model.roi_heads.box_pooler(head_levels(model, features), [Boxes(ROIS[:, 1:])])
    scores, deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    mmdet_scores, mmdet_deltas = restatement.mmdet_boxes(state, expected, ROIS)
    assert_equal(scores, mmdet_scores)
    assert_equal(deltas, mmdet_deltas)


def release(**changes: Tensor | None) -> State:
    """A boxes-only model of the release with tensors changed, or left out if None."""
    state: dict[str, Tensor | None] = {**restatement.release_state(False, True), **changes}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Box_Head.fc2.1.weight": None}, "Box_Head.fc2.1.weight .* is missing"),
        (
            {"RPN.FPN_RPN_cls_score.weight": torch.zeros(15, 256, 1, 1)},
            r"RPN.FPN_RPN_cls_score.weight .* is \(15, 256, 1, 1\), not \(3, 256, 1, 1\)",
        ),
        (
            {"Conv_Body.conv_body.res5.3.conv1.weight": torch.zeros(512, 2048, 1, 1)},
            "res5.3.conv1.weight .* is not in the model",
        ),
        ({"Keypoint_Head.conv.weight": torch.zeros(1)}, "a keypoint head"),
        ({"Mask_Head.conv_fcn.0.weight": torch.zeros(1)}, "a mask head that is not the release's"),
        ({"Conv_Body.conv_body.res4.5.conv1.weight": None}, "res4.5.conv1.weight .* is missing"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Tensor | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(release(**changes), SOURCES["panet-pytorch"])


@pytest.mark.parametrize(
    ("source", "prefix", "message"),
    [
        ("panet-pytorch", "Conv_Body.panet", "a plain FPN"),
        ("panet-pytorch", "Conv_Body.conv_top.1", "no group norm"),
        ("panet-pytorch", "Box_Head.fc1", "no box head that pools from all levels"),
        ("panet-pytorch", "Conv_Body.conv_body.res4.5", "5 blocks in Conv_Body.conv_body.res4"),
        ("mmdet", "neck.downsample_convs", "a plain FPN, not PAFPN"),
        ("mmdet", "neck", "no modules named backbone and neck"),
        ("mmdet", "roi_head.bbox_head.shared_fcs", "no box head with two shared fc layers"),
    ],
)
def test_wrong_architectures_are_named(source: str, prefix: str, message: str) -> None:
    state = release() if source == "panet-pytorch" else restatement.mmdet_state()
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    with pytest.raises(UserError, match=message):
        convert(rest, SOURCES[source])


def test_other_numbers_of_classes_are_recognized() -> None:
    state = restatement.release_state(True, False)
    for name in [n for n in state if n.startswith(("Box_Outs", "Mask_Outs"))]:
        rows = 4 * 9 if "bbox_pred" in name else 9
        state[name] = state[name][:rows]
    conversion = convert(state, SOURCES["panet-pytorch"])
    assert conversion.overrides == ["MODEL.ROI_HEADS.NUM_CLASSES", "8"]
    assert conversion.state["roi_heads.mask_head.predictor.weight"].shape[0] == 8


def test_everything_dropped_is_named(tmp_path: Path) -> None:
    path = save(release(**{"Something.else": torch.zeros(1)}), tmp_path / "release.pth")
    conversion = convert_file(path, SOURCES["panet-pytorch"])
    dropped = {line.split(":")[0] for line in conversion.dropped}
    assert dropped == {
        *("step", "optimizer", "Something.else"),
        *("Box_Outs.bbox_pred.weight", "Box_Outs.bbox_pred.bias"),
    }


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    path = save(restatement.mmdet_state(), tmp_path / "mmdet.pth", key="state_dict")
    command = [sys.executable, "-m", "panet_cli", "convert-weights"]
    command += ["--from", "panet-pytorch", path, tmp_path / "out.pth"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(
        f"error: {path} cannot be converted: it has no backbone"
    )
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mmdet", "backbone.layer3.0.conv2_offset.weight"),
        ("mmdet", "neck.fpn_convs.4.conv.weight"),
        ("mmdet", "roi_head.bbox_head.shared_convs.0.conv.weight"),
        ("panet-pytorch", "Conv_Body.conv_body.res5.2.conv4.weight"),
        ("panet-pytorch", "Mask_Head.mask_conv6.weight"),
    ],
)
def test_unknown_tensors_of_the_network_are_refused(source: str, name: str) -> None:
    mmdet = source == "mmdet"
    state = restatement.mmdet_state() if mmdet else restatement.release_state(True, False)
    with pytest.raises(UserError, match=f"{re.escape(name)} has no counterpart here"):
        convert({**state, name: torch.zeros(1)}, SOURCES[source])
