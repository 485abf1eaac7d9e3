"""The optimized model against the one that it is a copy of."""

import copy
from typing import Any
from unittest import mock

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.structures import Instances
from torch import nn

from panet import optimize_for_inference
from panet.deployment import optimize as deployment
from panet.engine import PANetTrainer
from panet.modeling.build import lay_out
from panet.modeling.cpu import fused
from panet.modeling.cpu.first_layers import FastFullyConnected
from panet.modeling.cpu.layers import FrozenNormConv2d
from panet.utils.errors import UserError

SIZES = [(64, 96), (97, 65), (31, 130)]


def randomize(module: nn.Module) -> None:
    """Statistics of the norms, and detections of every class."""
    for submodule in module.modules():
        if hasattr(submodule, "running_var"):
            nn.init.uniform_(submodule.running_mean, -0.5, 0.5)
            nn.init.uniform_(submodule.running_var, 0.5, 2.0)
            nn.init.uniform_(submodule.weight, 0.5, 1.5)
    for name in ("cls_score", "bbox_pred"):
        layer = getattr(getattr(module.roi_heads, "box_predictor", None), name, None)
        if layer is not None:
            nn.init.normal_(layer.weight, std=0.05)
    if hasattr(module.roi_heads, "mask_head"):
        nn.init.normal_(module.roi_heads.mask_head.predictor.weight, std=0.1)


def build(cfg: CfgNode) -> nn.Module:
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg).eval()
    randomize(model)
    return model


def detect(model: nn.Module, size: tuple[int, int]) -> Instances:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(3)) * 255
    with torch.no_grad():
        return model([{"image": image, "height": 2 * size[0], "width": size[1]}])[0]["instances"]


