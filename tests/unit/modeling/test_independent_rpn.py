"""Proposals of a network that was trained on its own."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import ProposalNetwork
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from small_models import find_much
from torch import nn

from panet.checkpoint import load_independent_rpn
from panet.modeling.build import build_model
from panet.modeling.independent_rpn import proposal_network_config
from panet.utils.errors import UserError


@pytest.fixture
def rpn(tiny_cfg: CfgNode, tmp_path: Path) -> ProposalNetwork:
    """A network with the configuration and the weights that ``cfg`` names."""
    cfg = tiny_cfg.clone()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 7
    (tmp_path / "rpn.yaml").write_text(cfg.dump())
    network = ProposalNetwork(proposal_network_config(cfg)).eval()
    nn.init.normal_(network.proposal_generator.rpn_head.anchor_deltas.weight, std=0.05)
    torch.save({"model": network.state_dict()}, tmp_path / "rpn.pth")
    return network


@pytest.fixture
def cfg(tiny_cfg: CfgNode, tmp_path: Path) -> CfgNode:
    """Of a model that reads the proposals of the network ``rpn``."""
    tiny_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "IndependentRPN"
    tiny_cfg.MODEL.INDEPENDENT_RPN.CONFIG_FILE = str(tmp_path / "rpn.yaml")
    tiny_cfg.MODEL.INDEPENDENT_RPN.WEIGHTS = str(tmp_path / "rpn.pth")
    return tiny_cfg


def build(cfg: CfgNode) -> nn.Module:
    model = build_model(cfg)
    load_independent_rpn(cfg, model)
    return model


def image() -> dict[str, torch.Tensor]:
    return {"image": torch.randint(256, (3, 96, 96), dtype=torch.uint8)}


def training_image() -> dict[str, object]:
    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 70.0]]))
    instances.gt_classes = torch.tensor([1])
    return {**image(), "instances": instances}


def test_proposals_are_the_networks(rpn: ProposalNetwork, cfg: CfgNode) -> None:
    model = build(cfg).eval()
    x = [image(), image()]
    images = model.preprocess_image(x)
    proposals, losses = model.proposal_generator(images, model.backbone(images.tensor))
    assert losses == {}
    for found, expected in zip(proposals, rpn(x), strict=True):
        assert len(found) == 7
        expected = expected["proposals"]
        torch.testing.assert_close(found.proposal_boxes.tensor, expected.proposal_boxes.tensor)
        torch.testing.assert_close(found.objectness_logits, expected.objectness_logits)


@pytest.mark.usefixtures("rpn")
def test_only_the_heads_and_their_backbone_train(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_ON = False
    model = build(cfg).train()
    with EventStorage():
        losses = model([training_image()])
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    network = model.proposal_generator.network
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(
        parameter.grad is not None
        for name, parameter in model.named_parameters()
        if not name.startswith("proposal_generator.") and parameter.requires_grad
    )


@pytest.mark.usefixtures("rpn")
def test_a_trained_model_holds_the_network(cfg: CfgNode) -> None:
    model = find_much(build(cfg)).eval()
    cfg.MODEL.INDEPENDENT_RPN.WEIGHTS = ""
    again = build(cfg).eval()
    again.load_state_dict(model.state_dict())
    x = [image()]
    expected, found = model(x)[0]["instances"], again(x)[0]["instances"]
    assert len(expected) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_the_network_must_be_named(cfg: CfgNode) -> None:
    cfg.MODEL.INDEPENDENT_RPN.CONFIG_FILE = ""
    with pytest.raises(UserError, match="CONFIG_FILE is empty; set it to the config file"):
        build(cfg)


@pytest.mark.usefixtures("rpn")
def test_images_must_be_normalized_alike(cfg: CfgNode) -> None:
    cfg.MODEL.PIXEL_MEAN = [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=r"rpn.yaml has MODEL.PIXEL_MEAN .*must be the same"):
        build(cfg)


def test_weights_must_be_the_networks(rpn: ProposalNetwork, cfg: CfgNode) -> None:
    state = rpn.state_dict()
    name, _ = state.popitem()
    torch.save({"model": state}, cfg.MODEL.INDEPENDENT_RPN.WEIGHTS)
    with pytest.raises(UserError, match=rf"rpn.pth has no weights, .*such as {re.escape(name)}"):
        build(cfg)
    Path(cfg.MODEL.INDEPENDENT_RPN.WEIGHTS).unlink()
    with pytest.raises(
        UserError, match="rpn.pth; set MODEL.INDEPENDENT_RPN.WEIGHTS to an existing file"
    ):
        build(cfg)
