"""Checkpoints of the PANet authors' PyTorch release, based on Detectron.pytorch."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from panet.checkpoint.torchvision_resnet import STAGES, bottleneck_depth, resnet_modules

from .source import Source, Tensors, has_module, model_options, refuse, to_options

_BODY = "Conv_Body.conv_body."
# Of FrozenBatchNorm2d. A variance of 1 minus this value makes the norm a plain affine layer.
_EPSILON = 1e-5


def _conv_and_norm(source: str, target: str) -> dict[str, str]:
    """Map a conv or fc layer and its norm, the first two modules of an ``nn.Sequential``."""
    return {f"{source}.0": target, f"{source}.1": f"{target}.norm"}


def _pyramid() -> dict[str, str]:
    table = _conv_and_norm("Conv_Body.conv_top", "backbone.fpn_lateral5")
    # The lists of FPN are ordered from coarse to fine, those of the bottom-up path from fine to
    # coarse.
    for i in range(3):
        lateral = f"Conv_Body.topdown_lateral_modules.{i}.conv_lateral"
        table |= _conv_and_norm(lateral, f"backbone.fpn_lateral{4 - i}")
        downsample = f"Conv_Body.panet_buttomup_conv1_modules.{i}"
        table |= _conv_and_norm(downsample, f"backbone.path_downsample.p{2 + i}")
        output = f"Conv_Body.panet_buttomup_conv2_modules.{i}"
        table |= _conv_and_norm(output, f"backbone.path_output.p{3 + i}")
    for i in range(4):
        table |= _conv_and_norm(f"Conv_Body.posthoc_modules.{i}", f"backbone.fpn_output{5 - i}")
    return table


def _heads() -> dict[str, str]:
    box, mask = "roi_heads.box_head", "roi_heads.mask_head"
    table = {
        "RPN.FPN_RPN_conv": "proposal_generator.rpn_head.conv",
        "RPN.FPN_RPN_cls_score": "proposal_generator.rpn_head.objectness_logits",
        "RPN.FPN_RPN_bbox_pred": "proposal_generator.rpn_head.anchor_deltas",
        "Box_Head.fc": f"{box}.fc1",
        "Box_Outs.cls_score": "roi_heads.box_predictor.cls_score",
        "Box_Outs.bbox_pred": "roi_heads.box_predictor.bbox_pred",
        "Mask_Head.mask_fc.0": f"{mask}.fc_branch.fc",
        "Mask_Head.upconv": f"{mask}.deconv",
        "Mask_Outs.classify": f"{mask}.predictor",
    }
    for level in range(4):  # from fine to coarse
        table |= _conv_and_norm(f"Box_Head.conv1_head.{level}", f"{box}.conv1.levels.{level}")
        table |= _conv_and_norm(f"Box_Head.fc1.{level}", f"{box}.fc1.levels.{level}")
        table |= _conv_and_norm(f"Mask_Head.mask_conv1.{level}", f"{mask}.mask_fcn1.levels.{level}")
    # Sequences of convolution, norm and ReLU.
    for i in range(3):
        table[f"Box_Head.convs.{3 * i}"] = f"{box}.conv{i + 2}"
        table[f"Box_Head.convs.{3 * i + 1}"] = f"{box}.conv{i + 2}.norm"
    for i in range(2):
        table[f"Mask_Head.conv_fcn.{3 * i}"] = f"{mask}.mask_fcn{i + 2}"
        table[f"Mask_Head.conv_fcn.{3 * i + 1}"] = f"{mask}.mask_fcn{i + 2}.norm"
    table |= _conv_and_norm("Box_Head.fc2", f"{box}.fc2")
    table |= _conv_and_norm("Mask_Head.mask_conv4", f"{mask}.mask_fcn4")
    table |= _conv_and_norm("Mask_Head.mask_conv4_fc", f"{mask}.fc_branch.conv4_fc")
    table |= _conv_and_norm("Mask_Head.mask_conv5_fc", f"{mask}.fc_branch.conv5_fc")
    return table


def _recognize(tensors: Mapping[str, Tensor]) -> tuple[str, list[str]]:
    has = partial(has_module, tensors)
    defects = {
        "no backbone under Conv_Body.conv_body, as the authors' release has": not has(_BODY[:-1]),
        "no bottom-up path (Conv_Body.panet_buttomup_conv1_modules): it is a plain FPN": not has(
            "Conv_Body.panet_buttomup_conv1_modules"
        ),
        "no group norm in its pyramid, which the published models have": not has(
            "Conv_Body.conv_top.1"
        ),
        "a keypoint head, which this project does not support": has("Keypoint_Head"),
        "no box head that pools from all levels (Box_Head.conv1_head or Box_Head.fc1.0)": not (
            has("Box_Head.conv1_head") or has("Box_Head.fc1.0")
        ),
        "a mask head that is not the release's with adaptive pooling and fully-connected fusion": (
            has("Mask_Head") and not (has("Mask_Head.mask_conv1") and has("Mask_Head.mask_fc"))
        ),
    }
    refuse(defects)
    fully_connected = has("Box_Head.fc1.0")
    options: list[str] = []
    if has("Mask_Head"):
        config = "official/e2e_panet_R-50-FPN_2x_mask.yaml"
        if fully_connected:
            box_head = {"NUM_CONV": "0", "NUM_FC": "2", "NORM": "''", "FC_NORM": "GN"}
            options = to_options("MODEL.ROI_BOX_HEAD", box_head)
    elif fully_connected:
        config = "official/e2e_panet_R-50-FPN_1x_det_2fc.yaml"
    else:
        config = "official/e2e_panet_R-50-FPN_1x_det.yaml"
    options += model_options(
        bottleneck_depth(tensors, f"{_BODY}res4."),
        tensors.get("Box_Outs.cls_score.bias"),
        tensors.get("Box_Outs.bbox_pred.bias"),
        agnostic_rows=8,  # foreground and background
    )
    return config, options


def _adapt(state: Tensors) -> dict[str, str]:
    """Move the background class from first to last and turn affine layers into frozen norms."""
    dropped = {}
    for parameter in ("weight", "bias"):
        scores = f"roi_heads.box_predictor.cls_score.{parameter}"
        if scores in state:
            state[scores] = torch.cat([state[scores][1:], state[scores][:1]])
        for layer, rows in (
            ("roi_heads.box_predictor.bbox_pred", 4),
            ("roi_heads.mask_head.predictor", 1),
        ):
            name = f"{layer}.{parameter}"
            if name in state:
                state[name] = state[name][rows:]
                dropped[name] = f"its first {rows} row(s), those of the background"
    for name in [n for n in state if n.startswith("backbone.bottom_up.")]:
        if name.endswith(".norm.weight"):
            prefix = name.removesuffix("weight")
            state[f"{prefix}running_mean"] = torch.zeros_like(state[name])
            state[f"{prefix}running_var"] = torch.full_like(state[name], 1 - _EPSILON)
    return dropped


PANET_PYTORCH = Source(
    name="panet-pytorch",
    network=("Conv_Body.", "RPN.", "Box_Head.", "Box_Outs.", "Mask_Head.", "Mask_Outs."),
    modules=resnet_modules(_BODY, stem="res1.", stages=STAGES) | _pyramid() | _heads(),
    recognize=_recognize,
    adapt=_adapt,
)
