"""On CUDA, every tensor is on the device and in a dtype that the next operation takes."""

import importlib.util
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from fake_cuda import backward, fake_cuda
from fvcore.nn import weight_init
from paths import CONFIGS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

from panet import load_config, optimize_for_inference
from panet.data.mapped_masks import MappedMasks
from panet.deployment import optimize as deployment
from panet.engine import LazyTrainer
from panet.evaluation.level_shares import count_level_shares
from panet.evaluation.tta import RCNNEnsemble, add_tta
from panet.lazy_config import load_lazy_config
from panet.modeling import AllLevelPooler, FusedFirstLayer, PANetMaskHead
from panet.modeling.build import build_model
from panet.modeling.pooler import PooledLevels
from panet.prepare import prepare

pytestmark = pytest.mark.slow

CUDA = torch.device("cuda", 0)
SIZE = (128, 160)
SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16

# Configurations of each kind of backbone, pyramid, norm, proposals and heads, and two without one.
NETWORKS = (
    "ablations/table3_1_baseline",
    "ablations/table4_after_sum",
    "ablations/table4_before_max",
    "batched",
    "beyond/cascade_panet_R50_3x",
    "challenge/panet_R50_dcn",
    "challenge/panet_senet154",
    "cityscapes/panet_R50_coco",
    "lazy/panet_R50_1x",
    "mapillary/panet_R50_vistas",
    "nuclei/panet_R18_nuclei",
    "nuclei/panet_R18_nuclei_independent_rpn",
    "official/e2e_panet_R-50-FPN_1x_det_2fc",
    "official/e2e_panet_R-50-FPN_2x_mask",
    "pafpn/faster_rcnn_R50_PAFPN_1x",
    "panet_R50_2fc_1x",
    "panet_R50_2x",
    "panet_faster_R50_1x",
    "paper/panet_X101_64x4d",
    "paper/rpn_R50",
    "quick/panet_R18_shapes",
    "retinanet",
    "timm/panet_convnext_T",
    "timm/panet_swin_T",
)
# It takes the same ways through the code as float16, but where layers ask for one of them.
IN_BFLOAT16 = (
    "ablations/table3_1_baseline",
    "panet_R50_2x",
    "quick/panet_R18_shapes",
    "timm/panet_swin_T",
)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


every_case = pytest.mark.parametrize(
    ("network", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{name_of(dtype)}")
        for name in NETWORKS
        for dtype in ((SINGLE, HALF, BRAIN) if name in IN_BFLOAT16 else (SINGLE, HALF))
    ],
    indirect=["network"],
    scope="module",
)


def read(name: str) -> CfgNode:
    file = name if "/" in name or name.startswith("panet") else "quick/panet_R18_shapes"
    cfg = prepare(load_config(str(CONFIGS / f"{file}.yaml"), ["MODEL.DEVICE", "meta"]))
    model = cfg.MODEL
    model.INDEPENDENT_RPN.WEIGHTS = ""
    if model.TIMM.NAME:
        model.TIMM.PRETRAINED = False
        depths = "layers" if "senet" in model.TIMM.NAME else "depths"
        model.TIMM.ARGUMENTS[depths] = [1, 1, 1, 1]
    if name == "batched":
        model.ADAPTIVE_POOLING.BATCHED = True
    if name == "retinanet":
        model.META_ARCHITECTURE = "RetinaNet"
        model.BACKBONE.NAME = "build_retinanet_resnet_pafpn_backbone"
        model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    return cfg


def build(name: str) -> Any:
    """A model on CUDA, of its real size but for timm's depths."""
    with torch.device("meta"):
        if name.startswith("lazy/"):
            cfg = load_lazy_config(str(CONFIGS / f"{name}.py"), ["train.device=meta"])
            model = LazyTrainer.build_model(cfg)
        else:
            model = build_model(read(name))
    for head in model.modules():
        if isinstance(head, PANetMaskHead):
            head.register_forward_hook(assert_single_masks)
    with fake_cuda():
        return model.to("cuda")


def assert_single_masks(_head: nn.Module, _inputs: Any, output: Any) -> None:
    """What is pasted into the images is not rounded."""
    if isinstance(output, list):
        assert {found.pred_masks.dtype for found in output} == {SINGLE}


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, build(request.param)


