"""Networks of timm as backbones: what they give, what is frozen, and where their weights are."""

import logging
import os
import pickle
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import needs
import pytest
import timm
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_backbone, build_model
from detectron2.utils import comm
from safetensors.torch import save_file
from torch import Tensor, nn

from panet import load_config, model_zoo, optimize_for_inference
from panet.checkpoint import build_checkpointer
from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.compat.detectron2_launch import launch
from panet.engine import PANetTrainer
from panet.modeling import TimmBackbone
from panet.prepare import prepare
from panet.utils.errors import DownloadError, UserError

# Of families that have little in common: channels of strides 4 to 32.
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "regnety_002": (24, 56, 152, 368),
    "mobilenetv3_small_050": (8, 16, 24, 288),
    "convnext_atto": (40, 80, 160, 320),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "pvt_v2_b0": (32, 64, 160, 256),
    "hrnet_w18_small": (128, 256, 512, 1024),
    "test_maxvit": (32, 64, 96, 128),
}
SMALL = {"swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)}}
SIZES = [(96, 160), (256, 32)]


def backbone(name: str, **options: Any) -> TimmBackbone:
    return TimmBackbone(name, arguments=SMALL.get(name), **options)


def loss(features: dict[str, Tensor]) -> Tensor:
    return sum(feature.square().mean() for feature in features.values())


def timm_cfg(cfg: CfgNode, name: str) -> CfgNode:
    cfg.MODEL.BACKBONE.NAME = "build_timm_pafpn_backbone"
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.ARGUMENTS = CfgNode(SMALL.get(name, {}), new_allowed=True)
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    return cfg


@pytest.mark.parametrize("name", CHANNELS)
def test_features_of_images_of_any_size(name: str) -> None:
    model = backbone(name)
    shapes = model.output_shape()
    assert {n: s.stride for n, s in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    assert tuple(shape.channels for shape in shapes.values()) == CHANNELS[name]
    for training in (True, False):
        model.train(training)
        for height, width in SIZES:
            features = model(torch.randn(2, 3, height, width))
            assert list(features) == list(shapes)
            for feature, shape in zip(features.values(), shapes.values()):
                size = (height // shape.stride, width // shape.stride)
                assert feature.shape == (2, shape.channels, *size)


@pytest.mark.parametrize("name", CHANNELS)
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    model = backbone(name)
    loss(model(torch.randn(2, 3, 64, 96))).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_what_no_output_needs_is_not_trained() -> None:
    model = TimmBackbone("hrnet_w18_small", ("res2", "res3"))
    loss(model(torch.randn(2, 3, 64, 64))).backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all((p.grad is None) == (n in frozen) for n, p in model.named_parameters())


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_equals_timms_own_model(name: str) -> None:
    model = backbone(name).eval()
    strict = {} if name == "resnet18" else {"strict_img_size": False}
    theirs = timm.create_model(name, **SMALL.get(name, {}), **strict).eval()
    own_names = {n.replace("_", "."): n for n in model.network.state_dict()}
    state = {n.replace("_", "."): tensor for n, tensor in theirs.state_dict().items()}
    renamed = {own_names[n]: t for n, t in state.items() if n in own_names}
    assert renamed.keys() == model.network.state_dict().keys()
    model.network.load_state_dict(renamed)
    images = torch.randn(1, 3, 224, 224)
    coarsest = model(images)["res5"]
    expected = theirs.forward_features(images)
    if name != "resnet18":  # its last norm is not part of the features
        coarsest, expected = theirs.norm(coarsest.permute(0, 2, 3, 1)), expected
    torch.testing.assert_close(coarsest, expected)


def test_padding_for_windows_is_cropped_again() -> None:
    model = backbone("test_maxvit").eval()
    assert model.divisor == 160
    images = torch.randn(1, 3, 96, 192)
    padded = torch.zeros(1, 3, 160, 320)
    padded[:, :, :96, :192] = images
    for feature, expected in zip(model(images).values(), model.network(padded)):
        rows, columns = feature.shape[2:]
        torch.testing.assert_close(feature, expected[:, :, :rows, :columns])


def test_features_of_convolutions_without_padding_are_centered() -> None:
    model = TimmBackbone("inception_v3", ("res2", "res3")).eval()
    images = torch.randn(1, 3, 128, 160)
    for feature, inner in zip(model(images).values(), model.network(images)):
        top = (feature.shape[2] - inner.shape[2]) // 2
        assert top > 0
        rows, columns = inner.shape[2:]
        assert torch.equal(feature[:, :, top : top + rows, top : top + columns], inner)


@pytest.mark.parametrize(
    ("name", "freeze_at", "last_frozen", "first_trained"),
    [
        ("resnet18", 0, "", "conv1"),
        ("resnet18", 1, "bn1", "layer1"),
        ("resnet18", 2, "layer1", "layer2"),
        ("resnet18", 5, "layer4", ""),
        ("convnext_atto", 1, "stem_1", "stages_0"),
        ("convnext_atto", 2, "stages_0", "stages_1"),
        ("swin_tiny_patch4_window7_224", 1, "patch_embed", "layers_0"),
        ("swin_tiny_patch4_window7_224", 3, "layers_1", "layers_2"),
        ("pvt_v2_b0", 2, "stages_0", "stages_1"),
    ],
)
def test_freezing_up_to_a_stage(
    name: str, freeze_at: int, last_frozen: str, first_trained: str
) -> None:
    model = backbone(name, freeze_at=freeze_at)
    children = [
        child for child in model.network.children() if any(True for _ in child.parameters())
    ]
    names = [n for n, c in model.network.named_children() if any(True for _ in c.parameters())]
    frozen = [not any(p.requires_grad for p in child.parameters()) for child in children]
    trained = [all(p.requires_grad for p in child.parameters()) for child in children]
    boundary = names.index(first_trained) if first_trained else len(names)
    assert all(frozen[:boundary])
    assert all(trained[boundary:])
    assert names[boundary - 1] == last_frozen or freeze_at == 0


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "mobilenetv3_small_050"])
def test_a_training_step_leaves_the_frozen_part_as_it_is(name: str) -> None:
    model = backbone(name, freeze_at=2).train()
    before = {n: tensor.clone() for n, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained & changed
    assert {n.rpartition(".")[0] for n in changed} <= {n.rpartition(".")[0] for n in trained}
    assert any(n.endswith("running_mean") for n in changed)


@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])  # norms with and without activation
@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N"])
def test_norms(name: str, norm: str) -> None:
    torch.manual_seed(1)
    plain = backbone(name).eval()
    torch.manual_seed(1)
    model = backbone(name, norm=norm).eval()
    images = torch.randn(2, 3, 64, 64)
    for ours, expected in zip(model(images).values(), plain(images).values()):
        torch.testing.assert_close(ours, expected)
    kinds = {
        "FrozenBN": "FrozenBatchNorm",
        "SyncBN": "SyncBatchNorm",
        "naiveSyncBN": "NaiveSyncBatchNorm",
        "naiveSyncBN_N": "NaiveSyncBatchNorm",
    }
    norms = [module for module in model.modules() if hasattr(module, "running_mean")]
    assert all(kinds[norm] in type(module).__name__ for module in norms)
    naive = [m for m in norms if isinstance(m, PreciseNaiveSyncBatchNorm)]
    assert naive == (norms if norm.startswith("naive") else [])
    assert {m._stats_mode for m in naive} <= {norm.removeprefix("naiveSyncBN").strip("_")}
    loss(model.train()(images)).backward()
    moved = any(module.running_mean.abs().sum() > 0 for module in norms)
    assert moved == (norm != "FrozenBN")


