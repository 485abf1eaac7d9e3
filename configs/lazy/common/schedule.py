"""Learning rate schedules: 1000 iterations of warmup, then two steps by a factor of 0.1."""

from collections.abc import Sequence

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig


def two_steps(steps: Sequence[int], max_iter: int) -> DictConfig:
    """Build the schedule of ``max_iter`` iterations with learning rate drops at ``steps``."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[1.0, 0.1, 0.01], milestones=[*steps, max_iter]
        ),
        warmup_length=1000 / max_iter,
        warmup_method="linear",
        warmup_factor=0.001,
    )


lr_multiplier_1x = two_steps((60_000, 80_000), 90_000)
lr_multiplier_2x = two_steps((120_000, 160_000), 180_000)
lr_multiplier_3x = two_steps((210_000, 250_000), 270_000)
