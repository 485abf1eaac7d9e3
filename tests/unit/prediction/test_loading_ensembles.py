"""Ensembles of files, on arrays and on a dataset."""

from collections.abc import Sequence
from pathlib import Path

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from small_models import SmallModel, write_model

from panet.data.shapes import draw_image
from panet.deployment import load_trained_model
from panet.engine import PANetTrainer
from panet.evaluation.tta import RCNNEnsemble
from panet.prediction import Predictor
from panet.utils.errors import UserError

CLASSES = ("disk", "square", "triangle", "star")
IMAGE = draw_image(7, 0)[0]


@pytest.fixture
def pair(tiny_cfg: CfgNode, tmp_path: Path) -> tuple[SmallModel, SmallModel]:
    """Two models of different configurations."""
    first = write_model(tiny_cfg, tmp_path / "first", CLASSES, seed=3)
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    tiny_cfg.MODEL.ADAPTIVE_POOLING.ENABLED = False
    tiny_cfg.INPUT.FORMAT = "RGB"
    return first, write_model(tiny_cfg, tmp_path / "second", CLASSES, seed=4)


def members(models: Sequence[SmallModel]) -> list[str]:
    pairs = [[str(model.config_file), str(model.weights)] for model in models]
    return ["TEST.ENSEMBLE.MEMBERS", str(pairs)]


def find(model: SmallModel, overrides: Sequence[str] = (), weights: str = "") -> Instances:
    return Predictor.from_name(str(model.config_file), weights, 0.05, overrides)(IMAGE)


def assert_equal(a: Instances, b: Instances) -> None:
    assert torch.equal(a.scores, b.scores)
    assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    assert torch.equal(a.pred_masks, b.pred_masks)
    assert len(a) > 0


def test_an_ensemble_of_one_is_its_member(pair: tuple[SmallModel, SmallModel]) -> None:
    for model in pair:
        expected = find(model, weights=str(model.weights))
        assert_equal(find(model, members([model])), expected)


def test_an_ensemble_of_two_is_neither(pair: tuple[SmallModel, SmallModel]) -> None:
    found = find(pair[0], members(pair))
    assert len(found) > 0
    for model in pair:
        assert found.scores.tolist() != find(model, weights=str(model.weights)).scores.tolist()
    from_second = [*members(pair), "TEST.ENSEMBLE.PROPOSALS_FROM", "1"]
    assert find(pair[0], from_second).scores.tolist() != found.scores.tolist()


def test_it_is_evaluated_on_datasets(
    pair: tuple[SmallModel, SmallModel], tiny_cfg: CfgNode
) -> None:
    tiny_cfg.merge_from_list(members(pair))
    model, categories = load_trained_model(tiny_cfg)
    assert isinstance(model, RCNNEnsemble)
    assert [category["name"] for category in categories] == list(CLASSES)
    expected = PANetTrainer.test(tiny_cfg, model)
    assert PANetTrainer.evaluate(tiny_cfg) == expected
    assert 0 <= expected["segm"]["AP50"] <= 100


@needs.BFLOAT16
def test_members_are_optimized_as_the_ensemble_says(
    pair: tuple[SmallModel, SmallModel], tiny_cfg: CfgNode
) -> None:
    tiny_cfg.merge_from_list([*members(pair), "TEST.OPTIMIZE.DTYPE", "bfloat16"])
    model, _ = load_trained_model(tiny_cfg)
    assert {m.backbone.bottom_up.res2[0].conv1.weight.dtype for m in model.members} == {
        torch.bfloat16
    }


def test_members_that_do_not_go_together(
    pair: tuple[SmallModel, SmallModel], tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    tiny_cfg.INPUT.FORMAT = "BGR"
    others = write_model(tiny_cfg, tmp_path / "others", ("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"Member 1 .*others/model.pth, has other classes .*a, b"):
        find(pair[0], members([pair[0], others]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[['only.yaml']]", r"has \['only.yaml'\]; each member must be a pair"),
        ("[['a.yaml', '']]", "each member must be a pair"),
        ("['ab']", "has 'ab'; each member must be a pair"),
        (f"[['no_such.yaml', {__file__!r}]]", "no configuration file no_such.yaml"),
        ("[['quick/panet_R18_shapes.yaml', 'gone.pth']]", "names the weights gone.pth"),
    ],
)
def test_wrong_entries(tiny_cfg: CfgNode, entries: str, message: str) -> None:
    tiny_cfg.merge_from_list(["TEST.ENSEMBLE.MEMBERS", entries])
    with pytest.raises(UserError, match=message):
        load_trained_model(tiny_cfg)
