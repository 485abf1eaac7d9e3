"""The models that the speed benchmarks compare."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from panet import load_config
from panet.engine import PANetTrainer
from panet.model_zoo import get_config_file
from panet.prepare import prepare

SEED = 0
STOCK_CONFIG = Path(__file__).with_name("mask_rcnn_R50_FPN.yaml")


@dataclass(frozen=True)
class Row:
    """A model and how to run it.

    Attributes:
        name: name in the report.
        config: name in PANet's model zoo; None for detectron2's Mask R-CNN.
        dtype: compute precision.
        naive: use the model of detectron2's ``build_model``, without the faster layers.
        peer: function of ``torchvision.models.detection`` that builds another Mask R-CNN, whose
            stages are not timed separately.
        options: configuration keys and values to override, alternating.
    """

    name: str
    config: str | None
    dtype: torch.dtype
    naive: bool = False
    peer: str | None = None
    options: tuple[Any, ...] = ()

    def load_config(self, device: torch.device) -> CfgNode:
        """Load the configuration of the model, without weights."""
        if self.config is None:
            cfg = get_cfg()
            cfg.merge_from_file(str(STOCK_CONFIG))
        else:
            cfg = prepare(load_config(get_config_file(self.config)))
        cfg.MODEL.DEVICE = str(device)
        cfg.MODEL.WEIGHTS = ""
        cfg.merge_from_list(list(self.options))
        return cfg

    def build_model(self, device: torch.device) -> nn.Module:
        """Build the model for training, with random weights."""
        torch.manual_seed(SEED)
        cfg = self.load_config(device)
        plain = self.config is None or self.naive
        return build_model(cfg) if plain else PANetTrainer.build_model(cfg)


STOCK, TWO_FC, FULL = None, "panet_R50_2fc_1x.yaml", "panet_R50_2x.yaml"

ROWS = {
    row.name: row
    for row in (
        Row("stock-fp32", STOCK, torch.float32),
        Row("stock-bf16", STOCK, torch.bfloat16),
        Row("panet-2fc-fp32", TWO_FC, torch.float32),
        Row("panet-2fc-bf16", TWO_FC, torch.bfloat16),
        Row("panet-r50-2x-fp32", FULL, torch.float32),
        Row("panet-r50-2x-bf16", FULL, torch.bfloat16),
        Row("panet-naive-fp32", TWO_FC, torch.float32, naive=True),
        Row("torchvision-fp32", None, torch.float32, peer="maskrcnn_resnet50_fpn"),
        Row("torchvision-v2-fp32", None, torch.float32, peer="maskrcnn_resnet50_fpn_v2"),
    )
}
BASELINE = "stock-fp32"
