"""Time training iterations of PANet against detectron2's Mask R-CNN.

The inputs are two images of 800 x 1088 random pixels with 12 objects each. Every model computes its
proposals, but continues with the same given 1,000 boxes per image, half of them close to the
objects; 512 RoIs per image are sampled from these. The learning rate is zero, so that the amount of
work does not change.
"""

import contextlib

import torch
from boxes import NUM_PROPOSALS, forced, jittered_boxes, labeled_images, proposals, random_boxes
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from measure import Run, benchmark
from peers import build_peer, labeled_inputs
from rows import SEED, Row
from stages import StageClock, clocked

IMAGES = 2


def set_up(row: Row, device: torch.device) -> Run:
    """Build the model of a row and its optimizer, and return a function that runs an iteration."""
    generator = torch.Generator().manual_seed(SEED)
    if row.peer is not None:
        return _set_up_peer(row.peer, generator, device)
    model = row.build_model(device).train()
    cfg = row.load_config(device)
    cfg.SOLVER.BASE_LR = 0.0
    optimizer = build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler(device.type, enabled=row.dtype == torch.float16)
    batch = labeled_images(IMAGES, generator)
    proposed = []
    for image in batch:
        objects = image["instances"].gt_boxes.tensor
        half = NUM_PROPOSALS // 2
        boxes = [jittered_boxes(objects, half, generator), random_boxes(half, generator)]
        proposed.append(proposals(torch.cat(boxes), device))

    def run(clock: StageClock | None) -> None:
        torch.manual_seed(SEED)  # samples the same RoIs
        stage = clock.stage if clock is not None else contextlib.nullcontext
        with EventStorage(), forced(model, proposed), clocked(model, clock):
            with torch.autocast(device.type, row.dtype, enabled=row.dtype != torch.float32):
                losses = model(batch)
            with stage("backward"):
                optimizer.zero_grad()
                scaler.scale(sum(losses.values())).backward()
            with stage("optimizer"):
                scaler.step(optimizer)
                scaler.update()

    return run


def _set_up_peer(name: str, generator: torch.Generator, device: torch.device) -> Run:
    model = build_peer(name, device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    batch, targets = labeled_inputs(IMAGES, generator, device)

    def run(clock: StageClock | None) -> None:
        torch.manual_seed(SEED)
        losses = model(batch, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    benchmark(__doc__, set_up)
