"""PANet with a ResNet-50 backbone and frozen batch norms."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from panet.modeling import PAFPN, AllLevelPooler, PANetBoxHead, PANetMaskHead, PANetROIHeads

_pooled = ["p2", "p3", "p4", "p5"]
_scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)

model = L(GeneralizedRCNN)(
    input_format="BGR",
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],  # included in the first convolution of MSRA's weights
    backbone=L(PAFPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
            out_features=["res2", "res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="GN",
        path_norm="GN",
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=[*_pooled, "p6"],
        head=L(StandardRPNHead)(in_channels=256, num_anchors=3),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2000, 1000),  # training, testing
        post_nms_topk=(1000, 1000),
        nms_thresh=0.7,
    ),
    roi_heads=L(PANetROIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=_pooled,
        box_pooler=L(AllLevelPooler)(
            output_size=7, scales=_scales, sampling_ratio=2, pooler_type="ROIAlignV2"
        ),
        box_head=L(PANetBoxHead)(
            input_shape=ShapeSpec(channels=256, height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm="GN",
            fc_norm="",
            fusion="max",
            fusion_position="after",
            recompute=True,
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=1024),
            num_classes="${..num_classes}",
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            test_score_thresh=0.05,
        ),
        mask_in_features=_pooled,
        mask_pooler=L(AllLevelPooler)(
            output_size=14, scales=_scales, sampling_ratio=2, pooler_type="ROIAlignV2"
        ),
        mask_head=L(PANetMaskHead)(
            input_shape=ShapeSpec(channels=256, height=14, width=14),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],
            conv_norm="GN",
            fusion="max",
            fusion_position="after",
            recompute=True,
            fc_source="conv3",
            fc_combination="sum",
            fc_relu=False,
        ),
    ),
)
