"""torchvision's names of the modules of a ResNet, which mmdetection shares."""

from collections.abc import Iterable, Mapping

from panet.utils.errors import UserError

STAGES = ("res2", "res3", "res4", "res5")
_MOST_BLOCKS = 36  # of a stage: res4 of ResNet-152
_DEPTHS = {6: 50, 23: 101, 36: 152}
"""Depth by the number of blocks of res4; ResNet-34 has no bottlenecks, so no third convolution."""


def resnet_modules(prefix: str) -> dict[str, str]:
    """torchvision's modules, after ``prefix``, and detectron2's names of them in a pyramid."""
    target = "backbone.bottom_up"
    table = {
        f"{prefix}conv1": f"{target}.stem.conv1",
        f"{prefix}bn1": f"{target}.stem.conv1.norm",
    }
    for number, stage in enumerate(STAGES, start=1):
        for block in range(_MOST_BLOCKS):
            source_block, target_block = (
                f"{prefix}layer{number}.{block}",
                f"{target}.{stage}.{block}",
            )
            for conv in (1, 2, 3):
                table[f"{source_block}.conv{conv}"] = f"{target_block}.conv{conv}"
                table[f"{source_block}.bn{conv}"] = f"{target_block}.conv{conv}.norm"
            table[f"{source_block}.downsample.0"] = f"{target_block}.shortcut"
            table[f"{source_block}.downsample.1"] = f"{target_block}.shortcut.norm"
    return table


def bottleneck_depth(names: Iterable[str], res4: str) -> int:
    """The depth of a ResNet, 50, 101 or 152.

    Args:
        names: of its tensors.
        res4: the name of that stage there, with the dot after it.

    Raises:
        UserError: if it is another one.
    """
    names = set(names)
    blocks = {name.removeprefix(res4).split(".")[0] for name in names if name.startswith(res4)}
    depth = _DEPTHS.get(len(blocks))
    if depth is None or f"{res4}0.conv3.weight" not in names:
        raise UserError(
            f"its backbone has {len(blocks)} blocks in {res4.rstrip('.')}, where a ResNet of depth "
            "50, 101 or 152 has 6, 23 or 36 bottlenecks."
        )
    return depth


def is_torchvision_resnet(state: Mapping[str, object]) -> bool:
    """Whether these are the tensors of one of torchvision's ResNets or ResNeXts."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state
