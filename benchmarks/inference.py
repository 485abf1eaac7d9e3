"""Time inference of PANet against detectron2's Mask R-CNN.

The input is one image of 800 x 1088 random pixels. Every model computes 1,000 proposals and its
detections, but continues with the same given 1,000 proposals and 100 detections, so that all models
do the same work. PANet's models, except the naive one, are prepared by optimize_for_inference.
"""

from collections.abc import Callable

import torch
from boxes import NUM_DETECTIONS, NUM_PROPOSALS, detections, forced, images, proposals, random_boxes
from measure import Run, benchmark
from peers import build_peer, inputs
from rows import SEED, Row
from stages import StageClock, clocked
from torch import nn

from panet import optimize_for_inference


def set_up(
    row: Row,
    device: torch.device,
    num_images: int = 1,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Run:
    """Build the model of a row and return a function that runs inference.

    Args:
        row: the model.
        device: device of the model.
        num_images: batch size.
        prepare: modifies the model in place after it is optimized.
    """
    generator = torch.Generator().manual_seed(SEED)
    if row.peer is not None:
        return _set_up_peer(row.peer, generator, device)
    model = row.build_model(device).eval()
    if row.config is not None and not row.naive:
        model = optimize_for_inference(model, row.dtype)
    if prepare is not None:
        prepare(model)
    # Lower precision in stock detectron2.
    autocast = row.config is None and row.dtype != torch.float32
    batch = images(num_images, generator)
    proposed = [proposals(random_boxes(NUM_PROPOSALS, generator), device) for _ in batch]
    detected = [detections(random_boxes(NUM_DETECTIONS, generator), device) for _ in batch]

    def run(clock: StageClock | None) -> None:
        with (
            torch.no_grad(),
            torch.autocast(device.type, row.dtype, enabled=autocast),
            forced(model, proposed, detected),
            clocked(model, clock),
        ):
            model(batch)

    return run


def _set_up_peer(name: str, generator: torch.Generator, device: torch.device) -> Run:
    model = build_peer(name, device).eval()
    image = inputs(generator, device)

    def run(clock: StageClock | None) -> None:
        with torch.no_grad():
            model(image)

    return run


if __name__ == "__main__":
    benchmark(__doc__, set_up)
