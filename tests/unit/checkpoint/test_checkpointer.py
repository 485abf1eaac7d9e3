"""Loading weights into models with other classes, and other people's backbones."""

import logging
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from restatement import mmdet_state
from torch import Tensor, nn
from two_processes import run_in_two_processes

from panet.checkpoint import CompleteCheckpointer, PANetCheckpointer, build_checkpointer
from panet.checkpoint.class_transfer import match_classes, transfer_classes
from panet.engine import PANetTrainer
from panet.utils.errors import DownloadError, UserError

PREDICTOR = "roi_heads.box_predictor"
MASKS = "roi_heads.mask_head.predictor"
STREET, ZOO = ["person", "rider", "car"], ["zebra", "car", "person", "dog"]


@pytest.fixture
def street() -> Iterator[str]:
    MetadataCatalog.get("street").set(thing_classes=STREET)
    MetadataCatalog.get("zoo").set(thing_classes=ZOO)
    yield "street"
    MetadataCatalog.remove("street")
    MetadataCatalog.remove("zoo")


def model(cfg: CfgNode, num_classes: int) -> nn.Module:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return PANetTrainer.build_model(cfg)


def assert_transferred(before: dict[str, Tensor], new: nn.Module, old: nn.Module) -> None:
    """Person and rider come from the zoo's person, car from its car."""
    after, source = new.state_dict(), old.state_dict()
    for parameter in ("weight", "bias"):
        for layer, rows in ((f"{PREDICTOR}.cls_score", 1), (f"{PREDICTOR}.bbox_pred", 4)):
            ours, theirs = (state[f"{layer}.{parameter}"] for state in (after, source))
            ours, theirs = ours.view(len(ours) // rows, -1), theirs.view(len(theirs) // rows, -1)
            for own, other in ((0, 2), (1, 2), (2, 1)):
                assert torch.equal(ours[own], theirs[other])
        scores = f"{PREDICTOR}.cls_score.{parameter}"
        assert torch.equal(after[scores][-1], source[scores][-1])
        masks = f"{MASKS}.{parameter}"
        assert torch.equal(after[masks], source[masks][[2, 2, 1]])
    assert torch.equal(after["backbone.fpn_output2.weight"], source["backbone.fpn_output2.weight"])
    assert not torch.equal(before[f"{MASKS}.weight"], after[f"{MASKS}.weight"])


@pytest.mark.parametrize(
    ("file_name", "names_classes"), [("old.pth", True), ("old.pth", False), ("old.pkl", False)]
)
def test_classes_of_the_same_name_keep_their_weights(
    tiny_cfg: CfgNode, tmp_path: Path, street: str, file_name: str, names_classes: bool
) -> None:
    old = model(tiny_cfg, len(ZOO))
    for name, parameter in old.named_parameters():
        if name.startswith((PREDICTOR, MASKS)):
            nn.init.normal_(parameter)
    if file_name == "old.pth":
        dataset = "zoo" if names_classes else ""
        PANetCheckpointer(old, str(tmp_path), dataset=dataset).save("old")
    else:  # like the files of detectron2's model zoo
        arrays = {name: tensor.numpy() for name, tensor in old.state_dict().items()}
        content = pickle.dumps({"model": arrays, "__author__": "somebody"})
        (tmp_path / file_name).write_bytes(content)
    new = model(tiny_cfg, len(STREET))
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    tiny_cfg.DATASETS.TRAIN = (street,)
    tiny_cfg.MODEL.CLASS_TRANSFER.SYNONYMS = [["rider", "person"]]
    if not names_classes:
        tiny_cfg.MODEL.CLASS_TRANSFER.SOURCE_DATASET = "zoo"
    build_checkpointer(tiny_cfg, new).load(str(tmp_path / file_name))
    assert_transferred(before, new, old)


def test_new_classes_keep_what_the_model_has() -> None:
    state = {"box_predictor.cls_score.bias": torch.arange(5.0)}
    own = {"box_predictor.cls_score.bias": torch.full((4,), -1.0)}
    counterparts = match_classes(STREET, ZOO)
    assert counterparts == {"person": "person", "car": "car"}
    transfer_classes(state, own, STREET, ZOO, counterparts)
    assert state["box_predictor.cls_score.bias"].tolist() == [2, -1, 1, 4]


def test_class_agnostic_layers_stay() -> None:
    state = {
        "box_predictor.bbox_pred.bias": torch.arange(4.0),
        "mask_head.predictor.bias": torch.arange(1.0),
    }
    own = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    expected = {name: tensor.clone() for name, tensor in state.items()}
    transfer_classes(state, own, STREET, ZOO, match_classes(STREET, ZOO))
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_wrong_names_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"SYNONYMS has \['rider', 'cow'\]"):
        match_classes(STREET, ZOO, [["rider", "cow"]])
    state = {"box_predictor.cls_score.bias": torch.arange(9.0)}
    with pytest.raises(UserError, match=r"cls_score.bias .* 9 rows, which does not fit 4 classes"):
        transfer_classes(state, state, STREET, ZOO, {})


