"""Optimizers beside detectron2's SGD."""

import torch
from torch import nn

from panet.engine.optimizer import ChannelsLastAdamW


def test_channels_last_weights_are_updated_as_ever() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, bias=False))
    model = model.to(memory_format=torch.channels_last)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    results = []
    for optimizer_class, options in (
        (torch.optim.AdamW, {"foreach": False}),
        (torch.optim.AdamW, {"fused": True}),
        (ChannelsLastAdamW, {"fused": True}),
    ):
        model.load_state_dict(start)
        optimizer = optimizer_class(model.parameters(), lr=0.01, **options)
        for _ in range(3):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())  # as a resumed run does
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
        results.append({name: value.clone() for name, value in model.state_dict().items()})
    plain, fused, own = results
    for name, value in own.items():
        assert torch.equal(value, fused[name]), name
        torch.testing.assert_close(value, plain[name])
        assert not torch.equal(value, start[name])
