"""Files of weights, in both formats."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from panet.checkpoint import build_checkpointer
from panet.checkpoint.checkpoint_file import load_checkpoint
from panet.checkpoint.weights import load_safetensors, save_weights
from panet.data import shapes
from panet.engine import PANetTrainer
from panet.utils.errors import UserError


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_weights_come_back(tiny_cfg: CfgNode, tmp_path: Path, name: str) -> None:
    first = PANetTrainer.build_model(tiny_cfg)
    second = PANetTrainer.build_model(tiny_cfg)
    path = tmp_path / "new" / name
    classes = list(shapes.CATEGORIES)
    save_weights(path, first.state_dict(), classes)
    load = load_checkpoint if path.suffix == ".pth" else load_safetensors
    assert load(path)["classes"] == classes
    build_checkpointer(tiny_cfg, second).load(str(path))
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.pkl must end in one of .pth, .safetensors"):
        save_weights(tmp_path / "model.pkl", {})
    path = tmp_path / "model.safetensors"
    for content in (b"", b"x" * 100, b"\x10\0\0\0\0\0\0\0{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model.safetensors is damaged"):
            load_safetensors(path)
