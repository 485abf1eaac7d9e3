"""The steps of benchmarks/gpu.py."""

import dataclasses
import functools
import gc
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import boxes
import inference
import torch
import training
from detectron2.config import CfgNode
from detectron2.data.datasets import register_coco_instances
from measure import Run, peak_megabytes
from rows import FULL, STOCK, TWO_FC, Row
from stages import StageClock
from torch import Tensor, nn

from panet import load_config
from panet.data import shapes
from panet.engine import PANetTrainer
from panet.model_zoo import get_config_file

# The name of a step, and the function that runs it.
Step = tuple[str, Callable[[], dict[str, Any]]]

_MODELS = {"stock": STOCK, "panet-2fc": TWO_FC, "panet-r50-2x": FULL}
_PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
_THROUGHPUT_IMAGES = 8
_WARM_UPS = 3
_LEARNING_ITERATIONS = 300

_CHOICES: dict[str, tuple[Any, ...]] = {
    "as configured": (),
    "CHANNELS_LAST False": ("MODEL.CHANNELS_LAST", False),
    "RECOMPUTE False": ("MODEL.ADAPTIVE_POOLING.RECOMPUTE", False),
    "BATCHED True": ("MODEL.ADAPTIVE_POOLING.BATCHED", True),
}


class Extent:
    """The extent of the measurements.

    Attributes:
        dry: whether to run on the CPU with small inputs, to check that everything works.
        device: device of the models.
        rounds: number of timed runs after the warm-up, of which the median is taken.
        models: configurations by model name.
        precisions: dtypes by name, the most important one first.
    """

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.rounds = 1 if dry else 10
        self.models, self.precisions = _MODELS, _PRECISIONS
        if dry:
            boxes.IMAGE_SIZE = (96, 128)
            inference.NUM_PROPOSALS = training.NUM_PROPOSALS = 20
            inference.NUM_DETECTIONS = 5
            self.models = {name: _MODELS[name] for name in ("stock", "panet-2fc")}
            self.precisions = {"fp32": torch.float32}

    def rows(self) -> Iterator[Row]:
        """Yield each model in each precision."""
        for precision, dtype in self.precisions.items():
            for name, config in self.models.items():
                yield Row(f"{name}-{precision}", config, dtype)


def tests(extent: Extent) -> Iterator[Step]:
    """Run the tests that need a GPU, in their own process."""
    yield "marked gpu", _run_tests


def speed(extent: Extent) -> Iterator[Step]:
    """Time inference and training of all models in every precision."""
    for row in extent.rows():
        yield _latency(row, extent)
        yield _throughput(row, extent)
        yield _training(row, extent)


def learning(extent: Extent) -> Iterator[Step]:
    """Train on the embedded dataset, on this device and on the CPU."""
    for device in dict.fromkeys((extent.device.type, "cpu")):
        yield device, functools.partial(_learn, device, extent.dry)


def choices(extent: Extent) -> Iterator[Step]:
    """Time other settings, in the first precision."""
    precision, dtype = next(iter(extent.precisions.items()))
    for choice, options in _CHOICES.items():
        row = Row(f"panet-2fc-{precision}, {choice}", TWO_FC, dtype, options=options)
        yield _latency(row, extent)
        yield _training(row, extent)
    name = f"panet-2fc-{precision}, written naively"
    yield _training(Row(name, TWO_FC, dtype, naive=True), extent)


def compiled(extent: Extent) -> Iterator[Step]:
    """Time models with a compiled backbone, or one as a CUDA graph, in the first precision."""
    methods: dict[str, Callable[[nn.Module], None]] = {
        "torch.compile": functools.partial(_compile, backend="eager" if extent.dry else "inductor")
    }
    if extent.device.type == "cuda":
        methods["CUDA graph"] = _replay_backbone
    for row in itertools.islice(extent.rows(), len(extent.models)):
        for method, prepare in methods.items():
            changed = dataclasses.replace(row, name=f"{row.name}, {method}")
            yield _latency(changed, extent, prepare)


PARTS: dict[str, Callable[[Extent], Iterator[Step]]] = {
    part.__name__: part for part in (tests, speed, learning, choices, compiled)
}


def _latency(row: Row, extent: Extent, prepare: Callable[[nn.Module], None] | None = None) -> Step:
    def measure() -> dict[str, Any]:
        run = inference.set_up(row, extent.device, 1, prepare)
        # Stages of a compiled model cannot be timed.
        return _measure(run, extent, staged=prepare is None)

    return f"latency {row.name}", measure


def _throughput(row: Row, extent: Extent) -> Step:
    def measure() -> dict[str, Any]:
        run = inference.set_up(row, extent.device, _THROUGHPUT_IMAGES)
        return {"images": _THROUGHPUT_IMAGES, **_measure(run, extent)}

    return f"throughput {row.name}", measure


def _training(row: Row, extent: Extent) -> Step:
    return f"training {row.name}", lambda: _measure(training.set_up(row, extent.device), extent)


def _measure(run: Run, extent: Extent, staged: bool = True) -> dict[str, Any]:
    """Measure seconds, peak memory in MB and, in one more run, seconds per stage."""
    gc.collect()
    for _ in range(1 if extent.dry else _WARM_UPS):
        run(None)
    if extent.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = StageClock(extent.device)
    seconds = []
    for _ in range(extent.rounds):
        start = clock.now()
        run(None)
        seconds.append(clock.now() - start)
    peak = peak_megabytes(extent.device)
    if staged:
        run(clock)  # not timed as a whole, as waiting for every stage takes time
    return {
        "seconds": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "peak_mb": peak,
        "stages": dict(clock.seconds),
    }


def _run_tests() -> dict[str, Any]:
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}"]
        output = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
        if not report.exists():
            raise RuntimeError(f"pytest wrote no report: {output[-1000:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}.{case.get('name')}" for case in failed],
        "output": output[-4000:] if failed else "",
    }


def _learn(device: str, dry: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options = ["MODEL.DEVICE", device, "SOLVER.MAX_ITER", _LEARNING_ITERATIONS]
        cfg = load_config(
            get_config_file("quick/panet_R18_shapes.yaml"), [*options, "OUTPUT_DIR", folder]
        )
        if dry:
            _shrink_learning(cfg, Path(folder))
        trainer = PANetTrainer(cfg)
        start = time.perf_counter()
        results = trainer.train()
        return {
            "iterations": cfg.SOLVER.MAX_ITER,
            "seconds": time.perf_counter() - start,
            "box AP": results["bbox"]["AP"],
            "mask AP": results["segm"]["AP"],
        }


def _shrink_learning(cfg: CfgNode, folder: Path) -> None:
    name = f"few_shapes_{folder.name}"
    shapes.write_split(shapes.Split("few", 4, seed=1), folder / "images", folder / "few.json")
    register_coco_instances(name, {}, str(folder / "few.json"), str(folder / "images"))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 1, 2


def _compile(model: nn.Module, backend: str) -> None:
    model.backbone.compile(dynamic=True, backend=backend)


def _replay_backbone(model: nn.Module) -> None:
    model.backbone.forward = _Replayed(model.backbone.forward)


class _Replayed:
    """A function whose kernels are launched as one CUDA graph, for tensors of one shape."""

    def __init__(self, function: Callable[[Tensor], dict[str, Tensor]]) -> None:
        self.function = function
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        if self.graph is None:
            self._capture(x)
        self.x.copy_(x)
        self.graph.replay()
        return dict(self.output)  # the model adds entries

    def _capture(self, x: Tensor) -> None:
        self.x = x.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.function(self.x)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.function(self.x)
