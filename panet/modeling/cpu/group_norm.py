"""Group normalization in bfloat16 on a CPU."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from panet.utils.modules import replace_modules, share_state


class ContiguousGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that computes on contiguous maps when training in bfloat16 on a CPU.

    The backward pass of PyTorch's ``nn.GroupNorm`` is many times slower on channels-last maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (N, C, H, W).

        Returns:
            Tensor of the same shape and memory format.
        """
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        slow = channels_last and x.is_cpu and x.dtype == torch.bfloat16
        if not slow or not torch.is_grad_enabled():
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


class MatrixGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for inference that sums over the feature map with matrix products.

    On a CPU and channels-last bfloat16 maps of many RoIs, it is five times faster than PyTorch's.
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
        rest = self._group_means(centered)  # not zero, because the mean was rounded
        variance = self._group_means(centered.square()) - rest.square()
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - rest * scale
        normalized = torch.addcmul(shift.to(x.dtype), centered, scale.to(x.dtype))
        return normalized.view(images, height, width, channels).permute(0, 3, 1, 2)

    def _group_means(self, pixels: Tensor) -> Tensor:
        """Average (N, H * W, C) over pixels and groups; return (N, 1, C) in single precision."""
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
    """Replace every ``nn.GroupNorm`` with an instance of ``kind`` that shares its parameters.

    Args:
        module: module to modify in place.
        kind: class of the replacements.
        kept: norms that are not replaced.

    Returns:
        ``module``, or its replacement if ``module`` itself is a norm.
    """

    def build(norm: nn.Module) -> nn.Module | None:
        if not isinstance(norm, nn.GroupNorm) or type(norm) not in replaced or norm in kept:
            return None
        with torch.device("meta"):
            converted = kind(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        return share_state(converted, norm)

    replaced = {nn.GroupNorm, ContiguousGroupNorm} - {kind}
    return replace_modules(module, build)
