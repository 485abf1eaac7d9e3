"""Group normalization in low precision on a CPU."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from panet.utils.modules import replace_modules, share_state


class ContiguousGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for training, which in bfloat16 computes on maps that are not channels-last.

    On a CPU, the backward pass of PyTorch's own is many times as slow on channels-last maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).

        Returns:
            The same shape and memory format.
        """
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        slow = channels_last and x.is_cpu and x.dtype == torch.bfloat16
        if not slow or not torch.is_grad_enabled():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class MatrixGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for inference, its sums over the feature map taken as matrix products.

    On the channels-last maps of many RoIs in bfloat16, PyTorch's own takes five times as long on
    a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).
        """
        images, channels, height, width = x.shape
        if not x.is_cpu or x.dtype != torch.bfloat16 or images <= 1:
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        centered = pixels - self._group_means(pixels).to(x.dtype)
        rest = self._group_means(centered)  # what rounding the mean left of it
        variance = self._group_means(centered.square()) - rest.square()
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - rest * scale
        normalized = torch.addcmul(shift.to(x.dtype), centered, scale.to(x.dtype))
        return normalized.view(images, height, width, channels).permute(0, 3, 1, 2)

    def _group_means(self, pixels: Tensor) -> Tensor:
        """(N, H * W, C) to (N, 1, C) in single precision, the same for each channel of a group."""
        images, area, channels = pixels.shape
        ones = pixels.new_ones(1, 1, area).expand(images, -1, -1)
        sums = torch.bmm(ones, pixels).float().view(images, self.num_groups, -1)
        means = sums.mean(2, keepdim=True) / area
        return means.expand_as(sums).reshape(images, 1, channels)


def convert_group_norms(
    module: nn.Module,
    kind: type[ContiguousGroupNorm] | type[MatrixGroupNorm],
    kept: Collection[nn.Module] = (),
) -> nn.Module:
    """Replace every ``nn.GroupNorm`` by one of another class, with the same parameters.

    Args:
        module: changed in place.
        kind: the class.
        kept: norms to keep as they are.

    Returns:
        ``module``, or what it itself is replaced by.
    """

    def build(norm: nn.Module) -> nn.Module | None:
        if not isinstance(norm, nn.GroupNorm) or type(norm) not in replaced or norm in kept:
            return None
        with torch.device("meta"):
            converted = kind(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        return share_state(converted, norm)

    replaced = {nn.GroupNorm, ContiguousGroupNorm} - {kind}
    return replace_modules(module, build)
