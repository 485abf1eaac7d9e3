"""A small imitation of the download of the nuclei dataset."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

IDS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(8)]
HEIGHT, WIDTH = 70, 90


def masks_of(number: int) -> list[np.ndarray]:
    """Return ``number + 2`` masks of disjoint rectangles."""
    masks = []
    for place in range(number + 2):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[5 + number : 12 + 2 * number, 1 + 8 * place : 6 + 8 * place] = True
        masks.append(mask)
    return masks


def image_path(folder: Path, image_id: str) -> Path:
    return folder / image_id / "images" / f"{image_id}.png"


def write_nuclei(folder: Path) -> None:
    """Write the layout of stage1_train, including stray files to ignore."""
    rng = np.random.default_rng(0)
    for number, image_id in enumerate(IDS):
        for part in ("images", "masks"):
            (folder / image_id / part).mkdir(parents=True)
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
        Image.fromarray(pixels).save(image_path(folder, image_id))
        for place, mask in enumerate(masks_of(number)):
            image = Image.fromarray(np.uint8(255 * mask))
            image.save(folder / image_id / "masks" / f"{place:02d}.png")
    (folder / ".DS_Store").write_text("")
    (folder / "readme.txt").write_text("")
    (folder / "__MACOSX").mkdir()
    (folder / IDS[0] / "masks" / "._00.png").write_text("")
    (folder / IDS[0] / "masks" / "Thumbs.db").write_text("")
