"""Data loaders. What training reads in iteration k depends only on the seed and on k.

A resumed run therefore reads the same images with the same augmentations as an uninterrupted one.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator, worker_init_reset_seed
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.utils.data import DataLoader, Dataset, Sampler

from panet.utils.choices import check_choice
from panet.utils.errors import UserError

from .availability import check_datasets
from .mapper import InstanceMapMapper
from .proposals import check_proposals
from .records import read_records, read_train_records
from .samplers import SAMPLERS, build_sampler


class Draw(NamedTuple):
    """An image to read: its index in the dataset and its position in the training sequence."""

    image: int
    position: int


def derive_seed(*parts: int) -> int:
    """Derive a 32-bit seed from several numbers, e.g. a run's seed, a rank and an iteration."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class TrainBatchSampler(Sampler[list[Draw]]):
    """Infinite batches of a sampler's indices, each from a single group of images.

    Equivalent to :class:`detectron2.data.common.AspectRatioGroupedDataset`, but batches indices
    instead of loaded images, so that batches can be skipped without reading them.
    """

    def __init__(
        self,
        indices: Sampler[int],
        batch_size: int,
        groups: Sequence[int] | None = None,
        first_batch: int = 0,
    ) -> None:
        """
        Args:
            indices: an infinite stream of indices, identical at every iteration over it.
            batch_size: images per batch of this process.
            groups: group of each image of the dataset; None for a single group.
            first_batch: number of batches to skip at the start.
        """
        self.indices = indices
        self.batch_size = batch_size
        self.groups = groups
        self.first_batch = first_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        pending: dict[int, list[Draw]] = {}
        batches = 0
        for position, index in enumerate(self.indices):
            group = self.groups[index] if self.groups is not None else 0
            batch = pending.setdefault(group, [])
            batch.append(Draw(index, position))
            if len(batch) == self.batch_size:
                del pending[group]
                batches += 1
                if batches > self.first_batch:
                    yield batch


class SeededMapDataset(Dataset[Any]):
    """A mapped dataset whose random augmentation depends only on the seed and the position."""

    def __init__(self, dataset: MapDataset, seed: int) -> None:
        """
        Args:
            dataset: maps an index to an input of the model.
            seed: different for each process.
        """
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        seed_all_rng(derive_seed(self.seed, draw.position))
        return self.dataset[draw.image]


class _ErrorsAsItems:
    """A mapper that returns a :class:`UserError` as the item, for :class:`_Loader` to raise.

    If an error were raised in a worker, its message would include the worker's traceback.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]) -> None:
        self.mapper = mapper

    def __call__(self, record: dict[str, Any]) -> Any:
        try:
            return self.mapper(record)
        except UserError as error:
            return error


class _Loader(DataLoader[Any]):
    """Data loader that raises the errors returned as items."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            for item in batch:
                if isinstance(item, UserError):
                    raise item
            yield batch


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches all processes of a terminal, but the trainer finishes its iteration first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker_init_reset_seed(worker)


