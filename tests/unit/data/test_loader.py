"""The order of the training data."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.common import AspectRatioGroupedDataset
from PIL import Image
from torch.utils.data import Sampler

from panet.data.loader import TrainBatchSampler, build_test_loader, build_train_loader
from panet.data.mapper import InstanceMapMapper
from panet.utils.errors import UserError


class Indices(Sampler[int]):
    """An endless stream of indices of a dataset of 20 images."""

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(3)
        while True:
            yield from rng.permutation(20).tolist()


GROUPS = [int(i % 3 == 0) for i in range(20)]


def batches(first: int, count: int, groups: list[int] | None = GROUPS) -> list[list[int]]:
    sampler = TrainBatchSampler(Indices(), 4, groups, first_batch=first)
    return [[draw.image for draw in batch] for batch in islice(sampler, count)]


def test_batches_are_those_of_detectron2() -> None:
    records = ({"id": i, "width": GROUPS[i], "height": 0.5} for i in Indices())
    expected = islice(AspectRatioGroupedDataset(records, 4), 30)
    assert batches(0, 30) == [[record["id"] for record in batch] for batch in expected]


@pytest.mark.parametrize("groups", [GROUPS, None])
def test_skipping_batches_goes_on_where_they_end(groups: list[int] | None) -> None:
    assert batches(11, 9, groups) == batches(0, 20, groups)[11:]


def test_an_image_drawn_again_is_augmented_anew() -> None:
    draws = list(islice(TrainBatchSampler(Indices(), 4), 10))
    positions = [draw.position for batch in draws for draw in batch]
    assert positions == list(range(40))


def read(cfg: CfgNode, first: int, count: int, seed: int = 5) -> list[list[dict[str, Any]]]:
    cfg.SEED = seed
    loader = build_train_loader(cfg)
    loader.batch_sampler.first_batch = first
    return list(islice(loader, count))


def same(left: list[list[dict[str, Any]]], right: list[list[dict[str, Any]]]) -> bool:
    return all(
        torch.equal(a["image"], b["image"])
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_reads_the_same_images_augmented_alike(
    tiny_cfg: CfgNode, workers: int
) -> None:
    whole = read(tiny_cfg, 0, 12)
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    np.random.seed(99)
    assert same(read(tiny_cfg, 7, 5), whole[7:])


def test_another_seed_gives_another_order(tiny_cfg: CfgNode) -> None:
    assert not same(read(tiny_cfg, 0, 5), read(tiny_cfg, 0, 5, seed=6))


@pytest.mark.parametrize("sampler", ["RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"])
def test_detectron2s_samplers_resume_too(tiny_cfg: CfgNode, sampler: str) -> None:
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    tiny_cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    assert same(read(tiny_cfg, 3, 4), read(tiny_cfg, 0, 7)[3:])


def test_a_batch_must_divide_among_the_processes(
    tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(UserError, match="IMS_PER_BATCH is 2; it must be a multiple of the 3"):
        build_train_loader(tiny_cfg)


@pytest.mark.parametrize("size", [0, -2])
def test_a_batch_is_not_empty(tiny_cfg: CfgNode, size: int) -> None:
    tiny_cfg.SOLVER.IMS_PER_BATCH = size
    with pytest.raises(UserError, match=rf"SOLVER.IMS_PER_BATCH is {size}; .* at least 1\.$"):
        build_train_loader(tiny_cfg)
    with pytest.raises(UserError, match=rf"total_batch_size is {size}; it must be at least 1\.$"):
        build_train_loader([], mapper=dict, total_batch_size=size)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["removed", "cut", "broken chunk"])
def test_a_damaged_image_is_named_in_one_line(
    tiny_cfg: CfgNode, tiny_dataset: str, tmp_path: Path, workers: int, damage: str
) -> None:
    """Both in training and in testing."""
    damaged = tmp_path / "damaged.png"
    if damage != "removed":
        Image.new("RGB", (64, 64)).save(damaged)
        content = bytearray(damaged.read_bytes())
        start = content.index(b"IDAT")
        if damage == "cut":
            del content[start:]
        else:
            content[start - 1] -= 10  # the length of the chunk; Pillow raises a SyntaxError
        damaged.write_bytes(content)
    first = DatasetCatalog.get(tiny_dataset)[0]
    record = {**first, "file_name": str(damaged), "height": 64, "width": 64}
    options: dict[str, Any] = {"num_workers": workers}
    loaders = (
        build_train_loader(
            [record], mapper=InstanceMapMapper(tiny_cfg, True), total_batch_size=1, **options
        ),
        build_test_loader([record], mapper=InstanceMapMapper(tiny_cfg, False), **options),
    )
    for loader in loaders:
        with pytest.raises(UserError, match=r"^The image .*damaged.png cannot be read: [^\n]*$"):
            next(iter(loader))


def test_the_test_loader_of_a_configuration_names_a_damaged_image(
    tiny_cfg: CfgNode, tiny_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise OSError("image file is truncated")

    monkeypatch.setattr("detectron2.data.detection_utils.read_image", gone)
    with pytest.raises(UserError, match=r"^The image .* cannot be read: image file is truncated$"):
        next(iter(build_test_loader(tiny_cfg, tiny_dataset)))
