"""Configuration keys added to detectron2's, and loading of YAML configurations."""

import ast
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from .config_errors import explained_config_errors
from .utils.errors import UserError

SPLITS = ("TRAIN", "VAL", "TEST")
"""Sections of ``DATASETS.OWN``."""


def add_panet_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg``, in place.

    ``MODEL.BACKBONE.NAME`` enables the bottom-up path: "build_resnet_pafpn_backbone" has it,
    detectron2's "build_resnet_fpn_backbone" does not. The keys below control the other components.
    """
    # Bottom-up path augmentation (section 3.1 of the paper).
    cfg.MODEL.PAFPN = CfgNode()
    # Normalization of the convolutions of the bottom-up path: "", "GN", "BN", "SyncBN",
    # "naiveSyncBN", "naiveSyncBN_N", "FrozenBN" or "LN". "" means none.
    cfg.MODEL.PAFPN.NORM = ""
    # Whether these convolutions have a bias even if normalized, as in the authors' release.
    cfg.MODEL.PAFPN.CONV_BIAS = False

    # timm model as backbone, with MODEL.BACKBONE.NAME "build_timm_pafpn_backbone" or, without a
    # feature pyramid, "build_timm_backbone".
    cfg.MODEL.TIMM = CfgNode()
    # Name of the timm model, with or without the tag of its weights, e.g. "convnext_tiny.fb_in1k".
    # It must have features of all strides of MODEL.FPN.IN_FEATURES.
    cfg.MODEL.TIMM.NAME = ""
    # Whether to load timm's weights, from its cache or by download. Ignored if MODEL.WEIGHTS is
    # set.
    cfg.MODEL.TIMM.PRETRAINED = False
    # Indices of timm's features to use instead of the last feature of the same stride.
    cfg.MODEL.TIMM.OUT_INDICES = ()
    # Replacement of the model's batch norms: "FrozenBN", "SyncBN", "naiveSyncBN" or
    # "naiveSyncBN_N". "" keeps them.
    cfg.MODEL.TIMM.NORM = ""
    # Further arguments of timm.create_model, e.g. {"drop_path_rate": 0.2}.
    cfg.MODEL.TIMM.ARGUMENTS = CfgNode(new_allowed=True)
    # Whether to set INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD to the values that the timm
    # model was trained with.
    cfg.MODEL.TIMM.OWN_NORMALIZATION = True

    # Adaptive feature pooling of the box and mask heads (section 3.2 of the paper).
    cfg.MODEL.ADAPTIVE_POOLING = CfgNode()
    # Whether to pool every RoI from all levels. If False, every RoI is pooled from the single level
    # that FPN assigns it to.
    cfg.MODEL.ADAPTIVE_POOLING.ENABLED = True
    # Operation that fuses the levels: "max" (the paper's choice in Table 4) or "sum".
    cfg.MODEL.ADAPTIVE_POOLING.FUSION = "max"
    # Where to fuse the levels: "after" the first parameter layer of the head (the paper's choice in
    # Table 4) or "before" it.
    cfg.MODEL.ADAPTIVE_POOLING.POSITION = "after"
    # Whether to pool again in the backward pass instead of storing the pooled features. Saves
    # memory in training, at the cost of speed.
    cfg.MODEL.ADAPTIVE_POOLING.RECOMPUTE = False
    # Whether to pool from all levels at once (on CUDA by a Triton kernel, if Triton is installed)
    # and to compute the first fc layers of all levels as one batched product. Launches fewer
    # kernels, but its correctness and speed on a GPU have not been validated. Slower and larger on
    # a CPU.
    cfg.MODEL.ADAPTIVE_POOLING.BATCHED = False

    # Fully-connected fusion in the mask head (section 3.3 of the paper).
    cfg.MODEL.FC_FUSION = CfgNode()
    # Convolution whose output the fully-connected branch reads: "conv2", "conv3" (the paper's
    # choice in Table 5) or "conv4". "none" disables the branch.
    cfg.MODEL.FC_FUSION.SOURCE = "conv3"
    # How to combine the logits of the two branches: "sum" (the paper's choice in Table 5),
    # "product" or "max".
    cfg.MODEL.FC_FUSION.COMBINATION = "sum"
    # Whether the branch ends with a ReLU, as in the authors' release. The paper has none.
    cfg.MODEL.FC_FUSION.RELU = False

    # Normalization of the fc layers of the box head, with the same values as MODEL.PAFPN.NORM.
    # MODEL.ROI_BOX_HEAD.NORM is for its convolutions.
    cfg.MODEL.ROI_BOX_HEAD.FC_NORM = ""

    # Separately trained RPN that makes the proposals if MODEL.PROPOSAL_GENERATOR.NAME is
    # "IndependentRPN".
    cfg.MODEL.INDEPENDENT_RPN = CfgNode()
    # Configuration, by name or path, of a "ProposalNetwork" or of any R-CNN with an RPN.
    cfg.MODEL.INDEPENDENT_RPN.CONFIG_FILE = ""
    # Weights of the RPN when training of the heads starts. "" if MODEL.WEIGHTS contains them, as
    # trained models do.
    cfg.MODEL.INDEPENDENT_RPN.WEIGHTS = ""

    # Transfer of the heads in MODEL.WEIGHTS to a dataset with other classes. Classes of the same
    # name keep their weights.
    cfg.MODEL.CLASS_TRANSFER = CfgNode()
    # Dataset that MODEL.WEIGHTS was trained on. "" if the file contains its class names, or for no
    # transfer.
    cfg.MODEL.CLASS_TRANSFER.SOURCE_DATASET = ""
    # Classes with different names in the two datasets: pairs of a class of the model and a class of
    # MODEL.WEIGHTS, e.g. [["rider", "person"]].
    cfg.MODEL.CLASS_TRANSFER.SYNONYMS = []

    # Whether feature maps are channels-last in training and evaluation, which is faster for most
    # convolutions.
    cfg.MODEL.CHANNELS_LAST = False

    # Evaluation with a faster copy of the model, see panet.optimize_for_inference.
    cfg.TEST.OPTIMIZE = CfgNode()
    # Whether to evaluate the faster copy.
    cfg.TEST.OPTIMIZE.ENABLED = False
    # Precision of the copy: "float32", "bfloat16" or, on CUDA only, "float16".
    cfg.TEST.OPTIMIZE.DTYPE = "float32"
    # Whether to compile the backbone with torch.compile.
    cfg.TEST.OPTIMIZE.COMPILE = False

    # Scales of the TTA views, as factors of the size of the image or tile. Replaces
    # TEST.AUG.MIN_SIZES unless empty.
    cfg.TEST.AUG.SCALES = ()
    # Size in pixels of the square tiles that TTA cuts images into. 0 for no tiles.
    cfg.TEST.AUG.WINDOW = 0
    # Overlap of adjacent tiles in pixels. Must be smaller than TEST.AUG.WINDOW and should be larger
    # than the objects.
    cfg.TEST.AUG.OVERLAP = 0
    # Maximum number of TTA views of the same size in a batch. 2 is an image and its mirror image.
    cfg.TEST.AUG.BATCH_SIZE = 2

    # Box voting: the box of each detection becomes the mean of all overlapping boxes of its class
    # before NMS, in all TTA views, weighted by score.
    cfg.TEST.BOX_VOTING = CfgNode()
    # Whether to apply box voting.
    cfg.TEST.BOX_VOTING.ENABLED = False
    # Minimum IoU of the boxes that vote.
    cfg.TEST.BOX_VOTING.IOU = 0.8

    # Mask voting: with several TTA views, the mask of each detection becomes the mean of the masks
    # of all overlapping detections of its class in all views, weighted by score.
    cfg.TEST.MASK_VOTING = CfgNode()
    # Whether to apply mask voting. It has no effect with a single view.
    cfg.TEST.MASK_VOTING.ENABLED = True
    # Minimum IoU of the boxes of the masks that vote.
    cfg.TEST.MASK_VOTING.IOU = 0.5

    # Whether to replace the box of each detection by the bounding box of its mask.
    cfg.TEST.TIGHTEN_BOXES = False

    # Ensemble of models, used by "panet eval" and "panet predict".
    cfg.TEST.ENSEMBLE = CfgNode()
    # Pairs of a configuration, by name or path, and weights. [] for a single model.
    cfg.TEST.ENSEMBLE.MEMBERS = []
    # 0-based index of the member that proposes boxes for all members.
    cfg.TEST.ENSEMBLE.PROPOSALS_FROM = 0

    # Custom datasets in COCO format. If any file is given, panet.prepare.prepare sets
    # DATASETS.TRAIN, DATASETS.TEST, the number of classes and INPUT.MASK_FORMAT from the files.
    cfg.DATASETS.OWN = CfgNode()
    for split in SPLITS:
        # Dataset for training (TRAIN) or evaluation (VAL, TEST).
        cfg.DATASETS.OWN[split] = CfgNode()
        # Name to register the dataset under.
        cfg.DATASETS.OWN[split].NAME = f"own_{split.lower()}"
        # Annotation file in COCO's JSON format. "" for no dataset.
        cfg.DATASETS.OWN[split].JSON = ""
        # Folder of the images. File names in the annotation file are relative to it.
        cfg.DATASETS.OWN[split].IMAGES = ""
    # Names of the classes to use. [] for all. DATALOADER.FILTER_EMPTY_ANNOTATIONS decides whether
    # training skips images without any of them.
    cfg.DATASETS.OWN.CLASSES = []

    # Number of images whose predictions are written to TensorBoard at every evaluation in training.
    cfg.TEST.NUM_PICTURES = 8

    # Optimizer: "SGD", as in detectron2, or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Precision of mixed-precision training (SOLVER.AMP.ENABLED): "float16", on CUDA only, or
    # "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """Load a YAML configuration and apply overrides.

    Use :func:`panet.prepare.prepare` to adapt it to its data and this machine.

    Args:
        config_file: path of a YAML file; "" for the defaults.
        overrides: alternating keys and values, as on the command line.

    Raises:
        UserError: if the file does not exist or is not valid YAML, or a key or value is wrong.
    """
    if config_file and not Path(config_file).is_file():
        raise UserError(f"There is no configuration file {config_file}.")
    if config_file.endswith(".py"):
        raise UserError(
            f"{config_file} is a Python configuration, which is supported for training and "
            "evaluation only; use a YAML configuration."
        )
    if config_file:
        try:
            Path(config_file).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{config_file} is not a YAML configuration.") from error
    cfg = get_cfg()
    add_panet_config(cfg)
    with explained_config_errors(cfg):
        if config_file:
            # The unsafe loader would execute code from YAML tags.
            cfg.merge_from_file(config_file, allow_unsafe=False)
        cfg.merge_from_list([_parse_section(item) for item in overrides])
    return cfg


def _parse_section(item: str) -> Any:
    """Parse the dictionary of an override such as ``MODEL.TIMM.ARGUMENTS "{}"``.

    yacs replaces a section by a dictionary, but not by a string that holds one.
    """
    if isinstance(item, str) and item.startswith("{"):
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(item)
    return item
