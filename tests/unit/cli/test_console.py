"""What a training command prints."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from panet.cli import console


@pytest.mark.parametrize(
    ("device", "name"), [("mps", "mps"), ("xpu:0", "xpu:0"), ("cuda", "GPU"), ("cpu", "CPU (")]
)
def test_every_kind_of_device_is_named(
    device: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def get_device_name(device: torch.device) -> str:
        assert device.type == "cuda"
        return "GPU"

    monkeypatch.setattr("torch.cuda.get_device_name", get_device_name)
    settings = SimpleNamespace(
        device=device, amp_enabled=False, weights="", max_iter=10, output_dir="output"
    )
    trainer = SimpleNamespace(
        settings=settings,
        model=nn.Linear(2, 1),
        datasets=lambda cfg, split: (),
        cfg=None,
        start_iter=0,
    )
    console.print_run("", trainer)
    assert f"1 x {name}" in capsys.readouterr().err
