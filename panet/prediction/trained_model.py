"""Building a model for a checkpoint, with the checkpoint's classes."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn

from panet.checkpoint import PANetCheckpointer
from panet.data.availability import CLASS_SECTIONS
from panet.deployment import optimize_from_config
from panet.engine import PANetTrainer
from panet.errors import InputError

from .detections import Category


class _TrainedModel(PANetCheckpointer):
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
        self.model = PANetTrainer.build_model(self.cfg)
        incompatible = super()._load_model(checkpoint)
        parameters = {name for name, _ in self.model.named_parameters()}
        absent = parameters.intersection(incompatible.missing_keys)
        absent.update(name for name, *_ in incompatible.incorrect_shapes)
        if absent:
            raise InputError(
                f"{self.cfg.MODEL.WEIGHTS} has no weights, or some of another shape, for "
                f"{len(absent)} of the {len(parameters)} parameters of this configuration, such as "
                f"{min(absent)}; give a model that was trained with it."
            )
        return incompatible


def load_trained_model(cfg: CfgNode) -> tuple[nn.Module, list[Category]]:
    """The model of a configuration with the weights of ``MODEL.WEIGHTS``, for inference.

    It is optimized as ``TEST.OPTIMIZE`` says, and augments as ``TEST.AUG`` says.

    Args:
        cfg: of a model that finds instances; it is left as it is.

    Returns:
        The model; the categories of its classes. Their names come from the checkpoint, else from
        the metadata of the configuration's first dataset, else they are numbers. Their ids are the
        dataset's, if it has the same names, else they count from 1.

    Raises:
        InputError: if ``MODEL.WEIGHTS`` is empty, is not there, or does not give all weights.
    """
    check_weights(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    checkpointer = _TrainedModel(cfg)
    checkpoint = checkpointer.load(cfg.MODEL.WEIGHTS)
    model = optimize_from_config(checkpointer.model.eval(), cfg)
    if cfg.TEST.AUG.ENABLED:
        model = GeneralizedRCNNWithTTA(cfg, model)
    number = cfg.MODEL[CLASS_SECTIONS[cfg.MODEL.META_ARCHITECTURE]].NUM_CLASSES
    return model, _categories(cfg, checkpoint.get("classes"), number)


def check_weights(cfg: CfgNode) -> None:
    """Check that a configuration names weights.

    Raises:
        InputError: if it does not.
    """
    if not cfg.MODEL.WEIGHTS:
        raise InputError("MODEL.WEIGHTS is empty; give the weights of a trained model.")


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
