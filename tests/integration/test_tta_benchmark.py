"""Tests of the TTA benchmark, on small models."""

import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from paths import BENCHMARKS
from small_models import write_model

sys.path.append(str(BENCHMARKS))

import tta


@pytest.fixture
def arguments(tiny_cfg: CfgNode, tmp_path: Path) -> list[str]:
    tiny_cfg.TEST.AUG.MIN_SIZES = (64, 96)
    first = write_model(tiny_cfg, tmp_path / "first", seed=3)
    second = write_model(tiny_cfg, tmp_path / "second", seed=4)
    weights = ["--weights", str(first.weights), str(second.weights)]
    return ["tta.py", "--config-file", str(first.config_file), *weights]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    tta.main()


def test_table_has_a_line_per_row(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["one view", "scales, flip, mask and box voting", "model 2, one view", "ensemble of 2"]
    run([*arguments, "--rows", *chosen], monkeypatch)
    lines = capsys.readouterr().out.splitlines()[-6:]
    assert [cell.strip() for cell in lines[0].split("|")[2:5]] == ["box AP", "box AP50", "box AP75"]
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines[2:]}
    assert list(table) == chosen
    times = [float(cells[-1]) for cells in table.values()]
    assert times[0] == 1.0
    assert times[1] > 1.5, "TTA with four views takes longer than one view"


def test_rows_set_the_options_in_their_names() -> None:
    table = tta.rows(96, [["a.yaml", "a.pth"], ["b.yaml", "b.pth"]])
    for name, changes in table.items():
        assert ("TEST.BOX_VOTING.ENABLED" in changes) == (
            "box voting" in name or "the same" in name
        )
        assert ("TEST.TIGHTEN_BOXES" in changes) == ("tightened" in name)
        assert ("TEST.AUG.ENABLED" in changes) == any(
            w in name for w in ("scales", "flip", "the same")
        )
        assert len(changes.get("TEST.ENSEMBLE.MEMBERS", [])) == (
            2 if "ensemble" in name else 1 if "model 2" in name else 0
        )


def test_unknown_rows_raise_an_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run([*arguments, "--rows", "magic"], monkeypatch)
    assert "--rows is 'magic'" in capsys.readouterr().err
