"""Building a model for a checkpoint, or several, with the checkpoint's classes."""

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
"""Its "id" and "name", as in COCO's files."""


class _TrainedModel(CompleteCheckpointer):
    """A checkpointer that builds the model when the file has said how many classes there are."""

    def __init__(self, cfg: CfgNode) -> None:
        # Without a dataset: the heads keep the classes that they were trained for.
        super().__init__(nn.Module())
        self.cfg = cfg

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        classes = checkpoint.get("classes")
        if classes:
            self.cfg.MODEL[CLASS_SECTIONS[self.cfg.MODEL.META_ARCHITECTURE]].NUM_CLASSES = len(
                classes
            )
        self.model = build_model(self.cfg)
        return super()._load_model(checkpoint)


def load_trained_model(cfg: CfgNode) -> tuple[nn.Module, list[Category]]:
    """The model of a configuration with the weights of ``MODEL.WEIGHTS``, for inference.

    It is optimized as ``TEST.OPTIMIZE`` says, and augments, votes and tightens boxes as ``TEST``
    says. If ``TEST.ENSEMBLE`` has members, it is these together.

    Args:
        cfg: of a model that finds instances; it is left as it is.

    Returns:
        The model; the categories of its classes. Their names come from the checkpoint, else from
        the metadata of the configuration's first dataset, else they are numbers. Their ids are the
        dataset's, if it has the same names, else they count from 1.

    Raises:
        UserError: if ``MODEL.WEIGHTS`` is empty, is not there, or does not give all weights; or if
            the members of the ensemble do not go together.
    """
    check_weights(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.TEST.ENSEMBLE.MEMBERS:
        return _load_ensemble(cfg)
    model, categories = _load_single_model(cfg)
    return add_tta(cfg, model), categories


def check_weights(cfg: CfgNode) -> None:
    """Check that a configuration names weights.

    Raises:
        UserError: if it does not.
    """
    if not cfg.MODEL.WEIGHTS and not cfg.TEST.ENSEMBLE.MEMBERS:
        raise UserError("MODEL.WEIGHTS is empty; give the weights of a trained model.")


def member_configs(cfg: CfgNode) -> list[CfgNode]:
    """The configurations of the members of ``TEST.ENSEMBLE``, with their weights.

    Raises:
        UserError: if a member is no pair of a configuration and weights, or either is not there.
    """
    configs = []
    for member in cfg.TEST.ENSEMBLE.MEMBERS:
        is_pair = isinstance(member, list | tuple) and len(member) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in member):
            raise UserError(
                f"TEST.ENSEMBLE.MEMBERS has {member!r}; each member is a pair of a configuration "
                "and weights."
            )
        config, weights = member
        if "://" not in weights and not Path(weights).is_file():
            raise UserError(
                f"TEST.ENSEMBLE.MEMBERS names the weights {weights}, which are not there; train "
                f"{config} first, or give others."
            )
        overrides = ["MODEL.WEIGHTS", weights, "MODEL.DEVICE", cfg.MODEL.DEVICE]
        own = prepare(load_config(find_config_file(config), overrides))
        own.TEST.OPTIMIZE = cfg.TEST.OPTIMIZE
        configs.append(own)
    return configs


def _load_single_model(cfg: CfgNode) -> tuple[nn.Module, list[Category]]:
    """A model without testing tricks; ``cfg`` gets the checkpoint's number of classes."""
    checkpointer = _TrainedModel(cfg)
    checkpoint = checkpointer.load(cfg.MODEL.WEIGHTS)
    model = optimize_from_config(checkpointer.model.eval(), cfg)
    number = cfg.MODEL[CLASS_SECTIONS[cfg.MODEL.META_ARCHITECTURE]].NUM_CLASSES
    return model, _categories(cfg, checkpoint.get("classes"), number)


def _load_ensemble(cfg: CfgNode) -> tuple[RCNNEnsemble, list[Category]]:
    """The members of ``TEST.ENSEMBLE`` as one; ``cfg`` gets their number of classes."""
    members, categories = zip(*map(_load_single_model, member_configs(cfg)))
    names = [[category["name"] for category in of_member] for of_member in categories]
    for number, (entry, own) in enumerate(zip(cfg.TEST.ENSEMBLE.MEMBERS, names)):
        if own != names[0]:
            raise UserError(
                f"Member {number} of TEST.ENSEMBLE.MEMBERS, {entry[1]}, tells other classes apart "
                f"than member 0: {', '.join(own)}, not {', '.join(names[0])}."
            )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(names[0])
    return RCNNEnsemble(cfg, members, cfg.TEST.ENSEMBLE.PROPOSALS_FROM), categories[0]


def _categories(cfg: CfgNode, names: list[str] | None, number: int) -> list[Category]:
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    metadata = MetadataCatalog.get(datasets[0]) if datasets else None
    known = list(metadata.get("thing_classes", ())) if metadata else []
    if not names:
        names = known if len(known) == number else [str(index + 1) for index in range(number)]
    ids = list(range(1, number + 1))
    if metadata and names == known:
        index_of = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        if sorted(index_of.values()) == list(range(number)):
            ids = sorted(index_of, key=index_of.__getitem__)
    return [{"id": int(identity), "name": str(name)} for identity, name in zip(ids, names)]
