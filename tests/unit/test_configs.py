"""Every configuration builds the model that its name says, and trains."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import ProposalNetwork, build_model
from paths import CONFIGS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from panet import load_config
from panet.compat.detectron2_batch_norm import PreciseNaiveSyncBatchNorm
from panet.engine import PANetTrainer
from panet.modeling import DeformConv
from panet.modeling.box_head import PANetBoxHead
from panet.modeling.pafpn import PAFPN
from panet.modeling.pooler import AllLevelPooler
from panet.prepare import prepare
from panet.utils.errors import UserError

FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base-"))
every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix()
)


def read(name: str) -> CfgNode:
    return prepare(load_config(str(CONFIGS / f"{name}.yaml")))


def build_without_memory(cfg: CfgNode) -> nn.Module:
    """The model at its real size, whose tensors have shapes and no contents."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.INDEPENDENT_RPN.WEIGHTS = ""
    with torch.device("meta"):
        return build_model(cfg)


@every_file
def test_builds(path: Path) -> None:
    cfg = prepare(load_config(str(path)))
    model = build_without_memory(cfg)
    if cfg.MODEL.TIMM.NAME:
        assert timm_blocks(model.backbone.bottom_up) == TIMM_BLOCKS[timm_network(path.stem)]
    else:
        assert_resnet(model.backbone.bottom_up, path.name)
    if isinstance(model, ProposalNetwork):
        return
    num_classes = {"cityscapes": 8, "mapillary": 37, "nuclei": 1, "shapes": 4}.get(
        cfg.DATASETS.TRAIN[0].split("_")[0], 80
    )
    predictor = model.roi_heads.box_predictor
    for stage in predictor if isinstance(predictor, nn.ModuleList) else [predictor]:
        assert stage.cls_score.out_features == num_classes + 1
    if model.roi_heads.mask_on:
        assert model.roi_heads.mask_head.predictor.out_channels == num_classes
    assert model.roi_heads.mask_on == ("faster" not in path.name and "_det" not in path.name)


def assert_resnet(resnet: nn.Module, file_name: str) -> None:
    assert len(resnet.res5) == (2 if "R18" in file_name else 3)
    blocks = 23 if "101" in file_name else 2 if "R18" in file_name else 6
    if "ensemble" not in file_name:  # whose first member is an X101
        assert len(resnet.res4) == blocks
        assert resnet.res2[0].conv2.groups == (64 if "X101_64x4d" in file_name else 1)


# The class of the blocks of each network, their number, and the groups of their convolutions.
TIMM_BLOCKS = {
    "resnext101_64x4d": ("Bottleneck", 3 + 4 + 23 + 3, 64),
    "seresnext101_32x4d": ("SEResNeXtBottleneck", 3 + 4 + 23 + 3, 32),
    "senet154": ("SEBottleneck", 3 + 8 + 36 + 3, 64),
    "resnet269": ("Bottleneck", 3 + 30 + 48 + 8, 1),
    "convnext_T": ("ConvNeXtBlock", 3 + 3 + 9 + 3, None),
    "swin_T": ("SwinTransformerBlock", 2 + 2 + 6 + 2, None),
}


def timm_network(file_stem: str) -> str:
    return file_stem.removeprefix("panet_").removesuffix("_balanced")


def timm_blocks(backbone: nn.Module) -> tuple[str, int, int | None]:
    kinds = {name for name, _, _ in TIMM_BLOCKS.values()}
    blocks = [module for module in backbone.modules() if type(module).__name__ in kinds]
    convolution = getattr(blocks[0], "conv2", None)
    return type(blocks[0]).__name__, len(blocks), getattr(convolution, "groups", None)


