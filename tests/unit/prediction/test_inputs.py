"""Which files are found, and what they are called."""

import os
from pathlib import Path

import pytest

from panet.prediction.inputs import common_folder, find_files, name_sources
from panet.utils.errors import UserError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        *("b/x.jpg", "b/deep/er/y.PNG", "b/notes.txt", "b/film.Mp4", "b/.hidden.jpg"),
        *("b/.git/z.jpg", "a/x.jpg", "a/[1].jpg", "a/1.jpg", "results/pictures/old.jpg", "raw.dat"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def found(tree: Path, *inputs: str, excluded: Path | None = None) -> list[str]:
    files = find_files([str(tree / name) for name in inputs], excluded)
    assert all(file.is_absolute() for file in files)
    return [file.relative_to(tree).as_posix() for file in files]


def test_folders_are_searched_to_the_bottom_for_images_and_videos(tree: Path) -> None:
    assert found(tree, "b") == ["b/film.Mp4", "b/x.jpg", "b/deep/er/y.PNG"]


def test_a_file_may_have_any_name_and_counts_once(tree: Path) -> None:
    assert found(tree, "raw.dat", "a/x.jpg", "a/../a/x.jpg", "a") == [
        *("raw.dat", "a/x.jpg", "a/1.jpg", "a/[1].jpg")
    ]
    assert found(tree, "b/.hidden.jpg") == ["b/.hidden.jpg"]


def test_patterns(tree: Path) -> None:
    assert found(tree, "*/x.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert found(tree, "b/**/*.PNG") == ["b/deep/er/y.PNG"]
    assert found(tree, "[b]") == found(tree, "b")  # matches a folder
    assert found(tree, "a/[1].jpg") == ["a/[1].jpg"]  # is a file


def test_results_are_no_inputs(tree: Path) -> None:
    everything = found(tree, ".")
    assert "results/pictures/old.jpg" in everything
    others = found(tree, ".", excluded=tree / "results")
    assert others == [name for name in everything if not name.startswith("results/")]
    assert found(tree, "results/pictures/old.jpg", excluded=tree / "results")


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "links").mkdir()
    (tree / "links" / "a").symlink_to(tree / "a")
    (tree / "links" / "self").symlink_to(tree / "links")
    assert found(tree, "links") == ["links/a/1.jpg", "links/a/[1].jpg", "links/a/x.jpg"]


@pytest.mark.parametrize("name", ["nowhere", "MODEL.WEIGHTS", "empty", "*.nothing", "b/notes*"])
def test_an_input_without_a_file_is_named(
    tree: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    (tree / "empty").mkdir()
    if name == "b/notes*":  # a pattern may name a file of any kind
        assert find_files([name]) == [tree / "b" / "notes.txt"]
        return
    with pytest.raises(UserError, match=name.replace("*", r"\*")):
        find_files(["a", name])


def test_names_differ_where_file_names_do_not(tree: Path) -> None:
    files = find_files([str(tree / "a"), str(tree / "b" / "x.jpg")])
    folder = common_folder(files)
    assert folder == tree
    names = [source.name for source in name_sources(files, folder)]
    assert names == ["a/1.jpg", "a/[1].jpg", "a/x.jpg", "b/x.jpg"]
    assert common_folder([tree / "a" / "x.jpg"]) == tree / "a"


def test_videos_are_told_by_their_names(tree: Path) -> None:
    sources = name_sources(find_files([str(tree / "b")]), tree)
    assert [s.name for s in sources if s.is_video] == ["b/film.Mp4"]


def test_names_in_no_known_encoding(tmp_path: Path) -> None:
    file = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff.jpg")
    Path(file).touch()
    (source,) = name_sources(find_files([str(tmp_path)]), tmp_path)
    assert os.fsencode(source.name) == b"\xff.jpg"