def test_the_keys_of_python_configurations_are_named(street: str, tmp_path: Path) -> None:
    def load(weight: Tensor, synonyms: list[list[str]]) -> None:
        network = nn.ModuleDict({"cls_score": nn.Linear(2, len(STREET) + 1, bias=False)})
        torch.save({"model": {"cls_score.weight": weight}, "classes": ZOO}, tmp_path / "zoo.pth")
        PANetCheckpointer(
            network,
            dataset=street,
            synonyms=synonyms,
            source_dataset_key="train.class_transfer.source_dataset",
            synonyms_key="train.class_transfer.synonyms",
        ).load(str(tmp_path / "zoo.pth"))

    with pytest.raises(UserError, match=r"^train\.class_transfer\.synonyms has \['rider', 'cow'\]"):
        load(torch.zeros(len(ZOO) + 1, 2), [["rider", "cow"]])
    with pytest.raises(UserError, match=r"; set train\.class_transfer\.source_dataset to the"):
        load(torch.zeros(9, 2), [])


def test_torchvisions_resnets_are_read(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    tiny_cfg.MODEL.RESNETS.DEPTH = 50
    tiny_cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    tiny_cfg.MODEL.RESNETS.NUM_GROUPS, tiny_cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 32, 4
    ours = model(tiny_cfg, 4).eval()
    theirs = torchvision.models.resnext50_32x4d().eval()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
    torch.save(theirs.state_dict(), tmp_path / "resnext50.pth")
    build_checkpointer(tiny_cfg, ours).load(str(tmp_path / "resnext50.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for number, level in enumerate(ours.backbone.bottom_up(images).values(), start=1):
            expected = getattr(theirs, f"layer{number}")(expected)
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)


def test_foreign_checkpoints_are_named(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / "mmdet.pth"
    torch.save({"meta": {}, "state_dict": mmdet_state()}, path)
    with pytest.raises(UserError, match=r"mmdet.pth .* --from mmdet"):
        build_checkpointer(tiny_cfg, model(tiny_cfg, 4)).load(str(path))


def test_missing_files_are_named_unless_they_are_not_needed(tiny_cfg: CfgNode) -> None:
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 1
    PANetTrainer(tiny_cfg).train()
    tiny_cfg.MODEL.WEIGHTS = "gone.pth?matching_heuristics=True"
    PANetTrainer(tiny_cfg).resume_or_load(resume=True)
    with pytest.raises(UserError, match="There is no checkpoint gone.pth;"):
        PANetTrainer(tiny_cfg).resume_or_load(resume=False)


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (PANetCheckpointer, ", or to '' for random weights."),
        (CompleteCheckpointer, "."),
    ],
)
def test_random_weights_are_suggested_unless_all_are_needed(
    kind: type[PANetCheckpointer], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(self: DetectionCheckpointer, path: str) -> None:
        raise URLError("no network")

    monkeypatch.setattr(DetectionCheckpointer, "load", no_network)
    for file, target in (("gone.pth", "an existing file"), ("detectron2://a.pkl", "a local copy")):
        with pytest.raises(UserError, match=re.escape(f"MODEL.WEIGHTS to {target}{advice}") + "$"):
            kind(nn.Linear(2, 1)).load(file)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["bias"], "bias is missing, unexpected or of another shape."),
        (["bias", "weight"], "bias and 1 other tensor are missing, unexpected or"),
        (["bias", "weight", "more"], "bias and 2 other tensors are missing, unexpected or"),
    ],
)
def test_different_tensors_are_counted(tmp_path: Path, missing: list[str], message: str) -> None:
    state = nn.Linear(2, 1).state_dict()
    state = {**state, "kept": torch.zeros(1), **dict.fromkeys(missing, torch.zeros(7))}
    torch.save({"model": state}, tmp_path / "model.pth")
    (tmp_path / "last_checkpoint").write_text("model.pth")
    network = nn.Linear(2, 1)
    network.register_buffer("kept", torch.zeros(1))
    with pytest.raises(UserError, match=re.escape(f"of this model: {message}")):
        PANetCheckpointer(network, str(tmp_path)).resume_or_load("")


