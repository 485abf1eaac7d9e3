"""Tests of the ablation benchmark: rows, initial weights, resuming, and the written files."""

import csv
import json
import operator
import signal
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import needs
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from filelock import FileLock, Timeout
from paths import CONFIGS
from small_models import find_much
from torch import Tensor, nn

BENCHMARKS = CONFIGS.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import ablation  # noqa: E402
from components import ROWS, Row  # noqa: E402
from experiment import Experiment  # noqa: E402
from initial_weights import build_initial_model  # noqa: E402
from macs import count_macs  # noqa: E402

from panet.data.loader import build_train_loader  # noqa: E402
from panet.data.mapper import InstanceMapMapper  # noqa: E402
from panet.engine import PANetTrainer  # noqa: E402
from panet.modeling import PAFPN, AllLevelPooler, FusedFirstLayer  # noqa: E402
from panet.utils.cpu import has_fast_bfloat16  # noqa: E402

every_row = pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)


@pytest.fixture
def config_file(tiny_cfg: CfgNode, tmp_path: Path) -> Path:
    """A small base configuration with group norm."""
    tiny_cfg.MODEL.RESNETS.NORM = "GN"
    tiny_cfg.SOLVER.MAX_ITER = 6
    file = tmp_path / "base.yaml"
    file.write_text(tiny_cfg.dump())
    return file


@pytest.fixture
def experiment(config_file: Path, tmp_path: Path) -> Experiment:
    return Experiment(str(config_file), (), tmp_path / "ablation")


def components(model: nn.Module) -> str:
    """Describe the PANet components of a model, as determined from its modules."""
    heads = model.roi_heads
    box_first, mask_first = (
        next(module for module in head.modules() if isinstance(module, FusedFirstLayer))
        for head in (heads.box_head, heads.mask_head)
    )
    found = []
    if isinstance(model.backbone, PAFPN):
        found.append("path")
    if isinstance(heads.box_pooler, AllLevelPooler):
        assert isinstance(heads.mask_pooler, AllLevelPooler)
        for first in (box_first, mask_first):
            copies = {id(level) for level in first.levels}
            assert (first.fusion_position == "after") == (len(first.levels) == 4)
            found.append(f"{first.fusion} {first.fusion_position} of {len(copies)}")
        assert found[-1] == found.pop()
    if heads.mask_head.fc_branch is not None:
        found.append(f"conv{heads.mask_head.fc_source_index + 1} {heads.mask_head.fc_combination}")
    if len(heads.box_head.conv_norm_relus) == 4:
        found.append("heavier")
    return ", ".join(found)


COMPONENTS = {
    "mask-rcnn": "",
    "bottom-up": "path",
    "pooling": "max after of 4",
    "both": "path, max after of 4",
    "fc-fusion": "path, max after of 4, conv3 sum",
    "panet": "path, max after of 4, conv3 sum, heavier",
    "pooling-sum": "sum after of 4",
    "pooling-before": "max before of 1",
    "pooling-shared": "max after of 1",
    "fc-conv2": "path, max after of 4, conv2 sum",
    "fc-conv4": "path, max after of 4, conv4 sum",
    "fc-product": "path, max after of 4, conv3 product",
    "fc-max": "path, max after of 4, conv3 max",
}


@every_row
def test_every_row_has_its_components(row: Row) -> None:
    base = str(CONFIGS / "nuclei" / "panet_R18_nuclei.yaml")
    cfg = Experiment(base, (), Path("nowhere")).load_config(row, seed=0)
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        assert components(build_model(cfg)) == COMPONENTS[row.name]


def stock_name(name: str) -> str:
    """Return detectron2's name of a parameter of the heads."""
    return name.replace("fc1.levels.0", "fc1").replace("mask_fcn1.levels.0", "mask_fcn1")


