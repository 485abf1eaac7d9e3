"""A folder holds the results of one model."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode
from small_models import SmallModel, write_model

from panet.prediction import prediction_config
from panet.prediction.run_file import locked, start
from panet.prediction.settings import prediction_settings
from panet.utils.errors import UserError

SETTINGS = {"INPUT.FORMAT": "BGR", "weights": "abc"}


def test_names_begin_where_they_began(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    files = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"]
    assert start(folder, SETTINGS, files) == tmp_path
    assert start(folder, SETTINGS, files[:1]) == tmp_path
    with pytest.raises(UserError, match=r"holds results for files in .*, but /y.jpg is not in it"):
        start(folder, SETTINGS, [Path("/y.jpg")])
    assert start(folder, SETTINGS, files[:1], start_over=True) == tmp_path / "a"


def test_other_settings_are_refused_and_leave_all_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    files = [tmp_path / "x.jpg"]
    start(folder, SETTINGS, files)
    (folder / "records").mkdir()
    before = (folder / "run.json").read_text()
    for changed, message in (
        ({"weights": "abd"}, "results of other weights"),
        ({"INPUT.FORMAT": "RGB"}, "INPUT.FORMAT BGR, not RGB"),
        ({"INPUT.NEW": 1}, "INPUT.NEW None, not 1"),
    ):
        with pytest.raises(UserError, match=message):
            start(folder, {**SETTINGS, **changed}, files)
    assert (folder / "run.json").read_text() == before
    assert (folder / "records").exists()
    start(folder, {**SETTINGS, "weights": "abd"}, files, start_over=True)
    assert not (folder / "records").exists()


@pytest.mark.parametrize("start_over", [False, True])
def test_files_of_others_stay(tmp_path: Path, start_over: bool) -> None:
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(UserError, match="files that are not results"):
        start(tmp_path, SETTINGS, [tmp_path / "x.jpg"], start_over)
    assert (tmp_path / "results.json").read_text() == "mine"


def test_one_program_at_a_time(tmp_path: Path) -> None:
    again = locked(tmp_path / "out")
    with locked(tmp_path / "out"), pytest.raises(UserError, match="Another program is writing"):
        again.__enter__()
    with locked(tmp_path / "out"):
        start(tmp_path / "out", SETTINGS, [tmp_path / "x.jpg"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written to"):
        locked(tmp_path / "file" / "out").__enter__()


def test_settings_are_those_that_results_depend_on(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    small = write_model(tiny_cfg, tmp_path / "model")
    moved = tmp_path / "moved.pth"
    moved.write_bytes(small.weights.read_bytes())

    def settings(*overrides: str, weights: Path = small.weights, threshold: float = 0.5) -> object:
        cfg = prediction_config(str(small.config_file), str(weights), threshold, overrides)
        return prediction_settings(cfg)

    first = settings()
    assert settings("SOLVER.BASE_LR", "7.0", "OUTPUT_DIR", "elsewhere") == first
    assert settings(weights=moved) == first
    assert settings(threshold=0.4) != first
    assert settings("TEST.OPTIMIZE.DTYPE", "bfloat16") != first
    assert settings("INPUT.MIN_SIZE_TEST", "100") != first
    moved.write_bytes(small.weights.read_bytes()[:-1] + b"x")
    assert settings(weights=moved) != first


def test_settings_of_an_ensemble_are_those_of_its_members(
    tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    first = write_model(tiny_cfg, tmp_path / "first", seed=3)
    second = write_model(tiny_cfg, tmp_path / "second", seed=4)

    def settings(*members: SmallModel) -> object:
        pairs = str([[str(member.config_file), str(member.weights)] for member in members])
        overrides = ["TEST.ENSEMBLE.MEMBERS", pairs]
        return prediction_settings(prediction_config(str(first.config_file), overrides=overrides))

    assert settings(first, second) == settings(first, second)
    assert settings(first, second) != settings(second, first)
    assert settings(first) != settings(second)
    assert settings(first) != settings(first, first)
    moved = tmp_path / "moved.pth"
    moved.write_bytes(second.weights.read_bytes())
    assert settings(second) == settings(second._replace(weights=moved))
