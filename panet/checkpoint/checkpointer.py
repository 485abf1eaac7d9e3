"""Loading and saving a model's weights."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from panet.compat.detectron2_checkpoint import ReusableCheckpointer
from panet.lazy_config import dataset_names
from panet.utils.atomic import AtomicPathManager
from panet.utils.errors import DownloadError, UserError
from panet.utils.safe_pickle import load_pickle

from .checkpoint_file import load_checkpoint, split_checkpoint
from .class_transfer import match_classes, transfer_classes
from .convert.source import rename_tensor
from .convert.systems import SOURCES
from .timm_weights import rename_timm_weights
from .torchvision_resnet import is_torchvision_resnet, resnet_modules
from .weights import load_safetensors

logger = logging.getLogger(__name__)


class PANetCheckpointer(ReusableCheckpointer):
    """detectron2's checkpointer with what it lacks.

    - It executes nothing that is in a file, and refuses what is damaged or not for the model.
    - A file that it writes is there as a whole or not at all.
    - It resumes from the checkpoint before the last one if the last one is damaged.
    - It reads torchvision's ResNets, and the files of timm's models, as backbones.
    - Heads that tell other classes apart than the model keep the classes that both have. For that
      it saves the names of the classes beside the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        dataset: str = "",
        source_dataset: str = "",
        synonyms: Sequence[Sequence[str]] = (),
        weights_key: str = "MODEL.WEIGHTS",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, save_dir: see detectron2's ``DetectionCheckpointer``.
            dataset: the one whose "thing_classes" the model tells apart; "" if nobody knows.
            source_dataset: the same for files that do not say it themselves.
            synonyms: see :func:`panet.checkpoint.class_transfer.match_classes`.
            weights_key: the key of the configuration that names the file to load.
            kwargs: what else to save and load, and options of the superclass.
        """
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = AtomicPathManager()
        self._resuming = False
        self.dataset = dataset
        self.source_dataset = source_dataset
        self.synonyms = synonyms
        self.weights_key = weights_key

    def save(self, name: str, **kwargs: Any) -> None:
        classes = _classes_of(self.dataset)
        super().save(name, **({"classes": classes} if classes else {}), **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See detectron2's ``DetectionCheckpointer``.

        Raises:
            DownloadError: if it should be downloaded and cannot.
            UserError: if there is no such file, it cannot be read, or its classes do not fit.
        """
        file = urlparse(path)._replace(query="").geturl()
        remote = "://" in file
        if file and comm.is_main_process() and not remote and not Path(file).is_file():
            if self._resuming:
                raise UserError(f"There is no checkpoint {file}.")
            raise UserError(
                f"There is no checkpoint {file}; give {self.weights_key} one that is there or, to "
                "start from random weights, ''."
            )
        self._file = file
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:
            if not remote:
                raise
            raise DownloadError(
                f"{file} cannot be downloaded ({error}); give {self.weights_key} a copy of it that "
                "is on this machine or, to start from random weights, ''."
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """See fvcore's ``Checkpointer``.

        Raises:
            UserError: if no checkpoint of the run, or not the one at ``path``, can be loaded.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        refusals = []
        self._resuming = True
        try:
            for file in self._from_last_to_first():
                try:
                    return self.load(file)
                except UserError as error:
                    logger.warning("%s", error)
                    refusals.append(str(error))
        finally:
            self._resuming = False
        raise UserError(
            f"There is no checkpoint to resume from: {' '.join(refusals)} To begin anew, remove "
            f"{Path(self.save_dir) / 'last_checkpoint'}."
        )

    def _from_last_to_first(self) -> list[str]:
        """The run's checkpoints, first the one that was tagged as the last."""
        others = sorted(
            Path(self.save_dir).glob("model_*.pth"), key=lambda path: -path.stat().st_mtime_ns
        )
        return list(dict.fromkeys([self.get_checkpoint_file(), *map(str, others)]))

    def _load_file(self, filename: str) -> Any:
        # detectron2's own reading of pickles executes what is in them.
        return _load_zoo(filename) if filename.endswith(".pkl") else super()._load_file(filename)

    def _torch_load(self, filename: str) -> Any:
        safetensors = filename.endswith(".safetensors")
        read = load_safetensors if safetensors else load_checkpoint
        checkpoint = read(Path(filename))
        tensors, _ = split_checkpoint(checkpoint)
        of_timm = rename_timm_weights(self.model, tensors)
        if of_timm is not None:
            return {"model": of_timm}
        if safetensors:
            return checkpoint
        if is_torchvision_resnet(tensors):
            modules = resnet_modules("")
            renamed = {rename_tensor(name, modules): tensor for name, tensor in tensors.items()}
            renamed.pop(None, None)  # its classifier
            return {"model": renamed}
        for system in SOURCES.values():
            known = [name for name in tensors if system.rename(name) is not None]
            if len(known) > len(tensors) / 2:
                raise UserError(
                    f"{filename} has the names of {system.name}; convert it first with "
                    f"tools/convert_checkpoint.py --from {system.name}."
                )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self._resuming:
            self._refuse_other_models(checkpoint["model"])
        classes = _classes_of(self.dataset)
        source_classes = checkpoint.get("classes") or _classes_of(self.source_dataset)
        if classes and source_classes and classes != source_classes:
            counterparts = match_classes(classes, source_classes, self.synonyms)
            transfer_classes(
                checkpoint["model"],
                self.model.state_dict(),
                classes,
                source_classes,
                counterparts,
            )
            logger.info(
                "The heads were made for other classes. Taken over: %s. New: %s.",
                ", ".join(_describe(*pair) for pair in counterparts.items()) or "none",
                ", ".join(name for name in classes if name not in counterparts) or "none",
            )
        incompatible = super()._load_model(checkpoint)
        if dict(self.model.named_parameters()).keys() <= set(incompatible.missing_keys):
            raise UserError(f"{self._file} has no weights of this model.")
        return incompatible

    def _refuse_other_models(self, state: dict[str, Any]) -> None:
        """Resuming needs exactly this model's tensors."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        different = sorted(n for n in shapes | found if shapes.get(n) != found.get(n))
        if different:
            raise UserError(
                f"{self._file} is not a checkpoint of this model: {different[0]} and "
                f"{len(different) - 1} other tensors are missing, additional or of another shape."
            )


class CompleteCheckpointer(PANetCheckpointer):
    """A :class:`PANetCheckpointer` for models that are not trained further: they need all weights.

    Its ``load`` raises an :class:`UserError`, too, if a file lacks one of the model's parameters.
    """

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        parameters = {name for name, _ in self.model.named_parameters()}
        absent = parameters.intersection(incompatible.missing_keys)
        absent.update(name for name, *_ in incompatible.incorrect_shapes)
        if absent:
            raise UserError(
                f"{self._file} has no weights, or some of another shape, for {len(absent)} of the "
                f"{len(parameters)} parameters of this configuration, such as {min(absent)}; give "
                "a model that was trained with it."
            )
        return incompatible


def _load_zoo(file: str) -> dict[str, Any]:
    """A file of detectron2's model zoo, or of Detectron's, whose names are Caffe2's."""
    content = load_pickle(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__} instead of named tensors.")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # of whole detectors; backbones come without
    weights = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _classes_of(dataset: str) -> list[str]:
    """The dataset's classes in order; none as long as they are not known."""
    return list(MetadataCatalog.get(dataset).get("thing_classes", ())) if dataset else []


def _describe(own: str, counterpart: str) -> str:
    return own if own == counterpart else f"{own} (from {counterpart})"


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, save_dir: str = "", **checkpointables: Any
) -> PANetCheckpointer:
    """The checkpointer for a configuration.

    Args:
        cfg: keys ``DATASETS``, of which the first tells the classes, and ``MODEL.CLASS_TRANSFER``.
        model: built from it.
        save_dir: where to save; "" not to.
        checkpointables: what else to save and load.
    """
    datasets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    return PANetCheckpointer(
        model,
        save_dir,
        dataset=datasets[0] if datasets else "",
        source_dataset=cfg.MODEL.CLASS_TRANSFER.SOURCE_DATASET,
        synonyms=cfg.MODEL.CLASS_TRANSFER.SYNONYMS,
        **checkpointables,
    )


def build_lazy_checkpointer(
    cfg: DictConfig, model: nn.Module, save_dir: str = "", **checkpointables: Any
) -> PANetCheckpointer:
    """The checkpointer for a Python configuration.

    Args:
        cfg: keys ``dataloader``, of whose datasets the first tells the classes, and
            ``train.class_transfer``.
        model, save_dir, checkpointables: see :func:`build_checkpointer`.
    """
    datasets = [*dataset_names(cfg, "train"), *dataset_names(cfg, "test")]
    return PANetCheckpointer(
        model,
        save_dir,
        dataset=datasets[0] if datasets else "",
        source_dataset=cfg.train.class_transfer.source_dataset,
        synonyms=cfg.train.class_transfer.synonyms,
        weights_key="train.init_checkpoint",
        **checkpointables,
    )
