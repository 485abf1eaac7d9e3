"""The models of the ablation: Mask R-CNN and what PANet adds to it, component by component."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import shared_first_layer


@dataclass(frozen=True)
class Row:
    """A model, as what it changes in another one.

    Attributes:
        name: of its folder, and on the command line.
        label: in the table; of a row with a reference, what it adds or has instead.
        reference: the name of the row that it is compared with; None for the first.
        changes: keys of the configuration and their values, beside those of the reference.
    """

    name: str
    label: str
    reference: str | None = None
    changes: dict[str, str] = field(default_factory=dict)

    def lineage(self) -> "Iterator[Row]":
        """The rows that it builds on, from the first to itself."""
        if self.reference is not None:
            yield from ROWS[self.reference].lineage()
        yield self

    def overrides(self) -> list[str]:
        """Keys and values in turn, for :func:`panet.load_config`."""
        merged: dict[str, str] = {}
        for row in self.lineage():
            merged |= row.changes
        return [part for pair in merged.items() for part in pair]


_POOLING = "MODEL.ADAPTIVE_POOLING"
_FC_FUSION = "MODEL.FC_FUSION"
_BOX_HEAD, _MASK_HEAD = "MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD"

BASELINE = Row(
    "mask-rcnn",
    "Mask R-CNN",
    changes={
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.ROI_HEADS.NAME": "PANetROIHeads",
        f"{_POOLING}.ENABLED": "False",
        f"{_POOLING}.FUSION": "max",
        f"{_POOLING}.POSITION": "after",
        f"{_FC_FUSION}.SOURCE": "none",
        f"{_FC_FUSION}.COMBINATION": "sum",
        f"{_BOX_HEAD}.NAME": "PANetBoxHead",
        f"{_BOX_HEAD}.NUM_CONV": "0",
        f"{_BOX_HEAD}.NUM_FC": "2",
        f"{_MASK_HEAD}.NAME": "PANetMaskHead",
    },
)

ROWS = {
    row.name: row
    for row in (
        BASELINE,
        Row(
            "bottom-up",
            "+ bottom-up path",
            "mask-rcnn",
            {"MODEL.BACKBONE.NAME": "build_resnet_pafpn_backbone"},
        ),
        Row("pooling", "+ adaptive pooling", "mask-rcnn", {f"{_POOLING}.ENABLED": "True"}),
        Row("both", "+ both", "bottom-up", {f"{_POOLING}.ENABLED": "True"}),
        Row("fc-fusion", "+ fully-connected fusion", "both", {f"{_FC_FUSION}.SOURCE": "conv3"}),
        Row(
            "panet",
            "+ heavier head: PANet",
            "fc-fusion",
            {f"{_BOX_HEAD}.NUM_CONV": "4", f"{_BOX_HEAD}.NUM_FC": "1"},
        ),
        Row("pooling-sum", "levels fused by sum", "pooling", {f"{_POOLING}.FUSION": "sum"}),
        Row(
            "pooling-before",
            "levels fused before the first layer",
            "pooling",
            {f"{_POOLING}.POSITION": "before"},
        ),
        Row(
            "pooling-shared",
            "one first layer for all levels",
            "pooling",
            {
                f"{_BOX_HEAD}.NAME": shared_first_layer.SharedBoxHead.__name__,
                f"{_MASK_HEAD}.NAME": shared_first_layer.SharedMaskHead.__name__,
            },
        ),
        Row("fc-conv2", "branch from conv2", "fc-fusion", {f"{_FC_FUSION}.SOURCE": "conv2"}),
        Row("fc-conv4", "branch from conv4", "fc-fusion", {f"{_FC_FUSION}.SOURCE": "conv4"}),
        Row(
            "fc-product", "product of logits", "fc-fusion", {f"{_FC_FUSION}.COMBINATION": "product"}
        ),
        Row("fc-max", "maximum of logits", "fc-fusion", {f"{_FC_FUSION}.COMBINATION": "max"}),
    )
}
