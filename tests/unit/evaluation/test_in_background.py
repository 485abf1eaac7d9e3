"""Evaluators in the background see the same, in the same order."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from small_models import find_much

from panet.engine import PANetTrainer
from panet.evaluation import InBackground, build_evaluator


class Noting(DatasetEvaluator):
    """Notes what it is given, and fails at one input."""

    def __init__(self, fails_at: object = None) -> None:
        self.fails_at = fails_at
        self.seen: list[Any] = ["before"]
        self.threads: set[threading.Thread] = set()

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.threads.add(threading.current_thread())
        if inputs == self.fails_at:
            raise OSError("broken")
        self.seen.append((inputs, outputs))

    def evaluate(self) -> dict[str, Any]:
        return {"seen": self.seen}


def double(value: int) -> int:
    return 2 * value


def test_the_order_stays() -> None:
    evaluator = Noting()
    results = inference_on_dataset(double, range(20), InBackground(evaluator))
    assert results == {"seen": [(value, 2 * value) for value in range(20)]}
    assert len(evaluator.threads) == 1
    assert threading.current_thread() not in evaluator.threads


@pytest.mark.parametrize(("fails_at", "computed"), [(3, 5), (19, 20)])
def test_errors_stop_the_evaluation(fails_at: int, computed: int) -> None:
    values: list[int] = []
    with pytest.raises(OSError, match="broken"):
        inference_on_dataset(values.append, range(20), InBackground(Noting(fails_at)))
    assert len(values) == computed


def test_the_trainers_evaluation_is_the_same(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    model = find_much(PANetTrainer.build_model(tiny_cfg)).eval()
    (dataset,) = tiny_cfg.DATASETS.TEST
    files = "coco_instances_results.json", "instances_predictions.pth"
    results, written = [], []
    for name, evaluators in (("background", None), ("plain", [])):
        tiny_cfg.OUTPUT_DIR = str(tmp_path / name)
        if evaluators is not None:
            evaluators.append(build_evaluator(tiny_cfg, dataset))
        results.append(PANetTrainer.test(tiny_cfg, model, evaluators))
        folder = tmp_path / name / "inference"
        written.append([(folder / files[0]).read_text(), torch.load(folder / files[1])])
    assert isinstance(PANetTrainer.build_evaluator(tiny_cfg, dataset), InBackground)
    assert str(results[0]) == str(results[1])  # NaN, too
    assert written[0] == written[1]
    assert len(written[0][1]) == 12
