"""Building models and ensembles with the classes of their checkpoints."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from panet.checkpoint import CompleteCheckpointer
from panet.config import load_config
from panet.config_files import find_config_file
from panet.data.availability import CLASS_SECTIONS
from panet.evaluation.tta import RCNNEnsemble, add_tta
from panet.modeling.build import build_model
from panet.prepare import prepare
from panet.utils.errors import UserError

from .optimize import optimize_from_config

Category = dict[str, Any]
"""A category with "id" and "name" as in COCO annotation files."""


class _TrainedModel(CompleteCheckpointer):
    """Checkpointer that builds the model with the number of classes in the checkpoint."""

    def __init__(self, cfg: CfgNode) -> None:
        # No dataset is passed, so the heads keep the classes they were trained for.
        super().__init__(nn.Module())
        self.cfg = cfg

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if classes := checkpoint.get("classes"):
            _class_section(self.cfg).NUM_CLASSES = len(classes)
        self.model = build_model(self.cfg)
        return super()._load_model(checkpoint)


def load_trained_model(cfg: CfgNode) -> tuple[nn.Module, list[Category]]:
    """Build the model of a configuration and load ``MODEL.WEIGHTS``, for inference.

    The model is optimized as configured by ``TEST.OPTIMIZE`` and includes the TTA, voting and box
    tightening of ``TEST``. If ``TEST.ENSEMBLE`` has members, it is the ensemble.

    Args:
        cfg: configuration of an instance detection model; it is not modified.

    Returns:
        The model and the categories of its classes. Category names come from the checkpoint, else
        from the metadata of the configuration's first dataset, else they are numbers. Category ids
        are those of the dataset if it has the same names, else they count from 1.

    Raises:
        UserError: if ``MODEL.WEIGHTS`` is empty, does not exist or lacks weights, or if the
            members of the ensemble do not match.
    """
    check_weights(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.TEST.ENSEMBLE.MEMBERS:
        return _load_ensemble(cfg)
    model, categories = _load_single_model(cfg)
    return add_tta(cfg, model), categories


def check_weights(cfg: CfgNode) -> None:
    """Check that a configuration has weights or ensemble members.

    Raises:
        UserError: if it has neither.
    """
    if not cfg.MODEL.WEIGHTS and not cfg.TEST.ENSEMBLE.MEMBERS:
        raise UserError("MODEL.WEIGHTS is empty; set it to the weights of a trained model.")


def member_configs(cfg: CfgNode) -> list[CfgNode]:
    """Load the configurations of the members of ``TEST.ENSEMBLE``, with their weights.

    Raises:
        UserError: if a member is not a pair of a configuration and weights, or one of these does
            not exist.
    """
    configs = []
    for member in cfg.TEST.ENSEMBLE.MEMBERS:
        is_pair = isinstance(member, list | tuple) and len(member) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in member):
            raise UserError(
                f"TEST.ENSEMBLE.MEMBERS has {member!r}; each member must be a pair of a "
                "configuration and weights."
            )
        config, weights = member
        if "://" not in weights and not Path(weights).is_file():
            raise UserError(
                f"TEST.ENSEMBLE.MEMBERS names the weights {weights}, which do not exist; train "
                f"{config} first, or name other weights."
            )
        overrides = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", cfg.MODEL.DEVICE]
        member_cfg = prepare(load_config(find_config_file(config), overrides))
        member_cfg.TEST.OPTIMIZE = cfg.TEST.OPTIMIZE
        configs.append(member_cfg)
    return configs


def _load_single_model(cfg: CfgNode) -> tuple[nn.Module, list[Category]]:
    """Load a model without TTA and set the checkpoint's number of classes in ``cfg``."""
    checkpointer = _TrainedModel(cfg)
    checkpoint = checkpointer.load(cfg.MODEL.WEIGHTS)
    model = optimize_from_config(checkpointer.model.eval(), cfg)
    names = checkpoint.get("classes")
    return model, _categories(cfg, names, _class_section(cfg).NUM_CLASSES)


def _load_ensemble(cfg: CfgNode) -> tuple[RCNNEnsemble, list[Category]]:
    """Load the ensemble of ``TEST.ENSEMBLE`` and set its number of classes in ``cfg``."""
    members, categories = zip(*map(_load_single_model, member_configs(cfg)))
    classes = [[category["name"] for category in of_member] for of_member in categories]
    for index, ((_, weights), names) in enumerate(zip(cfg.TEST.ENSEMBLE.MEMBERS, classes)):
        if names != classes[0]:
            raise UserError(
                f"Member {index} of TEST.ENSEMBLE.MEMBERS, {weights}, has other classes than "
                f"member 0: {', '.join(names)}, not {', '.join(classes[0])}."
            )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes[0])
    return RCNNEnsemble(cfg, members, cfg.TEST.ENSEMBLE.PROPOSALS_FROM), categories[0]


def _class_section(cfg: CfgNode) -> CfgNode:
    """Return the section of ``cfg`` with the model's ``NUM_CLASSES``."""
    return cfg.MODEL[CLASS_SECTIONS[cfg.MODEL.META_ARCHITECTURE]]


def _categories(cfg: CfgNode, names: list[str] | None, num_classes: int) -> list[Category]:
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    metadata = MetadataCatalog.get(datasets[0]) if datasets else None
    known = list(metadata.get("thing_classes", ())) if metadata else []
    if not names:
        names = known if len(known) == num_classes else [str(i + 1) for i in range(num_classes)]
    ids = list(range(1, num_classes + 1))
    if metadata and names == known:
        index_of = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        if sorted(index_of.values()) == list(range(num_classes)):
            ids = sorted(index_of, key=index_of.__getitem__)
    return [{"id": int(identity), "name": str(name)} for identity, name in zip(ids, names)]