@pytest.fixture(autouse=True)
def _no_kernels_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(maps: list[Tensor], rois: Tensor, pooled: Tensor, *_: Any, **__: Any) -> None:
        assert {tensor.device for tensor in (*maps, rois, pooled)} == {CUDA}

    if importlib.util.find_spec("triton"):
        monkeypatch.setattr("panet.modeling.triton_roi_align._launch", launch)


def images(name: str = "") -> list[dict[str, Any]]:
    """Two images with objects and proposals, on the CPU."""
    boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0], [50.0, 8.0, 90.0, 60.0]])
    batch = []
    for _ in range(2):
        targets = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 0]))
        targets.gt_masks = masks(name)
        proposals = Instances(SIZE, proposal_boxes=Boxes(boxes.repeat(8, 1)))
        proposals.objectness_logits = torch.zeros(16)
        image: dict[str, Any] = {"image": torch.zeros(3, *SIZE, dtype=torch.uint8)}
        image |= {"height": 2 * SIZE[0], "width": 2 * SIZE[1]}
        batch.append({**image, "instances": targets, "proposals": proposals})
    return batch


def masks(name: str) -> BitMasks | MappedMasks | PolygonMasks:
    """Two, of the kind that the dataset of a network has."""
    if name.startswith(("cityscapes", "mapillary", "nuclei")):
        return MappedMasks(torch.ones(SIZE, dtype=torch.int32), torch.ones(2, dtype=torch.int32))
    if name.startswith("quick"):
        return BitMasks(torch.ones(2, *SIZE, dtype=torch.bool))
    return PolygonMasks([[[5.0, 5.0, 40.0, 5.0, 40.0, 50.0]], [[50.0, 8.0, 90.0, 8.0, 90.0, 60.0]]])


@every_case
def test_training(network: tuple[str, Any], dtype: torch.dtype) -> None:
    name, model = network
    with fake_cuda():
        with EventStorage(), torch.autocast("cuda", dtype, enabled=dtype != SINGLE):
            losses = model.train()(images(name))
        assert losses
        assert {(loss.device, loss.dtype, loss.dim()) for loss in losses.values()} == {
            (CUDA, SINGLE, 0)
        }
        model.zero_grad()
        backward(sum(losses.values()))
        trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert [name for name, grad in trained.items() if grad is None] == []
        assert {(grad.device, grad.dtype) for grad in trained.values()} == {(CUDA, SINGLE)}


def detect(model: nn.Module) -> list[Instances]:
    with torch.no_grad():
        return [next(iter(output.values())) for output in model(images())]


def assert_usual(found: Instances, scores: torch.dtype = SINGLE) -> None:
    """Detections, or proposals, are on CUDA and in the dtypes that others expect."""
    assert len(found) > 0
    fields = {name: getattr(field, "tensor", field) for name, field in found.get_fields().items()}
    assert all(isinstance(field, FakeTensor) for field in fields.values())
    assert {field.device for field in fields.values()} == {CUDA}
    if "proposal_boxes" in fields:
        assert fields["proposal_boxes"].dtype == SINGLE
        return
    assert fields["pred_boxes"].dtype == SINGLE
    assert fields["scores"].dtype == scores
    assert fields["pred_classes"].dtype == torch.int64
    if "pred_masks" in fields:
        assert fields["pred_masks"].dtype == torch.bool
        assert fields["pred_masks"].shape == (len(found), *found.image_size)


@every_case
def test_inference(network: tuple[str, Any], dtype: torch.dtype) -> None:
    name, model = network
    with fake_cuda(), torch.autocast("cuda", dtype, enabled=dtype != SINGLE):
        for found in detect(model.eval()):
            # detectron2's RetinaNet leaves scores as autocast makes them.
            assert_usual(found, dtype if name == "retinanet" else SINGLE)


@every_case
def test_optimized(network: tuple[str, Any], dtype: torch.dtype) -> None:
    _, model = network
    with fake_cuda():
        for found in detect(optimize_for_inference(model, dtype)):
            assert_usual(found)


