"""Times training iterations of PANet against detectron2's Mask R-CNN.

Two images of 800 x 1088 random pixels with a dozen objects each. Every model computes its own
proposals, and goes on with the same forced 1,000 boxes an image, half of them about the objects;
512 RoIs an image are sampled from these. The learning rate is zero, so that the work stays the
same.
"""

import contextlib

import torch
from boxes import (
    NUM_PROPOSALS,
    forced,
    jittered_boxes,
    labelled_images,
    proposals,
    random_boxes,
)
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from measure import Run, benchmark
from rows import SEED, Row
from stages import StageClock, clocked

IMAGES = 2


def set_up(row: Row, device: torch.device) -> Run:
    """The model of a row and its optimizer, ready for an iteration."""
    model = row.build_model(device).train()
    cfg = row.load_config(device)
    cfg.SOLVER.BASE_LR = 0.0
    optimizer = build_optimizer(cfg, model)
    generator = torch.Generator().manual_seed(SEED)
    batch = labelled_images(IMAGES, generator)
    proposed = []
    for image in batch:
        objects = image["instances"].gt_boxes.tensor
        half = NUM_PROPOSALS // 2
        boxes = [jittered_boxes(objects, half, generator), random_boxes(half, generator)]
        proposed.append(proposals(torch.cat(boxes), device))

    def run(clock: StageClock | None) -> None:
        torch.manual_seed(SEED)  # the same RoIs are sampled
        stage = clock.stage if clock is not None else contextlib.nullcontext
        with EventStorage(), row.running(), forced(model, proposed), clocked(model, clock):
            with torch.autocast(device.type, row.dtype, enabled=row.dtype != torch.float32):
                losses = model(batch)
            with stage("backward"):
                optimizer.zero_grad()
                sum(losses.values()).backward()
            with stage("optimizer"):
                optimizer.step()

    return run


if __name__ == "__main__":
    benchmark(__doc__, set_up)
