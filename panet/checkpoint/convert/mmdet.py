"""Checkpoints of mmdetection's two-stage detectors with a PAFPN neck."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from panet.checkpoint.torchvision_resnet import bottleneck_depth, resnet_modules

from .source import Source, Tensors, has_module, model_options, refuse, to_options


def _pyramid() -> dict[str, str]:
    table = {}
    for i in range(4):
        table[f"neck.lateral_convs.{i}.conv"] = f"backbone.fpn_lateral{i + 2}"
        table[f"neck.fpn_convs.{i}.conv"] = f"backbone.fpn_output{i + 2}"
    for i in range(3):
        table[f"neck.downsample_convs.{i}.conv"] = f"backbone.path_downsample.p{i + 2}"
        table[f"neck.pafpn_convs.{i}.conv"] = f"backbone.path_output.p{i + 3}"
    return table


def _heads() -> dict[str, str]:
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    table = {
        "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
        "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
        "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
        f"{box}.shared_fcs.0": "roi_heads.box_head.fc1",
        f"{box}.shared_fcs.1": "roi_heads.box_head.fc2",
        f"{box}.fc_cls": "roi_heads.box_predictor.cls_score",
        f"{box}.fc_reg": "roi_heads.box_predictor.bbox_pred",
        f"{mask}.upsample": "roi_heads.mask_head.deconv",
        f"{mask}.conv_logits": "roi_heads.mask_head.predictor",
    }
    for i in range(4):
        table[f"{mask}.convs.{i}.conv"] = f"roi_heads.mask_head.mask_fcn{i + 1}"
    return table


def _recognize(tensors: Mapping[str, Tensor]) -> tuple[str, list[str]]:
    has = partial(has_module, tensors)
    defects = {
        "no modules named backbone and neck, as mmdetection's detectors have": not (
            has("backbone") and has("neck")
        ),
        "a neck without neck.downsample_convs: it is a plain FPN, not PAFPN": not has(
            "neck.downsample_convs"
        ),
        "norms in its neck, which the published model does not have": any(
            name.startswith("neck.") and name.endswith("running_mean") for name in tensors
        ),
        "heads in the format of mmdetection 1.x; convert it to 2.0 with that project's "
        "upgrade_model_version.py first": has("bbox_head") and not has("roi_head.bbox_head"),
        "no box head with two shared fc layers (roi_head.bbox_head.shared_fcs)": not has(
            "roi_head.bbox_head.shared_fcs.1"
        ),
    }
    refuse(defects)
    options: list[str] = []
    if has("roi_head.mask_head"):
        mask_head = {"NAME": "MaskRCNNConvUpsampleHead", "NORM": "''", "POOLER_SAMPLING_RATIO": "0"}
        options = ["MODEL.MASK_ON", "True", *to_options("MODEL.ROI_MASK_HEAD", mask_head)]
    options += model_options(
        bottleneck_depth(tensors, "backbone.layer3."),
        tensors.get("roi_head.bbox_head.fc_cls.bias"),
        tensors.get("roi_head.bbox_head.fc_reg.bias"),
        agnostic_rows=4,
    )
    return "pafpn/faster_rcnn_R50_PAFPN_1x.yaml", options


def _adapt(state: Tensors) -> dict[str, str]:
    """Drop the batch counters of batch norms, which frozen norms do not have."""
    counters = [name for name in state if name.endswith(".num_batches_tracked")]
    for name in counters:
        del state[name]
    return dict.fromkeys(counters, "frozen norms have no batch counter")


MMDET = Source(
    name="mmdet",
    network=("backbone.", "neck.", "rpn_head.", "roi_head."),
    modules=resnet_modules("backbone.") | _pyramid() | _heads(),
    recognize=_recognize,
    adapt=_adapt,
)
