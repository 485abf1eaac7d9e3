"""Optimization of trained models for inference."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from panet.modeling.backbones.timm import TimmBackbone
from panet.modeling.build import speed_up_heads
from panet.modeling.cpu.first_layers import PixelMajorFullyConnected
from panet.modeling.cpu.fused import fuse_residual_blocks
from panet.modeling.cpu.group_norm import MatrixGroupNorm, convert_group_norms
from panet.modeling.cpu.layers import (
    FrozenNormConv2d,
    activate_in_place,
    folded_parameters,
    speed_up_convolutions,
)
from panet.modeling.fully_connected import FullyConnected
from panet.utils.choices import check_choice
from panet.utils.device import usable_precision
from panet.utils.errors import UserError
from panet.utils.modules import convert_convolution, replace_modules

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_LAYERS_IN_LOW_PRECISION = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Linear,
    nn.GroupNorm,
    nn.LayerNorm,
    PixelMajorFullyConnected,
)

# These layers compute boxes, scores and the order of proposals.
_OUTPUTS_IN_SINGLE_PRECISION = (StandardRPNHead, RetinaNetHead)


def optimize_for_inference(
    model: nn.Module,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
    *,
    key: str = "dtype",
) -> nn.Module:
    """Return a fast copy of a ``GeneralizedRCNN`` or ``RetinaNet``, for inference only.

    Batch norms, frozen or not, are folded into their convolutions, weights and feature maps are
    channels-last, and activations are in-place. In float32 the outputs are unchanged up to
    rounding. In a lower precision, layers and activations use it, while images, boxes, scores and
    mask pasting stay in float32. A timm backbone keeps its norms and weights; in a lower precision
    it runs under autocast.

    Args:
        model: model with layers of this project or of detectron2, on the device where it will run.
            It is not modified; unchanged weights are shared with the copy.
        dtype: ``torch.float32``, ``torch.bfloat16``, or, on CUDA, ``torch.float16``. On a CPU
            without bfloat16 instructions, bfloat16 falls back to float32 with a warning.
        compile: compile the backbone with ``torch.compile``, which takes about a minute at the
            first image and, on a CPU, needs a C++ compiler.
        key: name of the option that sets ``dtype``, for messages.

    Returns:
        A model of the same class in evaluation mode.

    Raises:
        UserError: if ``dtype`` is not one of these, or not for the model's device.
    """
    name = str(dtype).removeprefix("torch.")
    check_choice(key, name, _DTYPES)
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if dtype != torch.float32:
        device = next(model.parameters()).device
        if dtype == torch.float16 and device.type != "cuda":
            raise UserError(f"{key} is float16, which needs CUDA; use bfloat16 on the CPU.")
        dtype = usable_precision(key, dtype, device)
    model = _copy_sharing_tensors(model).eval()
    timm_layers = _timm_layers(model)
    model = replace_modules(model, _unfold)
    for module in model.modules():
        if isinstance(module, Conv2d | FullyConnected):
            _fold_norm(module)
    model = convert_group_norms(model, MatrixGroupNorm, kept=timm_layers)
    fuse_residual_blocks(model)
    model = speed_up_convolutions(model)
    activate_in_place(model)
    _replace_parameters(model, dtype, timm_layers)
    # After the conversion to dtype; the reverse order would copy the largest weights again.
    model = speed_up_heads(model, PixelMajorFullyConnected.of)
    if dtype != torch.float32:
        _convert_at_boundaries(model, dtype, timm_layers)
    if compile:
        model.get_submodule("backbone").compile(dynamic=True)
    return model


def optimize_from_config(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Apply :func:`optimize_for_inference` as configured by ``TEST.OPTIMIZE``.

    Returns:
        ``model`` itself unless ``TEST.OPTIMIZE.ENABLED``.

    Raises:
        UserError: if ``TEST.OPTIMIZE.DTYPE`` is unknown or not for the model's device.
    """
    options = cfg.TEST.OPTIMIZE
    if not options.ENABLED:
        return model
    return optimize_by_name(model, "TEST.OPTIMIZE.DTYPE", options.DTYPE, options.COMPILE)


