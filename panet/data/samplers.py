"""Which images training draws."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler
from detectron2.utils.env import seed_all_rng
from torch import Tensor
from torch.utils.data import Sampler

from panet.utils.errors import UserError

from .class_balanced_sampler import ClassBalancedTrainingSampler

SAMPLERS = (
    "TrainingSampler",
    "ClassBalancedTrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler",
    "WeightedCategoryTrainingSampler",
)
"""Values of ``DATALOADER.SAMPLER_TRAIN``, detectron2's but for the second."""

Records = Sequence[dict[str, Any]]


def build_sampler(cfg: CfgNode, datasets: Sequence[Records], seed: int) -> Sampler[int] | None:
    """The sampler that ``DATALOADER.SAMPLER_TRAIN`` names.

    It draws what detectron2's would draw, without reading the datasets again for that.

    Args:
        cfg: keys ``DATALOADER``, its ``SAMPLER_TRAIN`` one of :data:`SAMPLERS`, and ``DATASETS``.
        datasets: the records of each of ``DATASETS.TRAIN``.
        seed: decides what is drawn.

    Returns:
        An endless stream of indices of all records together, the same one at every iteration over
        it; None for "TrainingSampler", which loaders have by default.

    Raises:
        UserError: if it finds nothing to draw, or is to repeat a dataset that is not trained on.
    """
    name, options = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if name == "TrainingSampler":
        return None
    records = [record for of_dataset in datasets for record in of_dataset]
    if name == "ClassBalancedTrainingSampler":
        return ClassBalancedTrainingSampler(records, seed)
    if name == "RepeatFactorTrainingSampler":
        return RepeatFactorTrainingSampler(_by_category(options, records), seed=seed)
    seed_all_rng(seed)  # the others draw their seeds from numpy
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(len(records), options.RANDOM_SUBSET_RATIO)
    factors = _by_dataset(cfg, datasets)
    if name == "WeightedCategoryTrainingSampler":
        factors *= torch.cat([_by_category(options, of_dataset) for of_dataset in datasets])
        factors /= factors.min()
    return RepeatFactorTrainingSampler(factors)


def _by_category(options: CfgNode, records: Records) -> Tensor:
    """How often to draw each image for the rarest of its classes, (N,)."""
    factors: Tensor = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, options.REPEAT_THRESHOLD, sqrt=options.REPEAT_SQRT
    )
    return factors


def _by_dataset(cfg: CfgNode, datasets: Sequence[Records]) -> Tensor:
    """How often to draw each image for the dataset that it is of, (N,)."""
    names, factors = cfg.DATASETS.TRAIN, dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    for name in factors:
        if name not in names:
            raise UserError(
                f"DATASETS.TRAIN_REPEAT_FACTOR has a factor for {name!r}, which is none of "
                f"DATASETS.TRAIN, {', '.join(names)}."
            )
    return torch.cat(
        [
            torch.full((len(records),), float(factors.get(name, 1)))
            for name, records in zip(names, datasets)
        ]
    )
