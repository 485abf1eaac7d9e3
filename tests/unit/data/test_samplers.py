"""What is drawn is what detectron2 draws, and depends on the seed alone."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.build import _train_loader_from_config
from detectron2.data.samplers import TrainingSampler
from detectron2.utils.env import seed_all_rng
from torch.utils.data import Sampler

from panet.data.loader import build_train_loader
from panet.data.records import read_train_records
from panet.data.samplers import build_sampler
from panet.utils.errors import UserError


@pytest.fixture
def cfg(tiny_cfg: CfgNode, tiny_dataset: str) -> Iterator[CfgNode]:
    """Two datasets, of 12 and 5 images, to be drawn from with different factors."""
    DatasetCatalog.register("few_shapes", lambda: DatasetCatalog.get(tiny_dataset)[:5])
    tiny_cfg.DATASETS.TRAIN = (tiny_dataset, "few_shapes")
    tiny_cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["few_shapes", 2.5]]
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    tiny_cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    tiny_cfg.SEED = 5
    yield tiny_cfg
    DatasetCatalog.remove("few_shapes")


def drawn(sampler: Sampler[int] | None) -> list[int]:
    assert sampler is not None
    return list(islice(sampler, 100))


@pytest.mark.parametrize(
    "name",
    [
        "RepeatFactorTrainingSampler",
        "RandomSubsetTrainingSampler",
        "WeightedTrainingSampler",
        "WeightedCategoryTrainingSampler",
    ],
)
def test_detectron2s_draw_what_they_draw_there(cfg: CfgNode, name: str) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = name
    datasets = read_train_records(cfg)
    records = [record for of_dataset in datasets for record in of_dataset]
    assert [len(of_dataset) for of_dataset in datasets] == [12, 5]
    found = drawn(build_sampler(cfg, datasets, seed=5))
    seed_all_rng(5)
    assert found == drawn(_train_loader_from_config(cfg, dataset=records)["sampler"])
    assert found != drawn(build_sampler(cfg, datasets, seed=6))


def test_factors_are_for_datasets_that_are_trained_on(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["gone", 2.0]]
    with pytest.raises(
        UserError, match=r"TRAIN_REPEAT_FACTOR names 'gone', .* tiny_shapes, few_shapes\."
    ):
        build_train_loader(cfg)


@pytest.mark.parametrize("seed", [5, 0])
def test_a_configuration_draws_what_its_parts_draw(cfg: CfgNode, seed: int) -> None:
    """In every version of detectron2, whose own loader seeds the sampler in one way or another."""
    records = [record for of_dataset in read_train_records(cfg) for record in of_dataset]
    seed_all_rng(seed)
    expected = drawn(TrainingSampler(len(records)))
    cfg.SEED = seed
    np.random.seed(1)
    found = build_train_loader(cfg).batch_sampler.indices
    np.random.seed(2)
    parts = build_train_loader(records, mapper=dict, total_batch_size=2, seed=seed)
    assert drawn(found) == drawn(parts.batch_sampler.indices) == expected