def resume(folder: str, fault: str) -> None:
    """Resume in one of several processes, of which the second has a fault."""
    file = Path(folder, "model_0000003.pth")
    has_fault = comm.get_rank() == 1
    checkpointer = PANetCheckpointer(nn.Linear(2, 1), folder)
    if fault == "unreadable" and has_fault:
        read = checkpointer._torch_load

        def read_others(name: str) -> object:
            if name == str(file):
                raise UserError(f"{name} is damaged.")
            return read(name)

        checkpointer._torch_load = read_others
    if fault == "unlisted" and has_fault:
        checkpointer.has_checkpoint = lambda: False
    extra = checkpointer.resume_or_load("")
    Path(folder, f"{comm.get_rank()}.txt").write_text(str(extra["iteration"]))


@pytest.mark.parametrize(
    ("fault", "iteration"), [("removed", "1"), ("unreadable", "1"), ("unlisted", "3")]
)
def test_all_processes_resume_from_the_same_file(
    tmp_path: Path, fault: str, iteration: str
) -> None:
    checkpointer = PANetCheckpointer(nn.Linear(2, 1), str(tmp_path))
    for number in (1, 3):
        checkpointer.save(f"model_{number:07d}", iteration=number)
    if fault == "removed":
        (tmp_path / "model_0000003.pth").unlink()
    run_in_two_processes(resume, tmp_path / "store", str(tmp_path), fault)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == [iteration] * 2


def load_what_is_gone() -> None:
    with pytest.raises(UserError, match="There is no checkpoint gone.pth;"):
        PANetCheckpointer(nn.Linear(2, 1)).load("gone.pth")


def test_all_processes_name_a_missing_file(tmp_path: Path) -> None:
    run_in_two_processes(load_what_is_gone, tmp_path / "store")


def test_failing_downloads_are_named(tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(self: DetectionCheckpointer, path: str) -> None:
        raise URLError("no network")

    monkeypatch.setattr(DetectionCheckpointer, "load", no_network)
    with pytest.raises(DownloadError, match=r"detectron2://R-50.pkl cannot be downloaded"):
        build_checkpointer(tiny_cfg, model(tiny_cfg, 4)).load("detectron2://R-50.pkl")


def test_resuming_transfers_nothing(
    tiny_cfg: CfgNode, tmp_path: Path, street: str, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_cfg.DATASETS.TRAIN = (street,)
    first, second = model(tiny_cfg, 3), model(tiny_cfg, 3)
    build_checkpointer(tiny_cfg, first, str(tmp_path)).save("model")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="panet"):
        build_checkpointer(tiny_cfg, second).load(str(tmp_path / "model.pth"))
    assert not [record for record in caplog.records if record.name.startswith("panet")]
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_the_model_zoos_pickles_are_read_and_nothing_executed(
    tiny_cfg: CfgNode, tmp_path: Path, protocol: int
) -> None:
    ours = model(tiny_cfg, 4)
    path, trace = tmp_path / "zoo.pkl", tmp_path / "trace"
    weight = np.random.default_rng(0).random(ours.backbone.bottom_up.stem.conv1.weight.shape)
    contents = {
        "__author__": "somebody",
        "matching_heuristics": True,
        "model": {"stem.conv1.weight": weight.astype(np.float32)},
    }
    path.write_bytes(pickle.dumps(contents, protocol))
    build_checkpointer(tiny_cfg, ours).load(str(path))
    loaded = ours.backbone.bottom_up.stem.conv1.weight.detach().numpy()
    assert np.array_equal(loaded, weight.astype(np.float32))
    path.write_bytes(pickle.dumps({**contents, "extra": Executes(trace)}, protocol))
    with pytest.raises(UserError, match=r"zoo.pkl .* posix.mkdir"):
        build_checkpointer(tiny_cfg, ours).load(str(path))
    assert not trace.exists()


@pytest.mark.parametrize("whole_detector", [False, True])
def test_detectrons_pickles_are_read_as_detectron2_does(
    tmp_path: Path, whole_detector: bool
) -> None:
    blobs = {"conv1_w": np.ones((2, 3), np.float32), "conv1_w_momentum": np.zeros(2, np.float32)}
    path = tmp_path / "detectron.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "..."} if whole_detector else blobs))
    ours, theirs = (
        kind(nn.Linear(2, 1))._load_file(str(path))
        for kind in (PANetCheckpointer, DetectionCheckpointer)
    )
    assert ours.pop("model").keys() == theirs.pop("model").keys() == {"conv1_w"}
    assert ours == theirs
    path.write_bytes(pickle.dumps([blobs]))
    with pytest.raises(UserError, match=r"detectron.pkl holds a list instead of named tensors"):
        PANetCheckpointer(nn.Linear(2, 1)).load(str(path))