def assert_same(ours: Instances, expected: Instances) -> None:
    assert len(ours) == len(expected) > 0
    assert torch.equal(ours.pred_classes, expected.pred_classes)
    torch.testing.assert_close(
        ours.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(ours.scores, expected.scores, rtol=1e-4, atol=1e-4)
    if expected.has("pred_masks"):
        # A probability near one half may fall on either side.
        assert (ours.pred_masks != expected.pred_masks).float().mean() < 1e-3


MODELS = {
    "quick": [],
    "frozen norms": ["MODEL.RESNETS.NORM", "FrozenBN"],
    "heavier head": ["MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NORM", "GN"],
    "no norms in the heads": ["MODEL.ROI_MASK_HEAD.NORM", "", "MODEL.FPN.NORM", ""],
    "path with batch norms": ["MODEL.PAFPN.NORM", "BN"],
    "fc layers with batch norms": ["MODEL.ROI_BOX_HEAD.FC_NORM", "BN"],
    "fc layers with group norms": [
        *("MODEL.ROI_BOX_HEAD.FC_NORM", "GN"),
        *("MODEL.ROI_BOX_HEAD.FC_DIM", 256),  # 8 in each group
    ],
    "sum": ["MODEL.ADAPTIVE_POOLING.FUSION", "sum"],
    "assigned level": ["MODEL.ADAPTIVE_POOLING.ENABLED", False],
    "boxes only": ["MODEL.MASK_ON", False],
    "class-agnostic masks": ["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True],
    "stock heads": [
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    ],
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_same_outputs_in_single_precision(tiny_cfg: CfgNode, options: list[Any]) -> None:
    tiny_cfg.merge_from_list(options)
    model = build(tiny_cfg)
    optimized = optimize_for_inference(model)
    assert type(optimized) is type(model)
    for size in SIZES:
        assert_same(detect(optimized, size), detect(model, size))


@pytest.mark.parametrize("kind", ["frozen norms", "heavier head", "fc layers with batch norms"])
def test_same_outputs_of_what_trains_fast(tiny_cfg: CfgNode, kind: str) -> None:
    tiny_cfg.merge_from_list(MODELS[kind])
    model = build(tiny_cfg)
    optimized = optimize_for_inference(lay_out(copy.deepcopy(model), channels_last=True))
    kinds = {type(module) for module in optimized.modules()}
    assert not kinds & {FrozenNormConv2d, FastFullyConnected}
    for size in SIZES:
        assert_same(detect(optimized, size), detect(model, size))


@needs.BFLOAT16
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_bfloat16_rounds_the_layers_only(tiny_cfg: CfgNode, options: list[Any]) -> None:
    tiny_cfg.merge_from_list(options)
    model = build(tiny_cfg)
    optimized = optimize_for_inference(model, torch.bfloat16)
    assert optimized.backbone.bottom_up.stem.conv1.weight.dtype == torch.bfloat16
    assert optimized.roi_heads.box_predictor.cls_score.weight.dtype == torch.float32
    ours, expected = detect(optimized, SIZES[0]), detect(model, SIZES[0])
    assert ours.scores.dtype == ours.pred_boxes.tensor.dtype == torch.float32
    assert ours.scores[0] == pytest.approx(expected.scores[0].item(), abs=0.05)
    assert torch.unique(ours.scores).numel() > len(ours) / 2  # not rounded themselves


def test_batch_norms_are_gone_and_weights_channels_last(tiny_cfg: CfgNode) -> None:
    optimized = optimize_for_inference(build(tiny_cfg))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in optimized.modules())
    weights = [p for p in optimized.parameters() if p.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert not any(p.requires_grad for p in optimized.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_itself_stays_as_it_is(tiny_cfg: CfgNode, dtype: torch.dtype) -> None:
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    model = build(tiny_cfg).train()
    state = copy.deepcopy(model.state_dict())
    before = detect(model.eval(), SIZES[0])
    detect(optimize_for_inference(model.train(), dtype), SIZES[0])
    assert model.training
    assert all(p.requires_grad for p in model.roi_heads.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert_same(detect(model.eval(), SIZES[0]), before)


def test_retinanet(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    tiny_cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_pafpn_backbone"
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    tiny_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    tiny_cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    model = build_model(tiny_cfg).eval()
    nn.init.normal_(model.head.cls_score.weight, std=0.1)
    scores = detect(model, SIZES[0]).scores
    optimized, rounded = (
        optimize_for_inference(model, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    torch.testing.assert_close(detect(optimized, SIZES[0]).scores, scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(detect(rounded, SIZES[0]).scores, scores, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs.BFLOAT16)]
)
@pytest.mark.slow
def test_compiled(tiny_cfg: CfgNode, dtype: torch.dtype) -> None:
    model = build(tiny_cfg)
    optimized = optimize_for_inference(model, dtype, compile=True)
    # The compiler itself is PyTorch's; what it is given must be one graph for all sizes.
    torch.compiler.reset()
    with mock.patch.object(optimized.backbone, "_compiled_call_impl", None):
        optimized.backbone.compile(dynamic=True, fullgraph=True, backend="eager")
        ours = [detect(optimized, size) for size in SIZES]
    reference = optimize_for_inference(model, dtype)
    # The compiler is not given oneDNN's fused operations, which round sums once.
    with mock.patch.object(fused, "can_fuse", return_value=False):
        expected = [detect(reference, size) for size in SIZES]
    for instances, reference_instances in zip(ours, expected, strict=True):
        assert_same(instances, reference_instances)


def test_with_the_default_predictor(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.WEIGHTS = ""
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(tiny_cfg)
    image = torch.randint(256, (90, 120, 3), dtype=torch.uint8).numpy()
    expected = predictor(image)["instances"]
    predictor.model = optimize_for_inference(predictor.model)
    assert_same(predictor(image)["instances"], expected)


def test_under_test_time_augmentation(tiny_cfg: CfgNode) -> None:
    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    model = GeneralizedRCNNWithTTA(tiny_cfg, optimize_for_inference(build(tiny_cfg)))
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        instances = model([{"image": image, "height": 64, "width": 96}])[0]["instances"]
    assert len(instances) > 0


def test_the_trainer_tests_what_the_configuration_asks_for(tiny_cfg: CfgNode) -> None:
    tiny_cfg.TEST.OPTIMIZE.ENABLED = True
    tiny_cfg.TEST.OPTIMIZE.DTYPE = "bfloat16"
    model = build(tiny_cfg)
    with mock.patch.object(
        deployment, "optimize_for_inference", wraps=optimize_for_inference
    ) as optimize:
        results = PANetTrainer.test(tiny_cfg, model)
    assert optimize.call_args.args[1:] == (torch.bfloat16, False)
    assert "segm" in results


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.int8, "dtype is 'int8'.*'bfloat16'"),
        (torch.float16, "dtype is float16, which needs CUDA"),
    ],
)
def test_other_precisions_are_refused(tiny_cfg: CfgNode, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UserError, match=message):
        optimize_for_inference(build_model(tiny_cfg), dtype)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [("half", "is 'half'.*'bfloat16'"), ("float16", "is float16, which needs CUDA")],
)
def test_wrong_precisions_in_the_configuration_are_refused(
    tiny_cfg: CfgNode, dtype: str, message: str
) -> None:
    tiny_cfg.TEST.OPTIMIZE.ENABLED = True
    tiny_cfg.TEST.OPTIMIZE.DTYPE = dtype
    with pytest.raises(UserError, match=rf"TEST\.OPTIMIZE\.DTYPE {message}"):
        deployment.optimize_from_config(build_model(tiny_cfg), tiny_cfg)