def statistics(file: str) -> None:
    """Save the running means after a step on this process's share of two images."""
    torch.manual_seed(0)
    model = backbone("regnety_002", norm="naiveSyncBN")
    images = torch.randn(2, 3, 64, 64)
    features = model(images[comm.get_rank() :: comm.get_world_size()])
    loss(features).backward()
    if comm.is_main_process():
        means = {n: t for n, t in model.state_dict().items() if n.endswith("running_mean")}
        torch.save(means, file)


@pytest.mark.slow
def test_synchronized_norms_see_the_joint_batch(tmp_path: Path) -> None:
    joint, shared = str(tmp_path / "joint.pth"), str(tmp_path / "shared.pth")
    statistics(joint)
    launch(statistics, 2, dist_url="auto", args=(shared,))
    torch.testing.assert_close(torch.load(shared), torch.load(joint), rtol=1e-3, atol=1e-5)


def train(cfg: CfgNode, json_file: str, images: str) -> None:
    register_coco_instances(cfg.DATASETS.TRAIN[0], {}, json_file, images)  # of a new process
    PANetTrainer(cfg).train()


@pytest.mark.slow
def test_two_processes_train_on_a_cpu(tiny_cfg: CfgNode) -> None:
    cfg = timm_cfg(tiny_cfg, "regnety_002")
    cfg.MODEL.TIMM.NORM = "SyncBN"
    cfg.SOLVER.MAX_ITER = 2
    cfg.DATASETS.TEST = ()
    dataset = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    launch(train, 2, dist_url="auto", args=(cfg, dataset.json_file, dataset.image_root))
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").is_file()


