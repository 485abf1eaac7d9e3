"""Replacing modules, alone and in whole models that are laid out."""

import copy
import pickle
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from detectron2.modeling import build_model as build_plain_model
from detectron2.utils.events import EventStorage
from small_batches import image
from small_models import find_much
from torch import nn

from panet.modeling import PANetBoxHead, PANetMaskHead
from panet.modeling.build import build_model, lay_out
from panet.modeling.cpu.first_layers import FastFullyConnected
from panet.modeling.cpu.group_norm import ContiguousGroupNorm
from panet.modeling.cpu.layers import FastConv2d, FrozenNormConv2d
from panet.modeling.pooler import FastAllLevelPooler
from panet.utils.modules import replace_modules, share_state


class Network(nn.Module):
    """One layer under two names, others in plain lists too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.shared = self.first
        self.inner = nn.Sequential(nn.ReLU(), nn.Sequential(self.second))
        self.in_list = [self.first, "not a module", self.second]
        self.in_tuple = (self.second, None)


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def double(module: nn.Module) -> nn.Module | None:
    if type(module) is not nn.Linear:
        return None
    return share_state(Doubling(module.in_features, module.out_features), module)


def test_a_module_is_replaced_wherever_it_stands() -> None:
    network = Network()
    names = list(network.state_dict())
    parameters = list(network.parameters())
    assert replace_modules(network, double) is network
    assert type(network.first) is type(network.second) is Doubling
    assert network.shared is network.first
    assert network.inner[1][0] is network.second
    assert network.in_list == [network.first, "not a module", network.second]
    assert network.in_tuple == (network.second, None)
    assert list(network.state_dict()) == names
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))


def test_hooks_and_mode_are_taken_over() -> None:
    layer = nn.Linear(2, 2).eval()
    layer.weight.requires_grad_(False)
    calls: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_: calls.append("after")),
        layer.register_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    layer.register_state_dict_post_hook(lambda *_: calls.append("state"))
    doubling = replace_modules(layer, double)
    assert type(doubling) is Doubling
    assert not doubling.training
    assert not doubling.weight.requires_grad
    doubling(torch.zeros(2))
    assert calls == ["before", "after"]
    for handle in handles:
        handle.remove()
    doubling(torch.zeros(2))
    doubling.state_dict()
    assert calls == ["before", "after", "state"]


def test_children_are_replaced_before_their_parents() -> None:
    seen: list[list[type[nn.Module]]] = []

    def build(module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Sequential):
            seen.append([type(child) for child in module])
            return nn.Sequential(*module, nn.Identity())
        return double(module)

    network = replace_modules(Network(), build)
    assert seen == [[Doubling], [nn.ReLU, nn.Sequential]]
    assert [type(m) for m in network.inner] == [nn.ReLU, nn.Sequential, nn.Identity]
    assert [type(m) for m in network.inner[1]] == [Doubling, nn.Identity]
    assert network.in_tuple[0] is network.inner[1][0] is network.second


MODELS = {
    "quick": [],
    "frozen norms": ["MODEL.RESNETS.NORM", "FrozenBN"],
    "heavier head": ["MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NORM", "GN"],
    "norms of fc layers": ["MODEL.ROI_BOX_HEAD.FC_NORM", "BN"],
    "deformable": [
        *("MODEL.RESNETS.DEPTH", 50),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]),
    ],
    "stock": [
        *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    ],
}
every_model = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)


def models(cfg: CfgNode, options: list[Any]) -> tuple[nn.Module, nn.Module]:
    """A plain model, and a copy of it that is laid out."""
    cfg.merge_from_list(options)
    plain = find_much(build_plain_model(cfg))
    return plain, lay_out(copy.deepcopy(plain), channels_last=True)


@every_model
def test_names_order_and_loading_of_states_stay(tiny_cfg: CfgNode, options: list[Any]) -> None:
    plain, fast = models(tiny_cfg, options)
    state = plain.state_dict()
    assert list(fast.state_dict()) == list(state)
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in plain.named_parameters()]
    trained = [n for n, p in plain.named_parameters() if p.requires_grad]
    assert [n for n, p in fast.named_parameters() if p.requires_grad] == trained
    for parameter in fast.parameters():
        nn.init.zeros_(parameter)
    fast.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in fast.state_dict().items())


@every_model
def test_states_show_parameters_as_they_are(tiny_cfg: CfgNode, options: list[Any]) -> None:
    for model in models(tiny_cfg, options):
        state = model.state_dict()
        for name, parameter in model.named_parameters():
            assert state[name].shape == parameter.shape
            assert state[name].data_ptr() == parameter.data_ptr()


@every_model
def test_plain_lists_hold_what_is_registered(tiny_cfg: CfgNode, options: list[Any]) -> None:
    model = models(tiny_cfg, options)[1]
    registered = set(model.modules())
    listed = [
        (name, item)
        for module in registered
        for name, value in vars(module).items()
        if isinstance(value, list | tuple)
        for item in value
        if isinstance(item, nn.Module)
    ]
    assert {"lateral_convs", "output_convs", "stages", "fcs"} <= {name for name, _ in listed}
    assert all(item in registered for _, item in listed)


@every_model
def test_trains_and_detects_as_the_plain_model(tiny_cfg: CfgNode, options: list[Any]) -> None:
    plain, fast = models(tiny_cfg, options)
    batch = [{"image": image(0)["image"]}]
    with torch.no_grad():
        found, expected = (model.eval()(batch)[0]["instances"] for model in (fast, plain))
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    tiny_cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    for model in (fast, plain):
        torch.manual_seed(0)
        with EventStorage():
            sum(model.train()([image(0), image(1)]).values()).backward()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name


def test_every_layer_that_has_a_fast_form_is_replaced(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.RESNETS.NORM = "FrozenBN"
    tiny_cfg.MODEL.ROI_MASK_HEAD.NORM = "GN"
    model = lay_out(build_plain_model(tiny_cfg), channels_last=True)
    assert type(model.backbone.bottom_up.stem.conv1) is FrozenNormConv2d
    assert type(model.backbone.lateral_convs[0]) is type(model.backbone.fpn_output2) is FastConv2d
    assert not any(type(m) in (Conv2d, nn.GroupNorm) for m in model.modules())
    assert any(type(m) is ContiguousGroupNorm for m in model.modules())
    heads = model.roi_heads
    assert type(heads.box_pooler) is type(heads.mask_pooler) is FastAllLevelPooler
    layers = [*heads.box_head.fc1.levels, heads.mask_head.fc_branch.fc]
    assert all(type(layer) is FastFullyConnected for layer in layers)
    assert heads.box_head.rois_at_a_time == 256
    assert heads.mask_head.rois_at_a_time == 16


def test_maps_that_are_not_channels_last_keep_their_convolutions(tiny_cfg: CfgNode) -> None:
    model = lay_out(build_plain_model(tiny_cfg), channels_last=False)
    assert not any(isinstance(m, FastConv2d | ContiguousGroupNorm) for m in model.modules())
    assert type(model.roi_heads.box_pooler) is FastAllLevelPooler


def test_a_plain_model_has_none_of_it(tiny_cfg: CfgNode) -> None:
    model = build_plain_model(tiny_cfg)
    assert not any(".cpu." in type(m).__module__ for m in model.modules())
    heads = [m for m in model.modules() if isinstance(m, PANetBoxHead | PANetMaskHead)]
    assert [head.rois_at_a_time for head in heads] == [None, None]


def test_laying_out_takes_no_random_numbers_and_may_be_repeated(tiny_cfg: CfgNode) -> None:
    model = build_plain_model(tiny_cfg)
    state = torch.get_rng_state()
    lay_out(model, channels_last=True)
    assert torch.equal(torch.get_rng_state(), state)
    kinds = {name: type(module) for name, module in model.named_modules()}
    lay_out(model, channels_last=True)
    assert {name: type(module) for name, module in model.named_modules()} == kinds


def test_is_copied_and_pickled(tiny_cfg: CfgNode) -> None:
    model = find_much(build_model(tiny_cfg)).eval()
    batch = [{"image": image(0)["image"]}]
    with torch.no_grad():
        expected = model(batch)[0]["instances"].scores
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(batch)[0]["instances"].scores, expected)
            assert copied.backbone.lateral_convs[-1] is copied.backbone.fpn_lateral2
