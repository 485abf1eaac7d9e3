"""Proposals from an independently trained RPN, as in the paper (PANet, section 4.1)."""

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
    """Proposal generator that runs a separate, frozen proposal network (PANet, section 4.1).

    Unlike precomputed proposals, these are computed for the actual input of the model, such as
    crops, rescaled images or tiles. The weights of the network are part of the model's weights.
    They are random at first, see :func:`panet.checkpoint.load_independent_rpn`.
    """

    @configurable
    def __init__(self, *, network: ProposalNetwork) -> None:
        """
        Args:
            network: proposal network, which is frozen. It must expect the same image
                normalization as the model.
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
            images: N normalized images, padded to (N, 3, H, W).
            features: unused.
            gt_instances: unused.

        Returns:
            For each image, Instances with "proposal_boxes" and "objectness_logits" in descending
            order of score, at most ``MODEL.RPN.POST_NMS_TOPK_TEST`` of the proposal network's
            config; and an empty dict of losses.
        """
        proposals, _ = self.network.proposal_generator(
            images, self.network.backbone(images.tensor), None
        )
        return proposals, {}


def proposal_network_config(cfg: CfgNode) -> CfgNode:
    """Turn a config into that of its backbone and RPN only, with the same parameter names.

    Args:
        cfg: config of a ``ProposalNetwork`` or a ``GeneralizedRCNN``; it is modified in place.

    Raises:
        UserError: if the model has no RPN.
    """
    if cfg.MODEL.META_ARCHITECTURE not in ("ProposalNetwork", "GeneralizedRCNN"):
        raise UserError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which has no RPN; it "
            "must be 'ProposalNetwork' or 'GeneralizedRCNN'."
        )
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise UserError(
            "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals', which reads proposals and "
            "makes none; use the config of a model with an RPN."
        )
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.LOAD_PROPOSALS = False
    return cfg


def _build_network(cfg: CfgNode) -> nn.Module:
    rpn = cfg.MODEL.INDEPENDENT_RPN
    if not rpn.CONFIG_FILE:
        raise UserError(
            "MODEL.INDEPENDENT_RPN.CONFIG_FILE is empty; set it to the config file of the RPN."
        )
    overrides = ["MODEL.DEVICE", cfg.MODEL.DEVICE, "MODEL.WEIGHTS", rpn.WEIGHTS]
    network_cfg = proposal_network_config(load_config(find_config_file(rpn.CONFIG_FILE), overrides))
    use_timm_normalization(network_cfg)
    for section, key in (("MODEL", "PIXEL_MEAN"), ("MODEL", "PIXEL_STD"), ("INPUT", "FORMAT")):
        rpn_value, value = network_cfg[section][key], cfg[section][key]
        if rpn_value != value:
            raise UserError(
                f"{rpn.CONFIG_FILE} has {section}.{key} {rpn_value}, but this model has {value}; "
                "they must be the same, because the independent RPN reads the model's images."
            )
    return build_model(network_cfg)
