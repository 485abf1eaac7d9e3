"""Models and configurations by name."""

import logging
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor

from panet import model_zoo
from panet.utils.errors import UserError


def test_lists_the_leaves_and_no_base() -> None:
    names = model_zoo.list_configs()
    assert {"panet_R50_2x.yaml", "quick/panet_R18_shapes.yaml"} <= set(names)
    assert {"lazy/panet_R50_2x.py", "lazy/quick/panet_R18_shapes.py"} <= set(names)
    assert not any("Base" in name or "common" in name for name in names)


def test_config_of_every_name_is_for_this_machine() -> None:
    for name in model_zoo.list_configs():
        assert Path(model_zoo.get_config_file(name)).is_file()
        cfg = model_zoo.get_config(name)
        device = cfg.train.device if name.endswith(".py") else cfg.MODEL.DEVICE
        assert ("cuda" if torch.cuda.is_available() else "cpu") == device


@pytest.mark.parametrize(
    "function", [model_zoo.get, model_zoo.get_config, model_zoo.get_checkpoint_url]
)
def test_unknown_names_answer_with_the_closest(function: object) -> None:
    with pytest.raises(ValueError, match=r"'panet_r50_2x' is not .*panet_R50_2x\.yaml"):
        function("panet_r50_2x")


def test_files_and_names_are_found(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.touch()
    assert model_zoo.find_config_file(str(own)) == str(own)
    name = "quick/panet_R18_shapes.yaml"
    assert model_zoo.find_config_file(name) == model_zoo.get_config_file(name)
    with pytest.raises(UserError, match=r"no configuration file gone.yaml: .* the closest are"):
        model_zoo.find_config_file("gone.yaml")


def test_trained_weights_that_do_not_exist() -> None:
    with pytest.raises(
        ValueError, match="no trained weights for 'panet_R50_2x.yaml'; there are for official/"
    ):
        model_zoo.get("panet_R50_2x.yaml", trained=True)


@pytest.mark.parametrize("name", ["quick/panet_R18_shapes.yaml", "lazy/quick/panet_R18_shapes.py"])
def test_get_loads_the_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_zoo.get(name)
    torch.save({"model": source.state_dict()}, tmp_path / "model.pth")
    monkeypatch.setattr(model_zoo, "get_checkpoint_url", lambda _: str(tmp_path / "model.pth"))
    model = model_zoo.get(name, trained=True)
    for expected, actual in zip(source.parameters(), model.parameters(), strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", ["panet_faster_R50_1x.yaml", "lazy/panet_faster_R50_1x.py"])
def test_without_a_network_the_model_keeps_random_weights(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_network(self: DetectionCheckpointer, path: str) -> None:
        raise URLError("no network")

    monkeypatch.setattr(DetectionCheckpointer, "load", no_network)
    with caplog.at_level(logging.WARNING):
        assert model_zoo.get(name).training
    assert "R-50.pkl cannot be downloaded (<urlopen error no network>)" in caplog.text
    assert "keeps random weights" in caplog.text


def test_default_predictor() -> None:
    cfg = model_zoo.get_config("quick/panet_R18_shapes.yaml")
    instances = DefaultPredictor(cfg)(np.zeros((70, 90, 3), np.uint8))["instances"]
    assert instances.image_size == (70, 90)