def _train_from_config(
    cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any] | None = None
) -> dict[str, Any]:
    _images_of_this_process("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH)
    check_choice("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, SAMPLERS)
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    check_datasets(cfg, cfg.DATASETS.TRAIN)
    check_proposals(cfg, "TRAIN")
    mapper = mapper or InstanceMapMapper(cfg, True)
    datasets = read_train_records(cfg)
    return {
        "dataset": [record for records in datasets for record in records],
        "mapper": mapper,
        "sampler": build_sampler(cfg, datasets, seed),
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "seed": seed,
    }


@configurable(from_config=_train_from_config)
def build_train_loader(
    dataset: Sequence[dict[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], Any],
    sampler: Sampler[int] | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int = -1,
) -> DataLoader[Any]:
    """Build a training data loader that can resume at any batch.

    Its ``batch_sampler`` is a :class:`TrainBatchSampler`, whose ``first_batch`` may be set before
    the first iteration.

    Instead of the arguments below, it also accepts a ``CfgNode``, with the keys ``DATASETS``,
    ``DATALOADER``, ``INPUT``, ``SOLVER.IMS_PER_BATCH`` and ``SEED``, and optionally a ``mapper`` to
    replace :class:`InstanceMapMapper`.

    Args:
        dataset: records of images, e.g. from :func:`panet.data.records.read_records`.
        mapper: maps a record to an input of the model.
        sampler: an infinite stream of indices into ``dataset``, identical at every iteration over
            it; by default detectron2's ``TrainingSampler``.
        total_batch_size: images per batch over all processes.
        aspect_ratio_grouping: whether each batch has only landscape or only portrait images.
        num_workers: number of worker processes; 0 to read in the main process.
        seed: of the order of the images and their augmentation; random if negative.

    Returns:
        An infinite iterable over lists of dicts in detectron2's input format, each with
        ``total_batch_size`` divided by the number of processes.

    Raises:
        UserError: if the batch is empty or cannot be divided among the processes or, given a
            ``CfgNode``, a dataset or its proposals cannot be read or do not match the model, or the
            sampler cannot be built, see :func:`panet.data.samplers.build_sampler`.
    """
    batch_size = _images_of_this_process("dataloader.train.total_batch_size", total_batch_size)
    if seed < 0:
        seed = comm.shared_random_seed()
    if sampler is None:
        seed_all_rng(seed)
        sampler = TrainingSampler(len(dataset))
    groups = None
    if aspect_ratio_grouping:
        groups = [int(record["width"] > record["height"]) for record in dataset]
    mapped = MapDataset(DatasetFromList(dataset, copy=False), _ErrorsAsItems(mapper))
    return _Loader(
        SeededMapDataset(mapped, derive_seed(seed, comm.get_rank())),
        batch_sampler=TrainBatchSampler(sampler, batch_size, groups),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=_start_worker,
        # Without it, starting the workers would consume a random number of the first iteration.
        generator=torch.Generator(),
    )


def _images_of_this_process(key: str, total_batch_size: int) -> int:
    if total_batch_size < 1:
        raise UserError(f"{key} is {total_batch_size}; it must be at least 1.")
    world_size = comm.get_world_size()
    if total_batch_size % world_size != 0:
        raise UserError(
            f"{key} is {total_batch_size}; it must be a multiple of the {world_size} processes "
            "that share it."
        )
    return total_batch_size // world_size


def _test_from_config(cfg: CfgNode, dataset_name: str) -> dict[str, Any]:
    check_proposals(cfg, "TEST")
    files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(dataset_name)]]
    return {
        "dataset": read_records(dataset_name, filter_empty=False, proposal_files=files),
        "mapper": InstanceMapMapper(cfg, False),
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_from_config)
def build_test_loader(
    dataset: Sequence[dict[str, Any]],
    *,
    mapper: Callable[[dict[str, Any]], Any],
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Build a test data loader, with one image per batch.

    Unlike detectron2's, it raises a :class:`UserError` of the mapper without the traceback of a
    worker.

    Instead of the arguments below, it also accepts a ``CfgNode``, with the keys ``INPUT``,
    ``DATALOADER.NUM_WORKERS``, ``MODEL`` and ``DATASETS``, and the ``dataset_name`` of a registered
    dataset, one of ``DATASETS.TEST`` if the model reads proposals.

    Args:
        dataset: records of images, e.g. from :func:`panet.data.records.read_records`.
        mapper: maps a record to an input of the model.
        num_workers: number of worker processes; 0 to read in the main process.

    Returns:
        An iterable over lists of one dict in detectron2's input format.

    Raises:
        UserError: given a ``CfgNode``, if the dataset or its proposals cannot be read.
    """
    mapped = MapDataset(DatasetFromList(dataset, copy=False), _ErrorsAsItems(mapper))
    return _Loader(
        mapped,
        batch_size=1,
        sampler=InferenceSampler(len(mapped)),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
    )