def test_the_first_row_equals_the_mask_rcnn_of_detectron2(experiment: Experiment) -> None:
    cfg = experiment.load_config(ROWS["mask-rcnn"], seed=1)
    ours = find_much(build_initial_model(ROWS["mask-rcnn"], lambda row: cfg))
    stock_cfg = cfg.clone()
    stock_cfg.defrost()
    stock_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    stock_cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    stock_cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    stock = build_model(stock_cfg)
    assert not any(type(module).__module__.startswith("panet") for module in stock.modules())
    norms = [module for module in stock.backbone.bottom_up.modules() if "Norm" in str(type(module))]
    assert norms
    assert all(isinstance(norm, nn.GroupNorm) for norm in norms)
    for module in ours.modules():
        if isinstance(module, nn.GroupNorm):  # not the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    weights = {stock_name(name): value for name, value in ours.state_dict().items()}
    stock.load_state_dict(weights, strict=True)
    batch = next(iter(build_train_loader(cfg)))
    gradients: list[dict[str, Tensor]] = []
    losses: list[dict[str, Tensor]] = []
    for model in (ours, stock):
        torch.manual_seed(0)
        with EventStorage():
            losses.append(model.train()(batch))
        sum(losses[-1].values()).backward()
        gradients.append(
            {stock_name(n): p.grad.reshape(weights[stock_name(n)].shape) for n, p in named(model)}
        )
    # Rounding errors grow in the backward pass through many norms; one model is channels-last.
    for (found, expected), tolerance in ((losses, 1e-5), (gradients, 2e-2)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= tolerance * value.norm(), name
    with torch.no_grad():
        found, expected = (model.eval()(batch[:1])[0]["instances"] for model in (ours, stock))
    assert len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    boxes = (found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(*boxes, rtol=0, atol=1e-2)
    assert found.pred_masks.ne(expected.pred_masks).float().mean() < 1e-4


def named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.grad is not None]


def test_rows_start_from_the_weights_of_their_reference(experiment: Experiment) -> None:
    def parameters(row: Row, seed: int) -> dict[str, Tensor]:
        model = build_initial_model(row, lambda other: experiment.load_config(other, seed))
        return dict(model.named_parameters())

    start = {row.name: parameters(row, 1) for row in ROWS.values()}
    first = start["mask-rcnn"]
    backbone = {name for name in first if name.startswith(("backbone", "proposal_generator"))}
    for row in ROWS.values():
        own, reference = start[row.name], start[row.reference or row.name]
        common = {n for n in own.keys() & reference.keys() if own[n].shape == reference[n].shape}
        assert backbone <= common
        for name in common:
            assert torch.equal(own[name], reference[name]), (row.name, name)
        for name in backbone:
            assert torch.equal(own[name], first[name]), (row.name, name)
    other_seed = parameters(ROWS["mask-rcnn"], 2)
    weights = [name for name in backbone if first[name].count_nonzero() and first[name].dim() == 4]
    assert weights
    assert not any(torch.equal(first[name], other_seed[name]) for name in weights)


def test_training_starts_from_the_initial_weights(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {}

    def train(self: PANetTrainer) -> None:
        started.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
        raise KeyboardInterrupt

    monkeypatch.setattr(PANetTrainer, "train", train)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(ROWS["both"], 5)
    expected = build_initial_model(ROWS["both"], lambda row: experiment.load_config(row, 5))
    for name, parameter in expected.named_parameters():
        assert torch.equal(started[name], parameter), name


def test_all_rows_train_on_the_same_data(experiment: Experiment) -> None:
    def batches(row: Row, seed: int) -> list[tuple[str, Tensor]]:
        loader = build_train_loader(experiment.load_config(row, seed))
        return [(i["file_name"], i["image"]) for batch in islice(loader, 3) for i in batch]

    expected = batches(ROWS["mask-rcnn"], 1)
    for row in ROWS.values():
        for (name, image), (expected_name, expected_image) in zip(
            batches(row, 1), expected, strict=True
        ):
            assert name == expected_name
            assert torch.equal(image, expected_image)
    other = batches(ROWS["mask-rcnn"], 2)
    assert [name for name, _ in other] != [name for name, _ in expected]


def test_the_shared_first_layer_equals_four_with_the_same_weights(
    experiment: Experiment,
) -> None:
    cfgs = [experiment.load_config(ROWS[name], 1) for name in ("pooling-shared", "pooling")]
    shared, separate = (PANetTrainer.build_model(cfg) for cfg in cfgs)
    first_layers = [m for m in shared.modules() if isinstance(m, FusedFirstLayer)]
    assert len(first_layers) == 2
    for first in first_layers:
        assert len(first.levels) == 4
        assert len(
            {id(parameter) for level in first.levels for parameter in level.parameters()}
        ) == (len(list(first.levels[0].parameters())))
    names = {name for name, _ in separate.named_parameters()}
    copies = {name for name in names if any(f"levels.{i}." in name for i in (1, 2, 3))}
    assert {name for name, _ in shared.named_parameters()} == names - copies
    separate.load_state_dict(shared.state_dict())  # with the shared weight for all levels
    batch = next(iter(build_train_loader(cfgs[0])))
    losses = []
    for model in (shared, separate):
        torch.manual_seed(0)
        with EventStorage():
            losses.append(model.train()(batch))
        sum(losses[-1].values()).backward()
    assert losses[0] == losses[1]
    ours, theirs = (dict(model.named_parameters()) for model in (shared, separate))
    for name, parameter in ours.items():
        gradient = sum(
            theirs[name.replace("levels.0.", f"levels.{level}.")].grad
            for level in range(4 if "levels.0." in name else 1)
        )
        scale = gradient.abs().max().item()
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5 * scale)
    optimizer = PANetTrainer.build_optimizer(cfgs[0], shared)
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(optimized) == len({id(p) for p in optimized}) == len(ours)


def test_macs_of_one_more_proposal(experiment: Experiment) -> None:
    cfg = experiment.load_config(ROWS["mask-rcnn"], 1)
    model = PANetTrainer.build_model(cfg).train()
    counts = [count_macs(model, 64, proposals, 3) for proposals in (10, 11)]
    channels, width, classes = 32, 32, 4
    outputs = classes + 1 + 4 * classes
    expected = channels * 7 * 7 * width + width * width + width * outputs
    assert counts[1] - counts[0] == expected
    assert model.training


# Tests of the whole program


def run(*arguments: object) -> int:
    """Run the program and return its status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ablation.py", *map(str, arguments)])
        try:
            ablation.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("ablation.")
    }


def test_interrupted_trainings_resume_and_finished_ones_are_kept(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    images: list[str] = []
    read = InstanceMapMapper.__call__

    def read_and_record(self: InstanceMapMapper, record: dict[str, Any]) -> Any:
        data = read(self, record)
        if self.is_train:
            images.append(f"{record['file_name']} {data['image'].float().mean()}")
        return data

    monkeypatch.setattr(InstanceMapMapper, "__call__", read_and_record)
    common = ["--config-file", config_file, "--seeds", 1, "--device", "cpu", "--keep-weights"]
    rows = ["--rows", "mask-rcnn", "panet"]
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    assert run(*common, *rows, "--output-dir", uninterrupted) == 0
    half = len(images) // 2
    assert half >= 12
    assert images[:half] == images[half:]  # both rows train on the same data

    before_step, test = PANetTrainer.before_step, PANetTrainer.test

    def interrupt(self: PANetTrainer) -> None:
        before_step(self)
        if self.iter == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(PANetTrainer, "before_step", interrupt)
        assert run(*common, *rows, "--output-dir", stopped) == 130
    assert not list(stopped.rglob("result.json"))
    assert not (stopped / "panet").exists()

    def fail(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(PANetTrainer, "test", fail)
        with pytest.raises(MemoryError):  # after the last iteration
            run(*common, *rows, "--output-dir", stopped)
    assert not list(stopped.rglob("result.json"))
    assert PANetTrainer.test == test
    assert run(*common, *rows, "--output-dir", stopped) == 0
    assert images[2 * half :] == images[: 2 * half]  # no iteration was repeated
    for row in ("mask-rcnn", "panet"):
        files = [folder / row / "seed_1" for folder in (uninterrupted, stopped)]
        assert [path.name for path in files[1].glob("*.pth")] == ["model_final.pth"]
        weights = [torch.load(file / "model_final.pth")["model"] for file in files]
        for name, value in weights[0].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(weights[1][name])), name
        expected, found = (json.loads((file / "result.json").read_text()) for file in files)
        assert str(found["metrics"]) == str(expected["metrics"])
        assert found["metrics"].keys() == {"bbox", "segm"}

    before = contents(stopped)
    assert run(*common, *rows, "--output-dir", stopped) == 0
    assert contents(stopped) == before

    capsys.readouterr()
    changes: list[list[Any]] = [["--iterations", 7]]
    if has_fast_bfloat16():
        changes.append(["--dtype", "bfloat16"])
    for change in changes:
        assert run(*common, "--rows", "bottom-up", *change, "--output-dir", stopped) == 2
        error = capsys.readouterr().err
        key = "SOLVER.MAX_ITER" if "--iterations" in change else "SOLVER.AMP.ENABLED"
        assert (
            f"mask-rcnn/seed_1 contains a training with a different configuration ({key})" in error
        )
    assert contents(stopped) == before
    moved = stopped.rename(tmp_path / "moved")
    assert run(*common, *rows, "--output-dir", moved) == 0
    assert contents(moved) == before


def test_trainings_of_other_processes_are_skipped(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "ablation" / "mask-rcnn" / "seed_1"
    folder.mkdir(parents=True)
    arguments = ["--config-file", config_file, "--output-dir", tmp_path / "ablation"]
    with FileLock(folder / "lock"):
        assert run(*arguments, "--rows", "mask-rcnn", "--seeds", 1, "--device", "cpu") == 0
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert "Other processes" in capsys.readouterr().out


def test_only_one_process_writes_the_comparison_at_a_time(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "ablation"
    written = []

    def check_lock(results: list[Any], folder: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(output / "lock").acquire(blocking=False)
        written.append(len(results))

    monkeypatch.setattr(ablation, "write_comparison", check_lock)
    arguments = ["--config-file", config_file, "--output-dir", output, "--rows", "mask-rcnn"]
    arguments += ["--device", "cpu", "--iterations", 1]
    assert run(*arguments, "--seeds", 1, 2) == 0
    assert written == [1, 2]


@needs.BFLOAT16
def test_bfloat16_and_the_files_of_a_training(config_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "ablation"
    arguments = ["--config-file", config_file, "--output-dir", output, "--rows", "pooling-shared"]
    arguments += ["--seeds", 3, "--dtype", "bfloat16", "--device", "cpu"]
    assert run(*arguments, "--", "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.IMS_PER_BATCH", 1) == 0
    folder = output / "pooling-shared" / "seed_3"
    assert not list(folder.glob("*.pth"))
    assert not (folder / "last_checkpoint").exists()
    assert {"config.yaml", "metrics.json", "result.json", "log.txt"} <= {
        path.name for path in folder.iterdir()
    }
    config = (folder / "config.yaml").read_text()
    assert "DTYPE: bfloat16" in config
    assert "IMS_PER_BATCH: 1" in config
    result = json.loads((folder / "result.json").read_text())
    assert result["seconds_per_iteration"] > 0
    assert result["iterations"] == 6
    assert result["versions"]["torch"] == torch.__version__
    assert "one first layer for all levels" in (output / "ablation.md").read_text()
    (line,) = csv.DictReader((output / "ablation.csv").open())
    assert (line["row"], line["seed"]) == ("pooling-shared", "3")
    assert int(line["multiply_adds"]) == result["multiply_adds"] > 1e6


@pytest.mark.parametrize("key", ["DATASETS.TEST", "MODEL.MASK_ON"])
def test_configurations_that_cannot_be_compared_raise_an_error(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    value = {"DATASETS.TEST": "()", "MODEL.MASK_ON": "False"}[key]
    output = tmp_path / "ablation"
    assert run("--config-file", config_file, "--output-dir", output, key, value) == 2
    assert "base.yaml cannot be compared by box and mask AP; it needs MODEL.MASK_ON True" in (
        capsys.readouterr().err
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("MODEL.ADAPTIVE_POOLING.FUSION", "set by the rows; choose rows with --rows"),
        ("SEED", "set by --seeds; remove it"),
    ],
)
def test_keys_without_effect_raise_an_error(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, advice: str
) -> None:
    output = tmp_path / "ablation"
    keys = ["TEST.NUM_PICTURES", "0", key, "1"]
    assert run("--config-file", config_file, "--output-dir", output, *keys) == 2
    assert f"{key} is {advice}" in capsys.readouterr().err
    assert not output.exists()


def test_keys_set_by_arguments_exist(experiment: Experiment) -> None:
    cfg = experiment.load_config(ROWS["mask-rcnn"], seed=1)
    for key in ablation.ARGUMENT_OF_KEY:
        assert operator.attrgetter(key)(cfg) is not None