@pytest.mark.parametrize(("dtype", "window"), [(SINGLE, 0), (HALF, 96), (BRAIN, 0)])
def test_testing_tricks(dtype: torch.dtype, window: int) -> None:
    cfg = read("challenge/panet_R50_dcn_tricks")
    cfg.TEST.TIGHTEN_BOXES = True
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (96, 128), 200
    cfg.TEST.AUG.WINDOW, cfg.TEST.AUG.OVERLAP = window, 32
    model = build("challenge/panet_R50_dcn").eval()
    with fake_cuda():
        tested = add_tta(cfg, optimize_for_inference(model, dtype))
        assert isinstance(tested, RCNNEnsemble)
        for found in detect(tested):
            assert_usual(found)


@pytest.mark.parametrize("proposals_from", [0, 1])
def test_ensemble(proposals_from: int) -> None:
    cfg = read("paper/panet_X101_64x4d")  # which reads proposals
    names = ("paper/panet_X101_64x4d", "beyond/cascade_panet_R50_3x", "panet_faster_R50_1x")
    members = [build(name).eval() for name in names]
    with fake_cuda():
        members[1] = optimize_for_inference(members[1], HALF)
        for found in detect(RCNNEnsemble(cfg, members, proposals_from)):
            assert_usual(found)


@pytest.mark.parametrize("head", ["box", "mask"])
def test_shares_of_the_levels(head: Any) -> None:
    model = build("panet_R50_2fc_1x").eval()
    with fake_cuda():
        shares = count_level_shares(model, [images()], head)
    assert shares.features.shape == (4, 4)


# What these tests can see.


def test_a_tensor_on_the_cpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = AllLevelPooler.forward

    def with_rois_on_the_cpu(*args: Any) -> PooledLevels:
        pooled = forward(*args)
        pooled.rois = pooled.rois.cpu()
        return pooled

    model = build("panet_R50_2x").eval()
    monkeypatch.setattr(AllLevelPooler, "forward", with_rois_on_the_cpu)
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):
        detect(model)


def test_another_precision_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("panet_R50_2x").eval()
    monkeypatch.setattr(deployment, "_convert_at_boundaries", lambda *_: None)
    with fake_cuda():
        optimized = optimize_for_inference(model, HALF)
        with pytest.raises(RuntimeError, match="one dtype|the same"):
            detect(optimized)


def on_cuda(*shape: int, dtype: torch.dtype = SINGLE) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cuda")


REFUSED = {
    "convolution": lambda: F.conv2d(on_cuda(1, 2, 4, 4, dtype=HALF), on_cuda(3, 2, 1, 1)),
    "matrix product": lambda: on_cuda(2, 3) @ on_cuda(3, 4, dtype=HALF),
    "boxes and scores": lambda: nms(on_cuda(3, 4), torch.zeros(3), 0.5),
    "torchvision in bfloat16": lambda: roi_align(
        on_cuda(1, 2, 8, 8, dtype=BRAIN), on_cuda(3, 5, dtype=BRAIN), 7
    ),
    "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(
        on_cuda(2, 3), on_cuda(4, 3), on_cuda(4), "none", [], ""
    ),
    "array": lambda: on_cuda(3).numpy(),
    "assignment": lambda: on_cuda(3, dtype=HALF).index_put_((on_cuda(3) > 0,), on_cuda(2)),
}


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED)
def test_what_cuda_refuses_is_seen(operation: Any) -> None:
    with fake_cuda(), pytest.raises((RuntimeError, TypeError)):
        operation()


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_pytorch(recompute: bool) -> None:
    layers = FusedFirstLayer(nn.Conv2d(3, 4, 3), 2, weight_init.c2_msra_fill, recompute=recompute)
    x = torch.randn(2, 5, 3, 6, 6, requires_grad=True)
    inputs = [x, *layers.parameters()]

    def loss() -> Tensor:
        fused = layers(x)
        return (fused / (1 + fused.std(0, keepdim=True))).sum() + x[0].double().mean()

    expected = torch.autograd.grad(loss(), inputs)
    backward(loss())
    for value, gradient in zip(inputs, expected, strict=True):
        torch.testing.assert_close(value.grad, gradient)
