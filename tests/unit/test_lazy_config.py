"""Reading Python configurations and changing them on the command line."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from paths import CONFIGS, DETECTRON2_CONFIGS

from panet.lazy_config import dataset_names, load_lazy_config
from panet.utils.errors import UserError

FILE = str(CONFIGS / "lazy" / "panet_R50_1x.py")


def test_overrides_replace_what_is_there() -> None:
    cfg = load_lazy_config(
        FILE,
        [
            "train.max_iter=10",
            "optimizer.lr=1",
            "train.amp.enabled=true",
            "dataloader.train.dataset.names=[a,b]",
            "dataloader.test.mapper.augmentations.0.max_size=300",
            "dataloader.train.mapper.augmentations.0.short_edge_length=64",
            "model.roi_heads.box_head._target_=detectron2.modeling.roi_heads.FastRCNNConvFCHead",
            "model.backbone.norm=''",
            "dataloader.evaluator=null",
            "train.init_checkpoint=",
            "+optimizer.nesterov=true",
        ],
    )
    assert (cfg.train.max_iter, cfg.optimizer.lr, cfg.train.amp.enabled) == (10, 1, True)
    assert dataset_names(cfg, "train") == ["a", "b"]
    assert cfg.dataloader.test.mapper.augmentations[0].max_size == 300
    assert cfg.dataloader.train.mapper.augmentations[0].short_edge_length == 64
    assert cfg.model.roi_heads.box_head._target_.endswith("FastRCNNConvFCHead")
    assert (cfg.model.backbone.norm, cfg.train.init_checkpoint) == ("", "")
    assert cfg.dataloader.evaluator is None
    assert cfg.optimizer.nesterov


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=3", r"no configuration key train.max_itr; the closest is train.max_iter\."),
        ("train.max_iter.a=3", r"no configuration key train.max_iter.a; "),
        ("dataloader.train.mapper.augmentations.7.max_size=3", r"no configuration key .*\.7\.max"),
        ("train.max_iter=many", "train.max_iter is many, of type str; it must be of type int"),
        ("train.max_iter=1.5", "train.max_iter is 1.5, of type float; it must be of type int"),
        ("train.amp.enabled=1", "train.amp.enabled is 1, of type int; it must be of type bool"),
        ("optimizer.lr=[a]", "optimizer.lr is a, of type str; it must be of type float or int"),
        ("model.roi_heads.box_head.conv_dims=[a]", r"conv_dims is a, .* like \[256, 256"),
        ("train.amp=true", "train.amp is True; it must be a section or null"),
        ("train.max_iter", "'train.max_iter' is no override .* takes key=value"),
        ("SOLVER.MAX_ITER", "takes key=value"),
        ("train.max_iter=[1", "is no override"),
        ("~train.amp", "~train.amp asks to delete a key"),
        ("+train.max_iter.a=3", r"override \+train.max_iter.a=3 cannot be applied"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_lazy_config(FILE, [override])
    assert "\n" not in str(error.value)


def test_wrong_files(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    with pytest.raises(UserError, match=r"no configuration file .*own.py"):
        load_lazy_config(str(file))
    file.write_text("model = {}\n")
    with pytest.raises(UserError, match=r"own.py has no section 'train'"):
        load_lazy_config(str(file))
    file.write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_lazy_config(str(file))


def test_reading_gives_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    load_lazy_config(FILE)
    assert [str(warning.message) for warning in recwarn] == []


def test_detectron2s_own_files_get_the_keys_that_they_lack() -> None:
    file = DETECTRON2_CONFIGS / "COCO-InstanceSegmentation" / "mask_rcnn_R_50_FPN_1x.py"
    train = load_lazy_config(str(file)).train
    assert (train.seed, train.channels_last, train.amp.dtype) == (-1, False, "float16")
    assert train.eval_period == 5000


def test_what_is_saved_can_be_read_again(tmp_path: Path) -> None:
    cfg = load_lazy_config(FILE)
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert again.model.roi_heads.box_head.conv_norm == "GN"
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]  # no pickle beside it