def test_indices_can_be_chosen() -> None:
    automatic = TimmBackbone("csatv2", ("res3", "res4")).network.feature_info
    assert automatic.out_indices == (1, 2)  # not 0, which has stride 8 too
    model = TimmBackbone("resnet18", ("res2", "res3"), out_indices=(1, 2))
    assert list(model.output_shape()) == ["res2", "res3"]
    assert not hasattr(model.network, "layer3")


def test_one_stride_of_a_plain_transformer() -> None:
    model = TimmBackbone("test_vit", ("res4",))
    assert model(torch.randn(1, 3, 96, 64))["res4"].shape == (1, 64, 6, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, r"NAME is 'resnet81', .* the closest names are resnet18, "),
        (
            {"name": "resnet18.a9_in1k"},
            r"resnet18.a9_in1k', .* closest names are resnet18.a1_in1k, ",
        ),
        ({"name": "vit_tiny_patch16_224"}, r"of strides 16, but .* needs 4, 8, 16, 32"),
        ({"name": "hiera_tiny_224"}, "hiera_tiny_224 cannot be .* images of any size"),
        ({"out_indices": (7,)}, r"OUT_INDICES is \(7,\), but resnet18 has features 0 to 4"),
        ({"norm": "GN"}, "TIMM.NORM is 'GN'; it must be one of '', 'FrozenBN'"),
        ({"arguments": {"depth": 3}}, "resnet18 with MODEL.TIMM.ARGUMENTS .* argument 'depth'"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimmBackbone(**{"name": "resnet18", **options})


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="pip install timm"):
        TimmBackbone("resnet18")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_loaded(tmp_path: Path, suffix: str) -> None:
    source = timm.create_model("resnet18")
    file = tmp_path / f"resnet18{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), file)
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}}
    model = TimmBackbone("resnet18", pretrained=True, arguments=overlay)
    expected = source.state_dict()
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, expected[name])


class Executes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_execute_nothing(tmp_path: Path) -> None:
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"conv1.weight": Executes(trace)}, file)
        overlay = {"pretrained_cfg_overlay": {"file": str(file)}}
        with pytest.raises(UserError, match="weights of MODEL.TIMM.NAME resnet18 cannot be loaded"):
            TimmBackbone("resnet18", pretrained=True, arguments=overlay)
        assert not trace.exists()


def test_models_without_weights_are_named() -> None:
    with pytest.raises(UserError, match="no weights for MODEL.TIMM.NAME seresnet18; set"):
        TimmBackbone("seresnet18", pretrained=True)


def no_network(*_args: Any, **_kwargs: Any) -> None:
    raise URLError("no network")


@pytest.mark.parametrize(
    ("name", "where"),
    [("resnet18", "https://huggingface.co/timm/resnet18.a1_in1k"), ("legacy_seresnet18", "github")],
)
def test_without_a_network(monkeypatch: pytest.MonkeyPatch, name: str, where: str) -> None:
    for function in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{function}", no_network)
    with pytest.raises(DownloadError, match=f"{where}.*no network.*PRETRAINED False"):
        TimmBackbone(name, pretrained=True)


