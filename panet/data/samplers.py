"""Samplers of training images."""

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
"""Values of ``DATALOADER.SAMPLER_TRAIN``; all but the second are detectron2's."""

Records = Sequence[dict[str, Any]]


def build_sampler(cfg: CfgNode, datasets: Sequence[Records], seed: int) -> Sampler[int] | None:
    """Build the sampler of ``DATALOADER.SAMPLER_TRAIN``.

    It draws the same indices as detectron2's, but does not read the datasets again.

    Args:
        cfg: keys ``DATALOADER``, with ``SAMPLER_TRAIN`` one of :data:`SAMPLERS`, and ``DATASETS``.
        datasets: the records of each dataset of ``DATASETS.TRAIN``.
        seed: of the random numbers.

    Returns:
        An infinite stream of indices into all records, identical at every iteration over it; None
        for "TrainingSampler", the default of data loaders.

    Raises:
        UserError: if there is nothing to draw, or ``DATASETS.TRAIN_REPEAT_FACTOR`` names a dataset
            that is not in ``DATASETS.TRAIN``.
    """
    name, options = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if name == "TrainingSampler":
        return None
    records = [record for dataset in datasets for record in dataset]
    if name == "ClassBalancedTrainingSampler":
        return ClassBalancedTrainingSampler(records, seed)
    if name == "RepeatFactorTrainingSampler":
        return RepeatFactorTrainingSampler(_by_category(options, records), seed=seed)
    seed_all_rng(seed)  # the other samplers draw their seeds from numpy
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(len(records), options.RANDOM_SUBSET_RATIO)
    factors = _by_dataset(cfg, datasets)
    if name == "WeightedCategoryTrainingSampler":
        factors *= torch.cat([_by_category(options, dataset) for dataset in datasets])
        factors /= factors.min()
    return RepeatFactorTrainingSampler(factors)


def _by_category(options: CfgNode, records: Records) -> Tensor:
    """Repeat factor of each image by the rarest of its classes, (N,)."""
    factors: Tensor = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, options.REPEAT_THRESHOLD, sqrt=options.REPEAT_SQRT
    )
    return factors


def _by_dataset(cfg: CfgNode, datasets: Sequence[Records]) -> Tensor:
    """Repeat factor of each image by its dataset, (N,)."""
    names, factors = cfg.DATASETS.TRAIN, dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    for name in factors:
        if name not in names:
            raise UserError(
                f"DATASETS.TRAIN_REPEAT_FACTOR names {name!r}, which is not in DATASETS.TRAIN; "
                f"use one of {', '.join(names)}."
            )
    return torch.cat(
        [
            torch.full((len(records),), float(factors.get(name, 1)))
            for name, records in zip(names, datasets)
        ]
    )