def make_small(cfg: CfgNode, dataset: str, folder: Path) -> None:
    """Narrow layers, small images and the tiny dataset; what else there is stays as it is."""
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.WEIGHTS = model.INDEPENDENT_RPN.WEIGHTS = model.CLASS_TRANSFER.SOURCE_DATASET = ""
    if model.RESNETS.DEPTH >= 50:
        model.RESNETS.STEM_OUT_CHANNELS = 8
        model.RESNETS.RES2_OUT_CHANNELS = 16
        model.RESNETS.WIDTH_PER_GROUP = 4
        model.RESNETS.NUM_GROUPS = min(2, model.RESNETS.NUM_GROUPS)
    if model.TIMM.NAME:
        model.TIMM.PRETRAINED = False
        key = "layers" if "res" in model.TIMM.NAME or "senet" in model.TIMM.NAME else "depths"
        model.TIMM.ARGUMENTS[key] = [1, 1, 1, 1]
    cfg.TEST.ENSEMBLE.MEMBERS = []
    # GN has 32 groups, and conv5_fc half of the mask head's channels.
    model.FPN.OUT_CHANNELS = model.ROI_BOX_HEAD.CONV_DIM = model.ROI_BOX_HEAD.FC_DIM = 32
    model.ROI_MASK_HEAD.CONV_DIM = 64
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = 30
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    model.ROI_HEADS.NUM_CLASSES = 4
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (dataset,)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.DATALOADER.NUM_WORKERS = 0
    # Keeping a single size single, and a range a range.
    smaller, larger = min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)
    cfg.INPUT.MIN_SIZE_TRAIN = (64,) if smaller == larger else (64, 96)
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 96
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(folder / "output")
    if model.LOAD_PROPOSALS:
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = cfg.DATASETS.PROPOSAL_FILES_TEST = (
            str(write_proposals(dataset, folder)),
        )