def test_the_model_zoo_keeps_random_weights_without_a_network(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with caplog.at_level(logging.WARNING):
        assert model_zoo.get("timm/panet_convnext_T.yaml", device="cpu").training
    assert "The model keeps random weights" in caplog.text


def test_pretrained_weights_are_not_asked_for_where_others_follow(tiny_cfg: CfgNode) -> None:
    cfg = timm_cfg(tiny_cfg, "seresnet18")  # for which there are none
    cfg.MODEL.TIMM.PRETRAINED = True
    cfg.MODEL.WEIGHTS = "model_final.pth"
    build_backbone(cfg)


def test_images_come_as_the_model_knows_them(caplog: pytest.LogCaptureFixture) -> None:
    options = ["MODEL.BACKBONE.NAME", "build_timm_backbone", "MODEL.TIMM.NAME"]
    cfg = prepare(
        load_config("", [*options, "mobilenetv3_large_100.miil_in21k"])
    )  # trained on [0, 1]
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == (
        "RGB",
        [0, 0, 0],
        [255, 255, 255],
    )
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
    assert "was trained with" not in caplog.text
    cfg.MODEL.PIXEL_MEAN = [1, 2, 3]
    with caplog.at_level(logging.WARNING):
        build_backbone(cfg)
    assert caplog.text.count("was trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [0") == 1
    own = [*options, "resnet18", "MODEL.TIMM.OWN_NORMALIZATION", "False", "INPUT.FORMAT", "BGR"]
    assert prepare(load_config("", own)).INPUT.FORMAT == "BGR"
    other = prepare(load_config("", ["MODEL.TIMM.NAME", "resnet18"]))
    assert other.INPUT.FORMAT == "BGR"


@pytest.mark.parametrize("name", ["regnety_002", "convnext_atto", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs.BFLOAT16)]
)
def test_optimized_for_inference(tiny_cfg: CfgNode, name: str, dtype: torch.dtype) -> None:
    cfg = timm_cfg(tiny_cfg, name)
    model = build_model(cfg).eval()
    images = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        expected = model.backbone(images)
        optimized = optimize_for_inference(model, dtype).backbone
        ours = optimized(images)
        rounded = (
            optimized.bottom_up(images)["res5"] - model.backbone.bottom_up(images)["res5"]
        ).norm()
        again = model.backbone(images)
    assert (rounded > 0.001 * expected["p5"].norm()) == (dtype == torch.bfloat16)
    for level, reference in expected.items():
        assert torch.equal(again[level], reference)
        tolerance = 1e-4 if dtype == torch.float32 else 0.05 * reference.abs().max().item()
        torch.testing.assert_close(ours[level].float(), reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_it_trains_saves_and_loads(tiny_cfg: CfgNode, dtype: str) -> None:
    cfg = timm_cfg(tiny_cfg, "regnety_002")
    cfg.MODEL.TIMM.NORM = "SyncBN"  # plain batch norm in one process on a CPU
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = bool(dtype), dtype
    cfg.SOLVER.MAX_ITER = 2
    cfg.DATASETS.TEST = ()
    trainer = PANetTrainer(cfg)
    trainer.train()
    loaded = build_model(cfg)
    build_checkpointer(cfg, loaded).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
    expected = trainer.model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_files_of_timm_are_read_as_backbones(tiny_cfg: CfgNode, tmp_path: Path, name: str) -> None:
    file = tmp_path / "model.safetensors"
    source = timm.create_model(name)
    save_file(source.state_dict(), file)
    cfg = timm_cfg(tiny_cfg, name)
    model = build_model(cfg)
    build_checkpointer(cfg, model).load(str(file))
    expected = timm.create_model(
        name, pretrained=True, features_only=True, pretrained_cfg_overlay={"file": str(file)}
    ).state_dict()
    loaded = model.backbone.bottom_up.network.state_dict()
    assert all(torch.equal(loaded[n], expected[n]) for n in expected)


def test_free_parameters_do_not_decay(tiny_cfg: CfgNode) -> None:
    cfg = timm_cfg(tiny_cfg, "swin_tiny_patch4_window7_224")
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.WEIGHT_DECAY = "AdamW", 0.05
    model = build_model(cfg)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = PANetTrainer.build_optimizer(cfg, model).param_groups
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    for name, value in decay.items():
        module = model.get_submodule(name.rpartition(".")[0])
        free = name.endswith("relative_position_bias_table")
        assert value == (0.0 if free or isinstance(module, nn.LayerNorm | nn.GroupNorm) else 0.05)
    assert sum(name.endswith("relative_position_bias_table") for name in decay) == 4