def optimize_by_name(model: nn.Module, key: str, dtype: str, compile: bool) -> nn.Module:
    """Apply :func:`optimize_for_inference` with the precision given by name.

    Args:
        model, compile: see :func:`optimize_for_inference`.
        key: configuration key of the precision, for messages.
        dtype: "float32", "bfloat16" or "float16".

    Raises:
        UserError: if ``dtype`` is unknown or not for the model's device.
    """
    check_choice(key, dtype, _DTYPES)
    return optimize_for_inference(model, _DTYPES[dtype], compile, key=key)


def _copy_sharing_tensors(model: nn.Module) -> nn.Module:
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _unfold(module: nn.Module) -> nn.Module | None:
    """Convert a convolution that folds its norm at every call to one with a separate norm."""
    return convert_convolution(module, Conv2d) if isinstance(module, FrozenNormConv2d) else None


def _fold_norm(layer: Conv2d | FullyConnected) -> None:
    batch_norm = isinstance(layer.norm, FrozenBatchNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm)
    if batch_norm and layer.norm.running_mean is not None:
        weight, bias = folded_parameters(layer)
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layer.norm = None


def _timm_layers(model: nn.Module) -> set[nn.Module]:
    """Return the layers of timm backbones, which may use parameters and inputs in any way."""
    backbones = [module for module in model.modules() if isinstance(module, TimmBackbone)]
    return {layer for backbone in backbones for layer in backbone.modules()}


def _replace_parameters(
    model: nn.Module, dtype: torch.dtype, timm_layers: Collection[nn.Module]
) -> None:
    """Replace all parameters by channels-last ones in the precision of their layer.

    Parameters of timm layers keep their precision, and only their convolutions' weights become
    channels-last.
    """
    predictors = [module for module in model.modules() if isinstance(module, FastRCNNOutputLayers)]
    kept = {layer for predictor in predictors for layer in predictor.modules()}.union(timm_layers)
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        low = isinstance(module, _LAYERS_IN_LOW_PRECISION) and module not in kept
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in replaced:
                value = parameter.detach().to(dtype if low else parameter.dtype)
                if value.dim() == 4 and (
                    module not in timm_layers or isinstance(module, nn.Conv2d)
                ):
                    value = value.contiguous(memory_format=torch.channels_last)
                replaced[parameter] = nn.Parameter(value, requires_grad=False)
            setattr(module, name, replaced[parameter])


def _convert_at_boundaries(
    model: nn.Module, dtype: torch.dtype, timm_layers: Collection[nn.Module]
) -> None:
    for module in model.modules():
        if isinstance(module, TimmBackbone):
            module.autocast_dtype = dtype
        elif module in timm_layers:
            continue
        elif isinstance(module, _LAYERS_IN_LOW_PRECISION):
            module.register_forward_pre_hook(_to_own_precision)
        elif isinstance(module, ROIPooler):
            module.register_forward_pre_hook(_inputs_to_single_precision)
        if isinstance(module, _OUTPUTS_IN_SINGLE_PRECISION):
            module.register_forward_hook(_output_to_single_precision)
        elif isinstance(module, MaskRCNNConvUpsampleHead):
            module.predictor.register_forward_hook(_output_to_single_precision)


def _to_own_precision(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(next(layer.parameters()).dtype), *inputs[1:])


def _inputs_to_single_precision(_module: nn.Module, inputs: Any) -> Any:
    return _to_single_precision(inputs)


def _output_to_single_precision(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return _to_single_precision(output)


def _to_single_precision(value: Any) -> Any:
    """Convert a tensor, or the tensors in nested lists and tuples, to float32."""
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, list | tuple):
        return type(value)(map(_to_single_precision, value))
    return value