def write_proposals(dataset: str, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    ids = [record["image_id"] for record in DatasetCatalog.get(dataset)]
    corners = rng.uniform(0, 200, (len(ids), 30, 2))
    content = {
        "ids": ids,
        "boxes": list(np.concatenate([corners, corners + rng.uniform(8, 56, corners.shape)], 2)),
        "objectness_logits": list(rng.normal(size=(len(ids), 30))),
    }
    file = folder / "proposals.pkl"
    file.write_bytes(pickle.dumps(content))
    return file


class WithCalmBackbone(PANetTrainer):
    """Frozen norms do nothing to random weights, whose features would grow with every block."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        for name, scale in model.named_buffers():
            if name.endswith("conv3.norm.weight"):
                scale.fill_(0.1)
        return model


@every_file
def test_trains(path: Path, tiny_dataset: str, tmp_path: Path) -> None:
    cfg = prepare(load_config(str(path)))
    make_small(cfg, tiny_dataset, tmp_path)
    cfg.DATASETS.TEST = ()
    trainer = WithCalmBackbone(cfg)
    trainer.train()  # which raises an error unless the losses are finite
    losses = {name for name in trainer.storage.latest() if name.startswith("loss_")}
    expected = set()
    if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN":
        expected |= {"loss_rpn_cls", "loss_rpn_loc"}
    if cfg.MODEL.META_ARCHITECTURE != "ProposalNetwork":
        cascaded = cfg.MODEL.ROI_HEADS.NAME == "CascadePANetROIHeads"
        stages = ["_stage0", "_stage1", "_stage2"] if cascaded else [""]
        expected |= {f"{loss}{stage}" for loss in ("loss_cls", "loss_box_reg") for stage in stages}
    if cfg.MODEL.MASK_ON:
        expected |= {"loss_mask"}
    assert losses == expected
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_the_rpn_is_evaluated_and_resumes(tiny_dataset: str, tmp_path: Path) -> None:
    cfg = read("paper/rpn_R50")
    make_small(cfg, tiny_dataset, tmp_path)
    assert WithCalmBackbone(cfg).train()["box_proposals"]["AR@1000"] > 0
    cfg.SOLVER.MAX_ITER = 3
    resumed = WithCalmBackbone(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert "AR@100" in resumed.train()["box_proposals"]


CHALLENGE = "MST MBN BPA AFP(max,after) FF(conv3,sum) HHD"
COMPONENTS = {
    "ablations/table3_1_baseline": "",
    "ablations/table3_2_mst": "MST",
    "ablations/table3_3_mbn": "MST MBN",
    "ablations/table3_4_bpa": "MST MBN BPA",
    "ablations/table3_5_afp": "MST MBN AFP(max,after)",
    "ablations/table3_6_bpa_afp": "MST MBN BPA AFP(max,after)",
    "ablations/table3_7_ff": "MST MBN BPA AFP(max,after) FF(conv3,sum)",
    "ablations/table3_8_hhd": "MST MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "ablations/table4_before_max": "MST MBN AFP(max,before)",
    "ablations/table4_before_sum": "MST MBN AFP(sum,before)",
    "ablations/table4_after_max": "MST MBN AFP(max,after)",
    "ablations/table4_after_sum": "MST MBN AFP(sum,after)",
    "ablations/table5_conv2_sum": "MST MBN BPA AFP(max,after) FF(conv2,sum)",
    "ablations/table5_conv3_sum": "MST MBN BPA AFP(max,after) FF(conv3,sum)",
    "ablations/table5_conv4_sum": "MST MBN BPA AFP(max,after) FF(conv4,sum)",
    "ablations/table5_conv3_product": "MST MBN BPA AFP(max,after) FF(conv3,product)",
    "ablations/table5_conv3_max": "MST MBN BPA AFP(max,after) FF(conv3,max)",
    "ablations/table9_1_baseline": "",
    "ablations/table9_2_mbn": "MBN",
    "ablations/table9_3_panet": "MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "cityscapes/panet_R50_imagenet": "MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "cityscapes/panet_R50_coco": "MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "paper/panet_R50": "MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "paper/panet_R50_mst": "MST MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "paper/panet_X101_64x4d": "MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "paper/panet_X101_64x4d_mst": "MST MBN BPA AFP(max,after) FF(conv3,sum) HHD",
    "paper/panet_faster_R50": "MBN BPA AFP(max,after) HHD",
    "paper/panet_faster_R50_mst": "MST MBN BPA AFP(max,after) HHD",
    "paper/panet_faster_X101_64x4d": "MBN BPA AFP(max,after) HHD",
    "paper/panet_faster_X101_64x4d_mst": "MST MBN BPA AFP(max,after) HHD",
    "challenge/ensemble": f"{CHALLENGE} DCN",
    "challenge/panet_R50_dcn": f"{CHALLENGE} DCN",
    "challenge/panet_R50_dcn_tricks": f"{CHALLENGE} DCN",
    "challenge/panet_X101_64x4d_dcn": f"{CHALLENGE} DCN",
    "challenge/panet_X101_64x4d_dcn_balanced": f"{CHALLENGE} DCN",
    "challenge/panet_X101_64x4d_dcn_seed2": f"{CHALLENGE} DCN",
    "challenge/panet_resnet269": CHALLENGE,
    "challenge/panet_senet154": CHALLENGE,
    "challenge/panet_seresnext101_32x4d": CHALLENGE,
    "challenge/panet_seresnext101_32x4d_balanced": CHALLENGE,
}


def test_every_recipe_of_the_paper_is_in_the_table() -> None:
    folders = ("ablations", "challenge", "cityscapes", "paper")
    names = {
        path.relative_to(CONFIGS).with_suffix("").as_posix()
        for path in FILES
        if path.parent.name in folders
    }
    assert names - {"paper/rpn_R50"} == set(COMPONENTS)


@pytest.mark.parametrize(("name", "expected"), COMPONENTS.items())
def test_components(name: str, expected: str) -> None:
    cfg = read(name)
    model = build_without_memory(cfg)
    heads = model.roi_heads
    sizes = (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING, cfg.INPUT.MAX_SIZE_TRAIN)
    found = {
        "MST": sizes == ((400, 1400), "range", 1400),
        "MBN": is_synchronized(model),
        "BPA": isinstance(model.backbone, PAFPN),
        adaptive_pooling(heads.box_head.conv1 if has_heavier_head(model) else heads.box_head.fc1): (
            isinstance(heads.box_pooler, AllLevelPooler)
        ),
        fully_connected_fusion(model): heads.mask_on and heads.mask_head.fc_branch is not None,
        "HHD": has_heavier_head(model),
        "DCN": any(isinstance(m, DeformConv) for m in model.backbone.bottom_up.modules()),
    }
    assert [component for component, on in found.items() if on] == expected.split()
    if heads.mask_on:
        first = heads.mask_head.mask_fcn1
        assert isinstance(heads.mask_pooler, AllLevelPooler) == ("AFP" in expected)
        assert "AFP" not in expected or adaptive_pooling(first) in expected
    assert Path("output", name.removesuffix("_tricks")) == Path(cfg.OUTPUT_DIR)


def has_heavier_head(model: nn.Module) -> bool:
    head = model.roi_heads.box_head
    assert isinstance(head, PANetBoxHead)
    shape = (len(head.conv_norm_relus), len(head.fcs))
    assert shape in ((4, 1), (0, 2))
    return shape == (4, 1)


def adaptive_pooling(first_layer: Any) -> str:
    position = "before" if len(first_layer.levels) == 1 else "after"
    return f"AFP({first_layer.fusion},{position})"


def fully_connected_fusion(model: nn.Module) -> str:
    if not model.roi_heads.mask_on:
        return "FF"
    head = model.roi_heads.mask_head
    return f"FF(conv{head.fc_source_index + 1},{head.fc_combination})"


def is_synchronized(model: nn.Module) -> bool:
    """Whether every new layer has synchronized batch norm, or none has any norm.

    The RPN's layers and those that give the scores, boxes and masks have none in either case.
    """
    outputs = ("proposal_generator", "box_predictor", "predictor", "fc_branch.fc", "deconv")
    new_layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, Conv2d | nn.Linear | nn.ConvTranspose2d)
        or type(layer).__name__ == "FullyConnected"
        if "bottom_up" not in name and not any(output in name for output in outputs)
    ]
    norms = {type(getattr(layer, "norm", None)) for layer in new_layers}
    backbone = {
        type(norm)
        for norm in model.backbone.bottom_up.modules()
        if isinstance(norm, FrozenBatchNorm2d | _BatchNorm)
    }
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if norms == {type(None)}:
        assert backbone == {FrozenBatchNorm2d}
        assert all("bottom_up.stem" in name or "bottom_up.res2" in name for name in frozen)
        assert frozen
        return False
    assert norms <= {nn.SyncBatchNorm, PreciseNaiveSyncBatchNorm}
    assert backbone == {nn.SyncBatchNorm}
    assert not frozen
    return True


def test_results_name_every_recipe_of_others() -> None:
    pages = (CONFIGS.parent / "docs").glob("results*.md")
    text = "".join(page.read_text() for page in pages)
    named = set(re.findall(r"\| `([\w/-]+)`", text))
    names = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in FILES}
    folders = ("beyond/", "nuclei/", "quick/", "timm/")
    own = {name for name in names if "/" not in name or name.startswith(folders)}
    assert named == names - own - {"paper/rpn_R50"}


def test_the_last_row_of_table_3_is_panet() -> None:
    row, panet = read("ablations/table3_8_hhd"), read("paper/panet_R50_mst")
    row.OUTPUT_DIR = panet.OUTPUT_DIR
    assert row == panet


# Learning rate, where it is divided by 10, end, images a batch; sizes of training and testing.
COCO_MASKS = (0.02, (120_000,), 160_000, 16)
COCO_BOXES = (0.02, (60_000,), 80_000, 16)
CITYSCAPES = (0.01, (18_000,), 24_000, 8)


def test_the_models_of_the_challenge_differ_from_their_networks_recipes_in_training_alone() -> None:
    for name in ("resnet269", "senet154", "seresnext101_32x4d"):
        theirs, ours = read(f"challenge/panet_{name}").MODEL, read(f"timm/panet_{name}").MODEL
        ours.TIMM.NORM = "SyncBN"
        assert theirs.TIMM == ours.TIMM


@pytest.mark.parametrize("name", [name for name in COMPONENTS if "challenge" not in name])
def test_schedules_of_the_paper(name: str) -> None:
    cfg = read(name)
    solver = cfg.SOLVER
    schedule = (solver.BASE_LR, solver.STEPS, solver.MAX_ITER, solver.IMS_PER_BATCH)
    assert (solver.GAMMA, solver.WEIGHT_DECAY, solver.MOMENTUM) == (0.1, 1e-4, 0.9)
    heads = cfg.MODEL.ROI_HEADS
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION) == (512, 0.25)
    test_size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    train_size = (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN)
    if cfg.DATASETS.TRAIN == ("cityscapes_fine_instance_seg_train",):
        assert schedule == CITYSCAPES
        assert test_size == (1024, 2048)
        assert train_size == ((800, 1024), 2048)
        assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice"
        assert not cfg.MODEL.LOAD_PROPOSALS
        anchors = cfg.MODEL.ANCHOR_GENERATOR
        assert len({s for sizes in anchors.SIZES for s in sizes}) == 5
        assert len(anchors.ASPECT_RATIOS[0]) == 3
    else:
        assert schedule == (COCO_MASKS if cfg.MODEL.MASK_ON else COCO_BOXES)
        assert test_size == (800, 1000)
        assert train_size in (((800,), 1000), ((400, 1400), 1400))
        assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
        assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
        datasets = cfg.DATASETS
        assert datasets.PROPOSAL_FILES_TRAIN == ("output/proposals/coco_2017_train.pkl",)
        assert datasets.PRECOMPUTED_PROPOSAL_TOPK_TRAIN == 2000
        assert datasets.PRECOMPUTED_PROPOSAL_TOPK_TEST == 1000


def test_cityscapes_starts_from_the_weights_of_coco() -> None:
    cfg = read("cityscapes/panet_R50_coco")
    source = read("paper/panet_R50_mst")
    assert Path(source.OUTPUT_DIR, "model_final.pth") == Path(cfg.MODEL.WEIGHTS)
    given = build_without_memory(source).state_dict()
    for name, value in build_without_memory(cfg).state_dict().items():
        by_class = "box_predictor" in name or "mask_head.predictor" in name
        if not name.startswith("proposal_generator"):
            assert name in given
            assert value.shape == given[name].shape or by_class, name


def test_the_2x_recipe() -> None:
    cfg = read("panet_R50_2x")
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert cfg.SOLVER.BASE_LR == 0.02
    assert cfg.SOLVER.MAX_ITER == 180_000
    assert cfg.SOLVER.STEPS == (120_000, 160_000)
    assert (min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)) == (400, 1200)
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (
        1400,
        1000,
        1400,
    )
    norms = (cfg.MODEL.FPN, cfg.MODEL.PAFPN, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD)
    assert {node.NORM for node in norms} == {"GN"}


@pytest.mark.parametrize(("name", "drop_path"), [("convnext_T", 0.4), ("swin_T", 0.2)])
def test_todays_recipes(name: str, drop_path: float) -> None:
    cfg = read(f"timm/panet_{name}")
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == ("AdamW", 1e-4, 0.05)
    assert (solver.STEPS, solver.MAX_ITER, solver.IMS_PER_BATCH) == (
        (210_000, 250_000),
        270_000,
        16,
    )
    assert dict(cfg.MODEL.TIMM.ARGUMENTS) == {"drop_path_rate": drop_path}
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert (min(cfg.INPUT.MIN_SIZE_TRAIN), max(cfg.INPUT.MIN_SIZE_TRAIN)) == (480, 800)
    model = build_without_memory(cfg)
    decayed = [
        name
        for group in PANetTrainer.build_optimizer(cfg, model).param_groups
        if group["weight_decay"] > 0
        for parameter in group["params"]
        for name in [n for n, p in model.named_parameters() if p is parameter]
    ]
    assert any(n.startswith("backbone.bottom_up") and n.endswith("weight") for n in decayed)
    exempt = ("relative_position_bias_table", ".gamma", ".norm.weight", ".norm1.weight")
    assert not [n for n in decayed if n.endswith(exempt)]


@pytest.mark.parametrize(
    ("value", "expected"), [("{}", {}), ("{'drop_path_rate': 0.1}", {"drop_path_rate": 0.1})]
)
def test_a_dictionary_replaces_a_section(value: str, expected: dict[str, float]) -> None:
    file = str(CONFIGS / "timm" / "panet_convnext_T.yaml")
    cfg = load_config(file, ["MODEL.TIMM.ARGUMENTS", value])
    assert dict(cfg.MODEL.TIMM.ARGUMENTS) == expected
    with pytest.raises(UserError, match="ARGUMENTS is .* it must be of type CfgNode") as error:
        load_config(file, ["MODEL.TIMM.ARGUMENTS", "1"])
    assert "\n" not in str(error.value)
