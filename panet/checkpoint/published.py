"""Weights that other projects published: download, verification, conversion and cache."""

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdown
import requests
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathHandler, PathManager
from filelock import FileLock
from gdown.exceptions import DownloadError as GdownError
from iopath.common.file_io import get_cache_dir

from panet.config_files import get_config_file
from panet.utils.atomic import open_atomically
from panet.utils.digest import sha256
from panet.utils.errors import DownloadError, UserError

from .convert.converter import convert_file
from .convert.systems import SOURCES
from .weights import save_weights

PREFIX = "panet://"
"""Start of the URLs of published weights, e.g. "panet://pafpn/faster_rcnn_R50_PAFPN_1x.pth"."""

ENVIRONMENT_VARIABLE = "PANET_MODEL_ZOO"
"""A folder or URL to read published files from, each under its configuration's name with .pth."""

_DATASET = "coco_2017_train"  # of all published weights
_RETRIES = 3


def download_folder() -> Path:
    """Return the folder of published files, downloaded or placed by hand."""
    return Path(get_cache_dir(), "panet", "published")


@dataclass(frozen=True)
class Published:
    """Published weights of a configuration.

    Attributes:
        config: name of the configuration in the model zoo.
        source: name of the project, see :data:`panet.checkpoint.convert.systems.SOURCES`.
        url: published file.
        page: web page with the reported figures.
        licence: SPDX identifier of the project's licence.
        box_ap: box AP on COCO val2017 as reported.
        megabytes: size of the converted file.
        mask_ap: mask AP on COCO val2017 as reported; None without masks.
    """

    config: str
    source: str
    url: str
    page: str
    licence: str
    box_ap: float
    megabytes: int
    mask_ap: float | None = None

    @property
    def name(self) -> str:
        """Name of the file in the cache and in a custom model zoo."""
        return str(Path(self.config).with_suffix(".pth"))

    @property
    def weights(self) -> str:
        """URL for ``MODEL.WEIGHTS``."""
        return f"{PREFIX}{self.name}"

    @property
    def hash_prefix(self) -> str:
        """First digits of the file's SHA-256 if its name has them, as mmdetection's have."""
        match = re.search(r"-([0-9a-f]{8,})\.pth$", self.url)
        return match[1] if match else ""

    @property
    def cached(self) -> Path:
        """Where the converted weights are cached."""
        return Path(get_cache_dir(), "panet", "converted", self.name)

    @property
    def download(self) -> Path:
        """Where the original file is downloaded to, or placed by hand."""
        return download_folder() / self.name


_official = functools.partial(
    Published, source="panet-pytorch", page="https://github.com/ShuLiu1993/PANet", licence="MIT"
)
_DRIVE = "https://drive.google.com/uc?id="

_ALL: tuple[Published, ...] = (
    _official(
        config="official/e2e_panet_R-50-FPN_1x_det.yaml",
        url=f"{_DRIVE}1_ahNQHY3D4mbsMWHR2FwmItBkLwYOrS4",
        box_ap=39.8,
        megabytes=194,
    ),
    _official(
        config="official/e2e_panet_R-50-FPN_1x_det_2fc.yaml",
        url=f"{_DRIVE}1s-xm8GxHbmnt5M3gOMacXIRMvCGaDeRR",
        box_ap=39.6,
        megabytes=336,
    ),
    _official(
        config="official/e2e_panet_R-50-FPN_2x_mask.yaml",
        url=f"{_DRIVE}1-pVZQ3GR6Aj7KJzH9nWoRQ-Lts8IcdMS",
        box_ap=43.1,
        mask_ap=38.3,
        megabytes=294,
    ),
    Published(
        config="pafpn/faster_rcnn_R50_PAFPN_1x.yaml",
        source="mmdet",
        url="https://download.openmmlab.com/mmdetection/v2.0/pafpn/faster_rcnn_r50_pafpn_1x_coco/"
        "faster_rcnn_r50_pafpn_1x_coco_bbox_mAP-0.375_20200503_105836-b7b4b9bd.pth",
        page="https://github.com/open-mmlab/mmdetection/tree/main/configs/pafpn",
        licence="Apache-2.0",
        box_ap=37.5,
        megabytes=181,
    ),
)
PUBLISHED: dict[str, Published] = {published.config: published for published in _ALL}
"""By the name of the configuration."""


def fetch(published: Published) -> Path:
    """Return the converted weights of a configuration, from the cache if it has them.

    Processes that need the same weights wait for the one that downloads them. An interrupted
    download resumes.

    Raises:
        DownloadError: if the file cannot be downloaded.
        UserError: if the file is not the published one.
    """
    target = published.cached
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_file():
            original, is_ours = _obtain(published)
            digest = _check_hash(published, original)
            config_file = get_config_file(published.config)
            conversion = convert_file(original, SOURCES[published.source])
            if conversion.config_file != config_file or conversion.overrides:
                raise UserError(f"{original} is not a model of {published.config}.")
            classes = MetadataCatalog.get(_DATASET).thing_classes
            save_weights(target, conversion.state, classes)
            with open_atomically(_hash_file(published), "w") as file:
                file.write(digest)
            if is_ours:
                original.unlink()
    return target


def _obtain(published: Published) -> tuple[Path, bool]:
    """Return the original file, and whether it is a download that is not needed afterwards."""
    if published.download.is_file():
        return published.download, False
    zoo = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if zoo and "://" not in zoo:
        file = Path(zoo, published.name)
        if not file.is_file():
            raise UserError(f"{ENVIRONMENT_VARIABLE} is {zoo}, which has no file {published.name}.")
        return file, False
    _download(f"{zoo.rstrip('/')}/{published.name}" if zoo else published.url, published)
    return published.download, True


def _download(url: str, published: Published) -> None:
    """Download to ``published.download``; a part of it is kept for the next attempt."""
    published.download.parent.mkdir(parents=True, exist_ok=True)
    try:
        gdown.download(
            url,
            str(published.download),
            resume=True,
            use_cookies=False,
            timeout=60.0,
            retries=_RETRIES,
        )
    except (GdownError, requests.RequestException) as error:
        raise DownloadError(
            f"{url} cannot be downloaded ({' '.join(str(error).split())}); place the file at "
            f"{published.download}, or set {ENVIRONMENT_VARIABLE} to a folder that has "
            f"{published.name}."
        ) from error


def _hash_file(published: Published) -> Path:
    return published.cached.with_suffix(".sha256")


def _check_hash(published: Published, file: Path) -> str:
    """Compare with the digits in the published name, else with the first download; the digest."""
    digest = sha256(file)
    record = _hash_file(published)
    expected = published.hash_prefix or (record.read_text() if record.is_file() else "")
    if not digest.startswith(expected):
        raise UserError(
            f"{file} has the SHA-256 {digest[:8]}..., not {expected[:8]}...; it is damaged or not "
            "the published file. Delete it and try again."
        )
    return digest


class PublishedHandler(PathHandler):
    """Resolves URLs such as "panet://official/e2e_panet_R-50-FPN_2x_mask.pth" by :func:`fetch`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(fetch(_named(path)))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Path(self._get_local_path(path)).open(mode)


def _named(url: str) -> Published:
    for published in PUBLISHED.values():
        if published.weights == url:
            return published
    known = ", ".join(published.weights for published in PUBLISHED.values())
    raise UserError(f"There are no published weights {url}; there are {known}.")


PathManager.register_handler(PublishedHandler(), allow_override=True)
