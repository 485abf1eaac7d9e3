"""The sampler that draws a class first and then an image of it."""

import math
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from panet.data.class_balanced_sampler import ClassBalancedTrainingSampler
from panet.data.loader import TrainBatchSampler, build_train_loader
from panet.engine import PANetTrainer
from panet.utils.errors import UserError


def image(*classes: int, crowds: tuple[int, ...] = ()) -> dict[str, Any]:
    annotations = [{"category_id": c, "iscrowd": 0} for c in classes]
    return {"annotations": annotations + [{"category_id": c, "iscrowd": 1} for c in crowds]}


RECORDS = [
    image(0),
    image(0, 0, 0, 7),
    image(),
    image(0, crowds=(7,)),
    image(crowds=(3,)),
    image(7, 5),
    image(0),
]
# Class 0 has four images, 5 has one and 7 two; each class is drawn one time in three.
EXPECTED = {
    0: 1 / 3 / 4,
    1: 1 / 3 / 4 + 1 / 3 / 2,
    3: 1 / 3 / 4,
    5: 1 / 3 + 1 / 3 / 2,
    6: 1 / 3 / 4,
}


def draw(count: int, seed: int = 5) -> list[int]:
    return list(islice(ClassBalancedTrainingSampler(RECORDS, seed), count))


def test_images_are_drawn_as_often_as_their_classes_say() -> None:
    draws = 30_000
    counts = Counter(draw(draws))
    assert counts.keys() == EXPECTED.keys()
    assert sum(EXPECTED.values()) == pytest.approx(1)
    for index, probability in EXPECTED.items():
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(counts[index] - draws * probability) < 4 * deviation, index


def test_draws_do_not_depend_on_the_ones_before() -> None:
    images = draw(30_000)
    after_five = Counter(b for a, b in pairwise(images) if a == 5)
    total = sum(after_five.values())
    for index, probability in EXPECTED.items():
        deviation = math.sqrt(total * probability * (1 - probability))
        assert abs(after_five[index] - total * probability) < 4 * deviation, index


def test_the_stream_depends_on_the_seed_alone() -> None:
    sampler = ClassBalancedTrainingSampler(RECORDS, seed=5)
    first = list(islice(sampler, 10_000))
    assert list(islice(sampler, 10_000)) == first == draw(10_000)
    assert draw(10_000, seed=6) != first


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_draw_the_stream_of_one(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    whole = draw(12_000)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        assert draw(12_000 // processes) == whole[rank::processes]


def test_batches_can_be_skipped() -> None:
    sampler = ClassBalancedTrainingSampler(RECORDS, seed=5)
    groups = [i % 2 for i in range(len(RECORDS))]
    whole = list(islice(TrainBatchSampler(sampler, 4, groups), 30))
    assert list(islice(TrainBatchSampler(sampler, 4, groups, first_batch=21), 9)) == whole[21:]


@pytest.mark.parametrize("records", [[], [image()], [image(crowds=(1,))]])
def test_without_objects_there_is_nothing_to_draw(records: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="no training image has an object"):
        ClassBalancedTrainingSampler(records, seed=5)


def test_the_configuration_chooses_it(tiny_cfg: CfgNode) -> None:
    tiny_cfg.SEED = 3
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
    sampler = build_train_loader(tiny_cfg).batch_sampler.indices
    assert isinstance(sampler, ClassBalancedTrainingSampler)
    assert sampler.seed == 3
    assert len(sampler.images_by_class) == 4


def test_an_unknown_sampler_is_refused_with_the_known_ones(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "BalancedSampler"
    with pytest.raises(
        UserError,
        match="SAMPLER_TRAIN is 'BalancedSampler'.*'ClassBalanced.*'RepeatFactorTrainingSampler'",
    ):
        build_train_loader(tiny_cfg)


def test_a_resumed_run_equals_an_undisturbed_one(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SEED = 7
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "ClassBalancedTrainingSampler"
    tiny_cfg.SOLVER.MAX_ITER = 4
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 2
    runs = []
    for resume in (False, True):
        trainer = PANetTrainer(tiny_cfg)
        trainer.resume_or_load(resume=resume)
        assert trainer.start_iter == (2 if resume else 0)
        trainer.train()
        runs.append(trainer.model.state_dict())
        Path(tiny_cfg.OUTPUT_DIR, "last_checkpoint").write_text("model_0000001.pth")
    assert all(value.equal(runs[1][name]) for name, value in runs[0].items())
