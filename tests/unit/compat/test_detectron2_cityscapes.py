"""Whether ``panet.compat.detectron2_cityscapes`` is still needed, and that it helps."""

import importlib
import inspect
import sys
from collections.abc import Iterator

import detectron2.data.datasets.cityscapes
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling
from cityscapesscripts.helpers import labels
from detectron2.evaluation import cityscapes_evaluation
from needs import NEWEST_DETECTRON2
from paths import CONFIGS

from panet.compat.detectron2_cityscapes import INTERNAL_NAME, find_under_internal_name
from panet.config import load_config
from panet.prepare import prepare


@NEWEST_DETECTRON2
@pytest.mark.parametrize("module", [detectron2.data.datasets.cityscapes, cityscapes_evaluation])
def test_detectron2_names_the_internal_package(module: object) -> None:
    assert f"from {INTERNAL_NAME}.cityscapesscripts" in inspect.getsource(module)  # type: ignore[arg-type]


@pytest.fixture
def _nothing_imported() -> Iterator[None]:
    top = INTERNAL_NAME.partition(".")[0]
    former = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == top}
    for name in former:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == top]:
        del sys.modules[name]
    sys.modules.update(former)


@pytest.mark.usefixtures("_nothing_imported")
def test_finds_the_same_modules() -> None:
    prepare(load_config(str(CONFIGS / "cityscapes" / "panet_R50_imagenet.yaml")))
    name = f"{INTERNAL_NAME}.cityscapesscripts"
    module = f"{name}.evaluation.evalInstanceLevelSemanticLabeling"
    assert importlib.import_module(module) is evalInstanceLevelSemanticLabeling
    assert importlib.import_module(f"{name}.helpers.labels") is labels
    assert labels.__name__ == labels.__spec__.name == "cityscapesscripts.helpers.labels"


@pytest.mark.usefixtures("_nothing_imported")
def test_what_is_missing_has_its_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cityscapesscripts")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    find_under_internal_name()
    with pytest.raises(ModuleNotFoundError) as error:
        importlib.import_module(f"{INTERNAL_NAME}.cityscapesscripts.helpers.labels")
    assert error.value.name == "cityscapesscripts"
    with pytest.raises(ModuleNotFoundError, match="deeplearning.other"):
        importlib.import_module("deeplearning.other")


def test_is_there_once() -> None:
    find_under_internal_name()
    before = list(sys.meta_path)
    find_under_internal_name()
    assert sys.meta_path == before
