"""Adapting configurations of both kinds to the devices of a machine."""

from typing import Any

import pytest
from detectron2.config import CfgNode, LazyCall
from detectron2.layers import NaiveSyncBatchNorm
from omegaconf import DictConfig, OmegaConf
from paths import CONFIGS
from torch import nn

from panet import load_config, model_zoo
from panet.cli import train
from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.config_device import PORTABLE_SYNC_NORM, fall_back_to_cpu, replace_cuda_only_norms
from panet.engine import LazyTrainer, PANetTrainer
from panet.lazy_config import load_lazy_config
from panet.modeling import PAFPN
from panet.modeling.backbones.timm import TimmBackbone
from panet.prepare import prepare

LAZY = str(CONFIGS / "lazy" / "panet_R50_1x.py")
QUICK = CONFIGS / "quick" / "panet_R18_shapes.yaml"
QUICK_LAZY = CONFIGS / "lazy" / "quick" / "panet_R18_shapes.py"
NODES = ("RESNETS", "FPN", "PAFPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")


def test_one_rule_for_both_kinds() -> None:
    contents = {
        "norm": "SyncBN",
        "conv_norm": "SyncBN",
        "other_norm": "GN",
        "name": "SyncBN",
        "normalize": True,
        "sections": {"FC_NORM": "SyncBN", "deep": {"NORM": "SyncBN", "none_norm": None}},
    }
    expected = {
        **contents,
        "norm": PORTABLE_SYNC_NORM,
        "conv_norm": PORTABLE_SYNC_NORM,
        "sections": {
            "FC_NORM": PORTABLE_SYNC_NORM,
            "deep": {"NORM": PORTABLE_SYNC_NORM, "none_norm": None},
        },
    }
    for cfg in (CfgNode(contents), OmegaConf.create(contents)):
        replace_cuda_only_norms(cfg)
        assert cfg == expected


def test_lists_and_references_of_python_configurations() -> None:
    cfg = OmegaConf.create(
        {"norm": "SyncBN", "same": {"norm": "${norm}"}, "stages": [{"norm": "SyncBN"}, "SyncBN"]}
    )
    replace_cuda_only_norms(cfg)
    assert cfg.same.norm == cfg.stages[0].norm == PORTABLE_SYNC_NORM
    assert cfg.stages[1] == "SyncBN"
    assert OmegaConf.is_interpolation(cfg.same, "norm")


def yaml_with_sync_bn() -> CfgNode:
    cfg = load_config(str(QUICK), ["MODEL.DEVICE", "cpu", "MODEL.ROI_BOX_HEAD.FC_NORM", "SyncBN"])
    for node in NODES:
        cfg.MODEL[node].NORM = "SyncBN"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 1
    return cfg


def norms(model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if hasattr(m, "running_mean")}


def test_both_kinds_give_the_same_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    model = PANetTrainer.build_model(yaml_with_sync_bn())
    cfg = load_lazy_config(str(QUICK_LAZY), ["train.device=cpu"])
    cfg.model.backbone.update(norm="SyncBN", path_norm="SyncBN")
    cfg.model.backbone.bottom_up.stem.norm = cfg.model.backbone.bottom_up.stages.norm = "SyncBN"
    heads = cfg.model.roi_heads
    heads.box_head.update(conv_norm="SyncBN", fc_norm="SyncBN", conv_dims=[128])
    heads.mask_head.conv_norm = "SyncBN"
    python_model = LazyTrainer.build_model(cfg)
    assert heads.mask_head.conv_norm == "SyncBN"  # the configuration is kept
    for network in (model, python_model):
        for name, norm in norms(network).items():
            assert type(norm) is PreciseNaiveSyncBatchNorm, name
            assert norm._stats_mode == "N", name
    assert norms(model).keys() == norms(python_model).keys()
    parts = {"bottom_up", "fpn_lateral2", "path_output", "box_head", "mask_head", "fc_branch"}
    assert all(any(part in name for name in norms(model)) for part in parts)


def test_chosen_norms_are_made_precise_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = yaml_with_sync_bn()
    for node in NODES:
        cfg.MODEL[node].NORM = "naiveSyncBN"
    model = PANetTrainer.build_model(cfg)
    kinds = {type(norm) for norm in norms(model).values()}
    assert kinds == {PreciseNaiveSyncBatchNorm}
    assert norms(model)["backbone.bottom_up.stem.conv1.norm"]._stats_mode == ""
    # In the RoI heads, "SyncBN" is replaced on every device.
    assert norms(model)["roi_heads.box_head.fc2.norm"]._stats_mode == "N"


def test_timm_backbones_of_python_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    cfg = load_lazy_config(str(QUICK_LAZY), ["train.device=cpu"])
    cfg.model.backbone.bottom_up = LazyCall(TimmBackbone)(
        name="resnet18", out_features=["res2", "res3", "res4", "res5"], norm="SyncBN"
    )
    model = LazyTrainer.build_model(cfg)
    assert isinstance(model.backbone, PAFPN)
    found = norms(model.backbone.bottom_up).values()
    assert all(isinstance(norm, NaiveSyncBatchNorm) and norm._stats_mode == "N" for norm in found)
    assert found


@pytest.fixture
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("_no_cuda")
def test_one_warning_without_cuda(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_lazy_config(LAZY)
    assert (cfg.train.device, caplog.text) == ("cuda", "")  # loading only reads
    fall_back_to_cpu(cfg)
    fall_back_to_cpu(cfg)
    assert cfg.train.device == "cpu"
    assert caplog.text.count("CUDA is not available: train.device cuda becomes cpu") == 1
    yaml = load_config()
    prepare(prepare(yaml))
    assert yaml.MODEL.DEVICE == "cpu"
    assert caplog.text.count("CUDA is not available: MODEL.DEVICE cuda becomes cpu") == 1


@pytest.mark.usefixtures("_no_cuda")
def test_the_trainer_of_python_configurations_prepares_a_copy() -> None:
    cfg = load_lazy_config(LAZY)
    prepared = LazyTrainer.prepare(cfg)
    assert isinstance(prepared, DictConfig)
    assert (cfg.train.device, prepared.train.device) == ("cuda", "cpu")
    prepared.train.max_iter = 1
    assert cfg.train.max_iter != 1


@pytest.mark.usefixtures("_no_cuda")
def test_the_model_zoo_and_the_command_prepare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    assert model_zoo.get_config("lazy/panet_R50_1x.py").train.device == "cpu"
    args = train.argparse.Namespace(
        config_file=LAZY, opts=[f"train.output_dir={tmp_path}"], quiet=False, eval_only=True
    )
    monkeypatch.setattr(train, "default_setup", lambda cfg, args: None)
    assert train.setup(args)[1].train.device == "cpu"
