"""torchvision's module names of ResNets, also used by mmdetection."""

from collections.abc import Iterable, Mapping, Sequence

from panet.utils.errors import UserError

STAGES = ("res2", "res3", "res4", "res5")
_MAX_BLOCKS = 36  # per stage: res4 of ResNet-152
# Depth by the number of blocks of res4. ResNet-34 has 6 too, but no third convolution.
_DEPTHS = {6: 50, 23: 101, 36: 152}


def resnet_modules(
    prefix: str,
    stem: str = "",
    stages: Sequence[str] = ("layer1", "layer2", "layer3", "layer4"),
) -> dict[str, str]:
    """Map torchvision's module names to those of a ResNet of detectron2 in a backbone with FPN.

    Args:
        prefix: start of all names.
        stem: further start of the names of the stem.
        stages: names of the stages.
    """
    target = "backbone.bottom_up"
    table = {
        f"{prefix}{stem}conv1": f"{target}.stem.conv1",
        f"{prefix}{stem}bn1": f"{target}.stem.conv1.norm",
    }
    for their_stage, stage in zip(stages, STAGES):
        for block in range(_MAX_BLOCKS):
            ours, theirs = f"{target}.{stage}.{block}", f"{prefix}{their_stage}.{block}"
            for conv in (1, 2, 3):
                table[f"{theirs}.conv{conv}"] = f"{ours}.conv{conv}"
                table[f"{theirs}.bn{conv}"] = f"{ours}.conv{conv}.norm"
            table[f"{theirs}.downsample.0"] = f"{ours}.shortcut"
            table[f"{theirs}.downsample.1"] = f"{ours}.shortcut.norm"
    return table


def bottleneck_depth(names: Iterable[str], res4: str) -> int:
    """Return the depth of a ResNet: 50, 101 or 152.

    Args:
        names: names of its tensors.
        res4: name prefix of its fourth stage, including the dot.

    Raises:
        UserError: if it has another depth.
    """
    names = set(names)
    blocks = {name.removeprefix(res4).split(".")[0] for name in names if name.startswith(res4)}
    depth = _DEPTHS.get(len(blocks))
    if depth is None or f"{res4}0.conv3.weight" not in names:
        raise UserError(
            f"its backbone has {len(blocks)} blocks in {res4.rstrip('.')}, but a ResNet of depth "
            "50, 101 or 152 has 6, 23 or 36 bottlenecks."
        )
    return depth


def is_torchvision_resnet(state: Mapping[str, object]) -> bool:
    """Whether the tensors belong to a ResNet or ResNeXt of torchvision."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state
