"""The configuration keys that this project adds to detectron2's, and how to read a file of them."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from .utils.config_errors import explained_config_errors
from .utils.errors import UserError

SPLITS = ("TRAIN", "VAL", "TEST")
"""Of ``DATASETS.OWN``."""


def add_panet_config(cfg: CfgNode) -> None:
    """Add this project's keys to ``cfg``, in place.

    The bottom-up path is switched with ``MODEL.BACKBONE.NAME``: "build_resnet_pafpn_backbone" has
    it, detectron2's "build_resnet_fpn_backbone" does not. The other components are switched below.
    """
    # Normalization of the bottom-up path: "", "GN", "SyncBN", "naiveSyncBN", "BN", ...
    cfg.MODEL.PAFPN = CfgNode()
    cfg.MODEL.PAFPN.NORM = ""
    # Give its convolutions a bias even where a norm follows, as the authors' release does.
    cfg.MODEL.PAFPN.CONV_BIAS = False

    # A network of timm as the backbone, of "build_timm_pafpn_backbone" or, without the pyramid,
    # "build_timm_backbone".
    cfg.MODEL.TIMM = CfgNode()
    # Any that has features of the strides of MODEL.FPN.IN_FEATURES, with the tag of its weights or
    # without, e.g. "convnext_tiny.fb_in1k".
    cfg.MODEL.TIMM.NAME = ""
    # Load timm's weights, from its cache or the network, unless MODEL.WEIGHTS names others.
    cfg.MODEL.TIMM.PRETRAINED = False
    # Indices of timm's features to take instead of the last ones of their strides.
    cfg.MODEL.TIMM.OUT_INDICES = ()
    # What becomes of the batch norms: "" to leave them, "FrozenBN", "SyncBN" or "naiveSyncBN".
    cfg.MODEL.TIMM.NORM = ""
    # Further arguments of the model, such as drop_path_rate.
    cfg.MODEL.TIMM.ARGUMENTS = CfgNode(new_allowed=True)
    # Set INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD to what the model was trained with.
    cfg.MODEL.TIMM.OWN_NORMALIZATION = True

    # Adaptive feature pooling, for the box and the mask head.
    cfg.MODEL.ADAPTIVE_POOLING = CfgNode()
    # True: every RoI from all levels; False: from the one that FPN assigns it to.
    cfg.MODEL.ADAPTIVE_POOLING.ENABLED = True
    # Fusion of the levels: "max" or "sum".
    cfg.MODEL.ADAPTIVE_POOLING.FUSION = "max"
    # Where the levels are fused: "after" the first parameter layer, or "before" it.
    cfg.MODEL.ADAPTIVE_POOLING.POSITION = "after"
    # In training, pool again in the backward pass instead of keeping what was pooled.
    cfg.MODEL.ADAPTIVE_POOLING.RECOMPUTE = False
    # Pool from all levels at once, on CUDA by a kernel in Triton if that is installed, and compute
    # their first fc layers as one batched product. It launches fewer kernels, but no GPU has shown
    # yet that it is correct and faster. On a CPU it takes more time and memory.
    cfg.MODEL.ADAPTIVE_POOLING.BATCHED = False

    # Fully-connected fusion in the mask head.
    cfg.MODEL.FC_FUSION = CfgNode()
    # The convolution that the branch reads: "conv2", "conv3", "conv4"; "none" for no branch.
    cfg.MODEL.FC_FUSION.SOURCE = "conv3"
    # How its logits meet those of the convolutional branch: "sum", "product" or "max".
    cfg.MODEL.FC_FUSION.COMBINATION = "sum"
    # End the branch in a ReLU, as the authors' release does; the paper has none.
    cfg.MODEL.FC_FUSION.RELU = False

    # Normalization of the fc layers of the box head; ROI_BOX_HEAD.NORM is its convolutions'.
    cfg.MODEL.ROI_BOX_HEAD.FC_NORM = ""

    # The network that proposes boxes where MODEL.PROPOSAL_GENERATOR.NAME is "IndependentRPN", in
    # place of an RPN that is trained with the heads.
    cfg.MODEL.INDEPENDENT_RPN = CfgNode()
    # Of a "ProposalNetwork", or of any R-CNN with an RPN, by name or path.
    cfg.MODEL.INDEPENDENT_RPN.CONFIG_FILE = ""
    # Its weights to train the heads with; "" where MODEL.WEIGHTS has them, as a trained model does.
    cfg.MODEL.INDEPENDENT_RPN.WEIGHTS = ""

    # Transfer of the heads of MODEL.WEIGHTS to a dataset with other classes: classes of the same
    # name keep their weights.
    cfg.MODEL.CLASS_TRANSFER = CfgNode()
    # The dataset that the weights were trained on; "" if the file says it, or for no transfer.
    cfg.MODEL.CLASS_TRANSFER.SOURCE_DATASET = ""
    # Classes with other names there: pairs such as ["rider", "person"], this model's name first.
    cfg.MODEL.CLASS_TRANSFER.SYNONYMS = []

    # Keep feature maps channels-last in training and evaluation, which most convolutions prefer.
    cfg.MODEL.CHANNELS_LAST = False

    # Evaluate a faster copy of the model, see panet.optimize_for_inference.
    cfg.TEST.OPTIMIZE = CfgNode()
    cfg.TEST.OPTIMIZE.ENABLED = False
    # "float32", "bfloat16", or, on CUDA only, "float16".
    cfg.TEST.OPTIMIZE.DTYPE = "float32"
    # Compile it with torch.compile.
    cfg.TEST.OPTIMIZE.COMPILE = False

    # Factors of an image's own size that TEST.AUG sees it at, instead of TEST.AUG.MIN_SIZES.
    cfg.TEST.AUG.SCALES = ()
    # Size and overlap, in pixels, of the tiles that TEST.AUG cuts images into; objects should be
    # smaller than the overlap. 0: no tiles.
    cfg.TEST.AUG.WINDOW = 0
    cfg.TEST.AUG.OVERLAP = 0
    # Views of one size, an image and its mirror image, that TEST.AUG computes at once.
    cfg.TEST.AUG.BATCH_SIZE = 2
    # Boxes of detections become the mean of those that overlap them, weighted by scores. These
    # are chosen before NMS, in all views.
    cfg.TEST.BOX_VOTING = CfgNode()
    cfg.TEST.BOX_VOTING.ENABLED = False
    # How much they overlap at least: intersection over union.
    cfg.TEST.BOX_VOTING.IOU = 0.8
    # With several views, masks become the mean of those that overlap in any, weighted by scores.
    cfg.TEST.MASK_VOTING = CfgNode()
    cfg.TEST.MASK_VOTING.ENABLED = True
    cfg.TEST.MASK_VOTING.IOU = 0.5
    # Boxes of detections become the bounding boxes of their masks.
    cfg.TEST.TIGHTEN_BOXES = False
    # Models to evaluate as one, by train_net.py --eval-only and tools/predict.py: pairs of a
    # configuration, by name or path, and weights.
    cfg.TEST.ENSEMBLE = CfgNode()
    cfg.TEST.ENSEMBLE.MEMBERS = []
    # The one that proposes boxes to all, counted from 0.
    cfg.TEST.ENSEMBLE.PROPOSALS_FROM = 0

    # Custom datasets in COCO format. If a file is given, panet.prepare.prepare replaces
    # DATASETS.TRAIN and DATASETS.TEST by these, and the numbers of classes and INPUT.MASK_FORMAT by
    # what the files have.
    cfg.DATASETS.OWN = CfgNode()
    for split in SPLITS:
        cfg.DATASETS.OWN[split] = CfgNode()
        # The name to register it under.
        cfg.DATASETS.OWN[split].NAME = f"own_{split.lower()}"
        # The JSON file; "" for none.
        cfg.DATASETS.OWN[split].JSON = ""
        # The folder that the file names in it begin in.
        cfg.DATASETS.OWN[split].IMAGES = ""
    # Names of the classes to use; [] for all. Images without any of them stay, see
    # DATALOADER.FILTER_EMPTY_ANNOTATIONS.
    cfg.DATASETS.OWN.CLASSES = []

    # At every evaluation in training, so many images with what is predicted go to TensorBoard.
    cfg.TEST.NUM_PICTURES = 8

    # "SGD", as in detectron2, or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # What SOLVER.AMP.ENABLED computes in: "float16", on CUDA only, or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """The configuration that a file and overrides say; nothing else happens.

    :func:`panet.prepare.prepare` fits it to its data and to this machine.

    Args:
        config_file: path of a YAML file; "" for the defaults alone.
        overrides: keys and values in turn, as on the command line.

    Raises:
        UserError: if the file is not there or is not YAML, or a key or its value is wrong.
    """
    if config_file and not Path(config_file).is_file():
        raise UserError(f"There is no configuration file {config_file}.")
    if config_file.endswith(".py"):
        raise UserError(
            f"{config_file} is a Python configuration, which only train_net.py takes; give one in "
            "YAML."
        )
    cfg = get_cfg()
    add_panet_config(cfg)
    with explained_config_errors(cfg):
        if config_file:
            # Other tags than YAML's own could execute code.
            cfg.merge_from_file(config_file, allow_unsafe=False)
        cfg.merge_from_list(list(overrides))
    return cfg
