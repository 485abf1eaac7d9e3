"""Optimizers without weight decay of norms, for batches of 16 images."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

sgd = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

adamw = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0, base_lr="${..lr}"),
    lr=1e-4,
    weight_decay=0.05,
    fused=True,
)
