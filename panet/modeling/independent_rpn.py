"""Proposals of an RPN that was trained on its own, as the paper's were (section 4.1)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ProposalNetwork
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from panet.config import load_config
from panet.config_files import find_config_file
from panet.utils.errors import UserError

from .backbones.timm import use_timm_normalization
from .build import build_model


@PROPOSAL_GENERATOR_REGISTRY.register()
class IndependentRPN(nn.Module):
    """Proposals of another network, which is not trained and sees the images by itself.

    Unlike proposals from files, they are made for what the model sees, be it crops, scales or
    windows. The network's weights become part of the model's; to begin with, they are random, see
    :func:`panet.checkpoint.load_independent_rpn`.
    """

    @configurable
    def __init__(self, *, network: ProposalNetwork) -> None:
        """
        Args:
            network: trained, for images that are normalized as the model's are.
        """
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {"network": _build_network(cfg)}

    def train(self, mode: bool = True) -> "IndependentRPN":
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: normalized, N of (3, H, W) at most.
            features: of the model itself; they do not matter.
            gt_instances: they do not matter either.

        Returns:
            For each of the N images its "proposal_boxes" and "objectness_logits", the best first,
            ``MODEL.RPN.POST_NMS_TOPK_TEST`` of the network at most; no losses.
        """
        own_features = self.network.backbone(images.tensor)
        proposals, _ = self.network.proposal_generator(images, own_features, None)
        return proposals, {}


def proposal_network_config(cfg: CfgNode) -> CfgNode:
    """The configuration of the RPN alone, which has the parameter names of the whole.

    Args:
        cfg: of a ``ProposalNetwork`` or of an R-CNN; it is changed.

    Raises:
        UserError: if it has no RPN of its own.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ("ProposalNetwork", "GeneralizedRCNN"):
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which has no RPN; it "
            "must be 'ProposalNetwork' or 'GeneralizedRCNN'."
        )
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise UserError(
            "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals': this model reads proposals "
            "and makes none; take the configuration of one with an RPN."
        )
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.LOAD_PROPOSALS = False
    return cfg


def _build_network(cfg: CfgNode) -> nn.Module:
    own = cfg.MODEL.INDEPENDENT_RPN
    if not own.CONFIG_FILE:
        raise UserError(
            "MODEL.INDEPENDENT_RPN.CONFIG_FILE is empty; give the configuration of the RPN."
        )
    overrides = ["MODEL.DEVICE", cfg.MODEL.DEVICE, "MODEL.WEIGHTS", own.WEIGHTS]
    network_cfg = proposal_network_config(load_config(find_config_file(own.CONFIG_FILE), overrides))
    use_timm_normalization(network_cfg)
    for section, key in (("MODEL", "PIXEL_MEAN"), ("MODEL", "PIXEL_STD"), ("INPUT", "FORMAT")):
        theirs, ours = network_cfg[section][key], cfg[section][key]
        if theirs != ours:
            raise UserError(
                f"{own.CONFIG_FILE} has {section}.{key} {theirs}, and this model {ours}; an "
                "independent RPN sees the model's images, so they must be the same."
            )
    return build_model(network_cfg)
