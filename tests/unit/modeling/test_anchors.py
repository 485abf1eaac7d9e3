"""Detectron's anchors."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator

import panet  # noqa: F401


def test_are_those_of_detectron() -> None:
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "DetectronAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [128, 256, 512]]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=4), ShapeSpec(stride=16)])
    fine, coarse = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)])
    # From Faster R-CNN's own code for MATLAB, where a box includes its last pixel and the first
    # pixel is number 1.
    published = torch.tensor(
        [
            [-83, -39, 100, 56],
            [-175, -87, 192, 104],
            [-359, -183, 376, 200],
            [-55, -55, 72, 72],
            [-119, -119, 136, 136],
            [-247, -247, 264, 264],
            [-35, -79, 52, 96],
            [-79, -167, 96, 184],
            [-167, -343, 184, 360],
        ]
    )
    assert torch.equal(coarse.tensor, (published - torch.tensor([1, 1, 0, 0])).float())
    # Stride 4: sides of 6 x 3, 4 x 4 and 3 x 6 pixels, times 8, around (2, 2) and then 4 further.
    assert fine.tensor[:3].tolist() == [[-22, -10, 26, 14], [-14, -14, 18, 18], [-10, -22, 14, 26]]
    assert (fine.tensor[3] - fine.tensor[0]).tolist() == [4, 0, 4, 0]
