"""The models of the ablation: Mask R-CNN, to which the components of PANet are added."""

from dataclasses import dataclass, field
from itertools import chain

from shared_first_layer import SharedBoxHead, SharedMaskHead


@dataclass(frozen=True)
class Row:
    """A model, described by its changes to another one.

    Attributes:
        name: name of its folder and on the command line.
        label: first cell of its line in the tables; with a reference, what it adds or replaces.
        reference: name of the row it is compared with; None for the first.
        changes: configuration keys and values, in addition to those of the reference.
    """

    name: str
    label: str
    reference: str | None = None
    changes: dict[str, str] = field(default_factory=dict)

    def all_changes(self) -> dict[str, str]:
        """Return the changes of all rows from the first to this one."""
        inherited = ROWS[self.reference].all_changes() if self.reference is not None else {}
        return inherited | self.changes

    def overrides(self) -> list[str]:
        """Return alternating keys and values for :func:`panet.load_config`."""
        return list(chain.from_iterable(self.all_changes().items()))


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
_PATH = {"MODEL.BACKBONE.NAME": "build_resnet_pafpn_backbone"}
_ADAPTIVE = {f"{_POOLING}.ENABLED": "True"}
_HEAVIER_HEAD = {f"{_BOX_HEAD}.NUM_CONV": "4", f"{_BOX_HEAD}.NUM_FC": "1"}
_FUSED_BEFORE = {f"{_POOLING}.POSITION": "before"}
_SHARED = {
    f"{_BOX_HEAD}.NAME": SharedBoxHead.__name__,
    f"{_MASK_HEAD}.NAME": SharedMaskHead.__name__,
}
_PRODUCT, _MAXIMUM = ({f"{_FC_FUSION}.COMBINATION": name} for name in ("product", "max"))

ROWS = {
    row.name: row
    for row in (
        BASELINE,
        Row("bottom-up", "+ bottom-up path", "mask-rcnn", _PATH),
        Row("pooling", "+ adaptive feature pooling", "mask-rcnn", _ADAPTIVE),
        Row("both", "+ both", "bottom-up", _ADAPTIVE),
        Row("fc-fusion", "+ fully-connected fusion", "both", {f"{_FC_FUSION}.SOURCE": "conv3"}),
        Row("panet", "+ heavier head: PANet", "fc-fusion", _HEAVIER_HEAD),
        Row("pooling-sum", "levels fused by sum", "pooling", {f"{_POOLING}.FUSION": "sum"}),
        Row("pooling-before", "levels fused before the first layer", "pooling", _FUSED_BEFORE),
        Row("pooling-shared", "one first layer for all levels", "pooling", _SHARED),
        Row("fc-conv2", "branch from conv2", "fc-fusion", {f"{_FC_FUSION}.SOURCE": "conv2"}),
        Row("fc-conv4", "branch from conv4", "fc-fusion", {f"{_FC_FUSION}.SOURCE": "conv4"}),
        Row("fc-product", "product of logits", "fc-fusion", _PRODUCT),
        Row("fc-max", "maximum of logits", "fc-fusion", _MAXIMUM),
    )
}
