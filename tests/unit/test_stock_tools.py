"""PyTorch's and detectron2's tools take a plain model as they take Mask R-CNN."""

import sys
from collections.abc import Callable
from typing import Any

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.analysis import FlopCountAnalysis, flop_count_operators
from paths import ROOT
from small_models import find_much
from torch import Tensor, nn

from panet import optimize_for_inference
from panet.modeling.build import build_model as build_fast_model

sys.path.append(str(ROOT / "benchmarks"))

from macs import flop_counter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
]

STOCK = [
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
]
MODELS: dict[str, list[Any]] = {
    "stock": STOCK,
    "2fc": [],
    "heavier": ["MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NORM", "GN"],
    "sum": ["MODEL.ADAPTIVE_POOLING.FUSION", "sum"],
    "before the first layer": ["MODEL.ADAPTIVE_POOLING.POSITION", "before"],
    "assigned level": ["MODEL.ADAPTIVE_POOLING.ENABLED", False],
    "batched": ["MODEL.ADAPTIVE_POOLING.BATCHED", True],
    "norms": [
        *("MODEL.PAFPN.NORM", "BN"),
        *("MODEL.ROI_BOX_HEAD.FC_NORM", "BN"),
        *("MODEL.RESNETS.NORM", "FrozenBN"),
    ],
    "class-agnostic masks": ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True],
    "boxes only": ["MODEL.MASK_ON", False],
    "no fc branch": ["MODEL.FC_FUSION.SOURCE", "none"],
    "product": ["MODEL.FC_FUSION.COMBINATION", "product"],
    "mmdetection's pyramid": ["MODEL.BACKBONE.NAME", "build_resnet_mmdet_pafpn_backbone"],
}
every_model = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
on_every_device = pytest.mark.parametrize("device", needs.DEVICES)
# Not the size of the image that a model is traced with.
SIZES = [(96, 128), (64, 96), (97, 65)]


def configured(cfg: CfgNode, options: list[Any]) -> CfgNode:
    cfg.merge_from_list(options)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def batch(height: int, width: int, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.rand(3, height, width, generator=generator) * 255}]


def detect(model: Any, inputs: list[dict[str, Tensor]]) -> list[dict[str, Instances]]:
    return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]


def assert_traced_alike(model: nn.Module) -> None:
    adapter = TracingAdapter(model, batch(96, 128), detect)
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    for seed, size in enumerate(SIZES, start=1):
        image = batch(*size, seed)[0]["image"]
        expected = adapter(image)
        assert len(expected[0]) > 0
        for ours, reference in zip(traced(image), expected, strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@on_every_device
@every_model
def test_traced(tiny_cfg: CfgNode, options: list[Any], device: torch.device) -> None:
    tiny_cfg.MODEL.DEVICE = str(device)
    assert_traced_alike(find_much(build_model(configured(tiny_cfg, options))).eval())


@pytest.mark.parametrize("options", [MODELS["2fc"], MODELS["heavier"]], ids=["2fc", "heavier"])
@pytest.mark.parametrize("optimized", [False, True])
@on_every_device
def test_fast_models_are_traced_too(
    tiny_cfg: CfgNode, options: list[Any], optimized: bool, device: torch.device
) -> None:
    tiny_cfg.MODEL.DEVICE = str(device)
    model = find_much(build_fast_model(configured(tiny_cfg, options))).eval()
    assert_traced_alike(optimize_for_inference(model) if optimized else model)


@on_every_device
@every_model
def test_scripted(tiny_cfg: CfgNode, options: list[Any], device: torch.device) -> None:
    tiny_cfg.MODEL.DEVICE = str(device)
    model = find_much(build_model(configured(tiny_cfg, options))).eval()
    expected = [detect(model, batch(*size))[0]["instances"] for size in SIZES]
    fields = {
        "proposal_boxes": Boxes,
        "objectness_logits": Tensor,
        "pred_boxes": Boxes,
        "scores": Tensor,
        "pred_classes": Tensor,
        "pred_masks": Tensor,
    }
    scripted = scripting_with_instances(model, fields)
    for size, reference in zip(SIZES, expected, strict=True):
        found = detect(scripted, batch(*size))[0]["instances"]
        assert len(reference) > 0
        for name, value in reference.get_fields().items():
            ours = getattr(found, name)
            if isinstance(value, Boxes):
                ours, value = ours.tensor, value.tensor
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4)


@every_model
def test_macs_are_counted(tiny_cfg: CfgNode, options: list[Any]) -> None:
    model = find_much(build_model(configured(tiny_cfg, options))).eval()
    inputs = batch(96, 128)
    with torch.no_grad(), flop_counter() as counter:
        detect(model, inputs)
    layers = FlopCountAnalysis(model, inputs).by_operator()
    counted = sum(layers[name] for name in ("conv", "linear", "matmul", "bmm", "einsum"))
    assert counted == counter.get_total_flops() / 2
    assert flop_count_operators(model, inputs)["linear"] == layers["linear"] / 1e9


@pytest.mark.parametrize("build", [build_model, build_fast_model])
def test_computes_by_the_parameters_that_it_is_given(
    tiny_cfg: CfgNode, build: Callable[[CfgNode], nn.Module]
) -> None:
    cfg = configured(tiny_cfg, [])
    model, other = find_much(build(cfg)).eval(), find_much(build_model(cfg)).eval()
    with torch.no_grad():
        (expected,) = other(batch(96, 128))
        (found,) = torch.func.functional_call(model, other.state_dict(), (batch(96, 128),))
    scores = expected["instances"].scores
    assert len(scores) > 0
    torch.testing.assert_close(found["instances"].scores, scores, rtol=1e-4, atol=1e-4)
