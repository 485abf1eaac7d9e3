"""The models that are compared."""

from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from panet import load_config
from panet.model_zoo import get_config_file

SEED = 0
STOCK_CONFIG = Path(__file__).with_name("mask_rcnn_R50_FPN.yaml")


@dataclass(frozen=True)
class Row:
    """A model and how it is run."""

    name: str
    config: str
    dtype: torch.dtype
    naive: bool = False

    @property
    def is_stock(self) -> bool:
        return self.config == "stock"


ROWS = (
    Row("stock-fp32", "stock", torch.float32),
    Row("stock-bf16", "stock", torch.bfloat16),
    Row("panet-2fc-fp32", "panet_R50_2fc_1x.yaml", torch.float32),
    Row("panet-2fc-bf16", "panet_R50_2fc_1x.yaml", torch.bfloat16),
    Row("panet-r50-2x-fp32", "panet_R50_2x.yaml", torch.float32),
    Row("panet-r50-2x-bf16", "panet_R50_2x.yaml", torch.bfloat16),
    Row("panet-naive-fp32", "panet_R50_2fc_1x.yaml", torch.float32, naive=True),
)


def row_named(name: str) -> Row:
    """The row of that name."""
    return next(row for row in ROWS if row.name == name)


def row_config(row: Row, device: torch.device) -> CfgNode:
    """The configuration of its model, without weights to load."""
    if row.is_stock:
        cfg = get_cfg()
        cfg.merge_from_file(str(STOCK_CONFIG))
    else:
        cfg = load_config(get_config_file(row.config))
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.WEIGHTS = ""
    return cfg


def build_row(row: Row, device: torch.device) -> nn.Module:
    """Its model, with random weights."""
    torch.manual_seed(SEED)
    return build_model(row_config(row, device))
