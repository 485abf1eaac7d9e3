"""Checkpointers: load and save model weights and the state of a training run."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
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
from .levels import copy_to_levels
from .timm_weights import rename_timm_weights
from .torchvision_resnet import is_torchvision_resnet, resnet_modules
from .weights import load_safetensors

logger = logging.getLogger(__name__)


class PANetCheckpointer(ReusableCheckpointer):
    """detectron2's ``DetectionCheckpointer`` with these additions.

    - It never executes code from a file, and rejects files that are damaged or for another model.
    - It writes files atomically.
    - If the last checkpoint of a run is damaged, it resumes from the one before.
    - It loads ResNets of torchvision and models of timm as backbones.
    - It copies the first layers of a Mask R-CNN's heads to all levels of a PANet.
    - It saves the class names beside the weights. If a checkpoint has other classes than the model,
      the classes that both have keep their weights in the heads.
    """

    random_weights_hint: ClassVar[str] = ", or to '' for random weights"
    """End of the advice in messages about files that cannot be loaded."""

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        dataset: str = "",
        source_dataset: str = "",
        synonyms: Sequence[Sequence[str]] = (),
        weights_key: str = "MODEL.WEIGHTS",
        source_dataset_key: str = "MODEL.CLASS_TRANSFER.SOURCE_DATASET",
        synonyms_key: str = "MODEL.CLASS_TRANSFER.SYNONYMS",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model, save_dir: see detectron2's ``DetectionCheckpointer``.
            dataset: dataset with the "thing_classes" of the model; "" if unknown.
            source_dataset: dataset with the classes of checkpoints that do not contain class names.
            synonyms: see :func:`panet.checkpoint.class_transfer.match_classes`.
            weights_key: configuration key of the file to load, for error messages.
            source_dataset_key, synonyms_key: configuration keys of ``source_dataset`` and
                ``synonyms``, for error messages.
            kwargs: further objects to save and load, and options of the superclass.
        """
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = AtomicPathManager()
        self._resuming = False
        self.dataset = dataset
        self.source_dataset = source_dataset
        self.synonyms = synonyms
        self.weights_key = weights_key
        self.source_dataset_key = source_dataset_key
        self.synonyms_key = synonyms_key

    def save(self, name: str, **kwargs: Any) -> None:
        if classes := _classes_of(self.dataset):
            kwargs["classes"] = classes
        super().save(name, **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See detectron2's ``DetectionCheckpointer``.

        Raises:
            DownloadError: if ``path`` is a URL that cannot be downloaded.
            UserError: if the file does not exist, cannot be read, or does not fit the model or its
                classes.
        """
        file = urlparse(path)._replace(query="").geturl()
        remote = "://" in file
        if file and not remote and not Path(file).is_file():
            hint = f"; set {self.weights_key} to an existing file{self.random_weights_hint}"
            raise UserError(f"There is no checkpoint {file}{'' if self._resuming else hint}.")
        self._file = file
        try:
            return super().load(path, *args, **kwargs)
        except DownloadError:
            raise
        except OSError as error:
            if not remote:
                raise
            raise DownloadError(
                f"{file} cannot be downloaded ({error}); set {self.weights_key} to a local copy"
                f"{self.random_weights_hint}."
            ) from error

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """See fvcore's ``Checkpointer``. All processes must call it, and load the same file.

        Raises:
            UserError: if none of the run's checkpoints, or not the file at ``path``, can be loaded.
        """
        found = resume and self.has_checkpoint()
        # The processes may see different files; those of the main process count.
        files = comm.all_gather(self._checkpoints_newest_first() if found else [])[0]
        if not files:
            return super().resume_or_load(path, resume=False)
        errors = []
        self._resuming = True
        try:
            for file in files:
                error, checkpoint = "", {}
                try:
                    checkpoint = self.load(file)
                except UserError as user_error:
                    error = str(user_error)
                # A file that one process cannot load is skipped by all.
                error = next(filter(None, comm.all_gather(error)), "")
                if not error:
                    return checkpoint
                logger.warning("%s", error)
                errors.append(error)
        finally:
            self._resuming = False
        raise UserError(
            f"There is no checkpoint to resume from: {' '.join(errors)} To start from scratch, "
            f"remove {Path(self.save_dir) / 'last_checkpoint'}."
        )

    def _checkpoints_newest_first(self) -> list[str]:
        """List the run's checkpoints, starting with the one tagged as last."""
        others = sorted(
            Path(self.save_dir).glob("model_*.pth"), key=lambda path: -path.stat().st_mtime_ns
        )
        return list(dict.fromkeys([self.get_checkpoint_file(), *map(str, others)]))

    def _load_file(self, filename: str) -> Any:
        # detectron2's method would execute code from pickles.
        return _load_pkl(filename) if filename.endswith(".pkl") else super()._load_file(filename)

    def _torch_load(self, filename: str) -> Any:
        safetensors = filename.endswith(".safetensors")
        read = load_safetensors if safetensors else load_checkpoint
        checkpoint = read(Path(filename))
        tensors, _ = split_checkpoint(checkpoint)
        timm_weights = rename_timm_weights(self.model, tensors)
        if timm_weights is not None:
            return {"model": timm_weights}
        if safetensors:
            return checkpoint
        if is_torchvision_resnet(tensors):
            modules = resnet_modules("")
            renamed = {rename_tensor(name, modules): tensor for name, tensor in tensors.items()}
            renamed.pop(None, None)  # the classifier
            return {"model": renamed}
        for source in SOURCES.values():
            if sum(source.rename(name) is not None for name in tensors) > len(tensors) / 2:
                raise UserError(
                    f"{filename} is a checkpoint of {source.name}; convert it first with "
                    f"panet convert-weights --from {source.name}."
                )
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self._resuming:
            self._check_same_model(checkpoint["model"])
        elif copied := copy_to_levels(checkpoint["model"], self.model.state_dict()):
            logger.info("Copied to every level: %s.", ", ".join(copied))
        classes = _classes_of(self.dataset)
        source_classes = checkpoint.get("classes") or _classes_of(self.source_dataset)
        if classes and source_classes and classes != source_classes:
            counterparts = match_classes(
                classes, source_classes, self.synonyms, synonyms_key=self.synonyms_key
            )
            self._convert_ndarray_to_tensor(checkpoint["model"])
            transfer_classes(
                checkpoint["model"],
                self.model.state_dict(),
                classes,
                source_classes,
                counterparts,
                source_dataset_key=self.source_dataset_key,
            )
            logger.info(
                "The checkpoint has other classes than the model. Transferred: %s. New: %s.",
                ", ".join(a if a == b else f"{a} (from {b})" for a, b in counterparts.items())
                or "none",
                ", ".join(name for name in classes if name not in counterparts) or "none",
            )
        incompatible = super()._load_model(checkpoint)
        if dict(self.model.named_parameters()).keys() <= set(incompatible.missing_keys):
            raise UserError(f"{self._file} has no weights of this model.")
        return incompatible

    def _check_same_model(self, state: dict[str, Any]) -> None:
        """Check that ``state`` has exactly the tensors of the model, as required for resuming."""
        expected = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        actual = {name: tensor.shape for name, tensor in state.items()}
        if different := sorted(n for n in expected | actual if expected.get(n) != actual.get(n)):
            others = len(different) - 1
            also = f" and {others} other tensor{'s' if others > 1 else ''} are" if others else " is"
            raise UserError(
                f"{self._file} is not a checkpoint of this model: {different[0]}{also} missing, "
                "unexpected or of another shape."
            )


class CompleteCheckpointer(PANetCheckpointer):
    """A :class:`PANetCheckpointer` for inference, which requires all weights.

    ``load`` also raises :class:`UserError` if the file lacks any parameter of the model.
    """

    random_weights_hint = ""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        parameters = {name for name, _ in self.model.named_parameters()}
        missing = parameters.intersection(incompatible.missing_keys)
        missing.update(name for name, *_ in incompatible.incorrect_shapes)
        if missing:
            raise UserError(
                f"{self._file} has no weights, or weights of another shape, for {len(missing)} of "
                f"the {len(parameters)} parameters of this configuration, such as {min(missing)}; "
                "use a checkpoint that was trained with it."
            )
        return incompatible


def _load_pkl(file: str) -> dict[str, Any]:
    """Load a file of the model zoo of detectron2 or of Detectron, which has Caffe2's names."""
    content = load_pickle(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__} instead of named tensors.")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # detectors have "blobs", backbones do not
    weights = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _classes_of(dataset: str) -> list[str]:
    """Return the dataset's classes in order, or nothing if they are unknown."""
    return list(MetadataCatalog.get(dataset).get("thing_classes", ())) if dataset else []


def build_checkpointer(
    cfg: CfgNode, model: nn.Module, save_dir: str = "", **checkpointables: Any
) -> PANetCheckpointer:
    """Build the checkpointer for a YAML configuration.

    Args:
        cfg: reads ``DATASETS``, whose first dataset has the model's classes, and
            ``MODEL.CLASS_TRANSFER``.
        model: model built from ``cfg``.
        save_dir: folder for checkpoints; "" to save nothing.
        checkpointables: further objects to save and load.
    """
    return PANetCheckpointer(
        model,
        save_dir,
        dataset=next(iter((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)), ""),
        source_dataset=cfg.MODEL.CLASS_TRANSFER.SOURCE_DATASET,
        synonyms=cfg.MODEL.CLASS_TRANSFER.SYNONYMS,
        **checkpointables,
    )


def build_lazy_checkpointer(
    cfg: DictConfig, model: nn.Module, save_dir: str = "", **checkpointables: Any
) -> PANetCheckpointer:
    """Build the checkpointer for a Python configuration.

    Args:
        cfg: reads ``dataloader``, whose first dataset has the model's classes, and
            ``train.class_transfer``.
        model, save_dir, checkpointables: see :func:`build_checkpointer`.
    """
    return PANetCheckpointer(
        model,
        save_dir,
        dataset=next(iter([*dataset_names(cfg, "train"), *dataset_names(cfg, "test")]), ""),
        source_dataset=cfg.train.class_transfer.source_dataset,
        synonyms=cfg.train.class_transfer.synonyms,
        weights_key="train.init_checkpoint",
        source_dataset_key="train.class_transfer.source_dataset",
        synonyms_key="train.class_transfer.synonyms",
        **checkpointables,
    )
