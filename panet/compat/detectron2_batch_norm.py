"""Make detectron2's ``NaiveSyncBatchNorm`` compute statistics of bfloat16 inputs in float32.

Seen in sal-detectron2 0.7.2 and in detectron2 at commit 02b5c4e: it converts float16 to float32,
but computes ``E[x^2] - E[x]^2`` of bfloat16 in bfloat16, whose 8 bits do not suffice. Remove this
file when it converts bfloat16 too.
"""

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor


class PreciseNaiveSyncBatchNorm(NaiveSyncBatchNorm):
    """A ``NaiveSyncBatchNorm`` that synchronizes in float32, or in float64 for float64 inputs.

    The output has the precision of the input. Parameters and buffers have the same names.
    """

    @classmethod
    def like(cls, norm: NaiveSyncBatchNorm) -> "PreciseNaiveSyncBatchNorm":
        """Create a norm with the settings of ``norm``, but new parameters and buffers."""
        return cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            stats_mode=norm._stats_mode,
        )

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
        """
        if not self.training or comm.get_world_size() == 1:  # PyTorch's batch norm
            return super().forward(x)
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)
