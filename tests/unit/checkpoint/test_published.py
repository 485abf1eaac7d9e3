"""Published weights, from a server on the loopback that has files of random weights."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import restatement
import torch

from panet import Predictor, model_zoo
from panet.checkpoint import PUBLISHED, fetch, published
from panet.checkpoint.convert.converter import convert_file
from panet.checkpoint.convert.systems import SOURCES
from panet.utils.errors import DownloadError, UserError

MMDET = "pafpn/faster_rcnn_R50_PAFPN_1x.yaml"
RELEASE = "official/e2e_panet_R-50-FPN_1x_det.yaml"


class Server(ThreadingHTTPServer):
    """Serves files by path. Its attributes say what goes wrong."""

    files: dict[str, bytes]
    cut_after: int | None = None
    """Bytes after which the next connection is closed."""
    confirm = False
    """Whether to answer with Google Drive's page for large files first."""
    requests: list[tuple[str, str]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file.pth")
            self.end_headers()
            return
        if path == "/uc" and self.server.confirm and "confirm" not in query:
            page = f"""<form id="download-form" action="{self.server.url}/uc"><input type="hidden"
                name="confirm" value="t"></form>""".replace("\n", " ").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        if path not in self.server.files:
            self.send_error(404)
            return
        content = self.server.files[path]
        first = 0
        if found := re.match(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(found[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", 'attachment; filename="file.pth"')
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(content[first : None if cut is None else first + cut])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def mmdet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("published") / "mmdet.pth"
    torch.save({"state_dict": restatement.mmdet_state(), "meta": {"epoch": 12}}, file)
    return file


@pytest.fixture
def server(mmdet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With mmdetection's file under several paths; the cache is empty."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PANET_MODEL_ZOO", raising=False)
    content = mmdet_file.read_bytes()
    server = Server(("127.0.0.1", 0), Handler)
    paths = ("/file.pth", "/uc", "/zoo/pafpn/faster_rcnn_R50_PAFPN_1x.pth")
    server.files = dict.fromkeys(paths, content)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> published.Published:
    changed = replace(PUBLISHED[MMDET], url=url)
    monkeypatch.setitem(PUBLISHED, MMDET, changed)
    return changed


def resumed_at(server: Server) -> int:
    """The first byte of the last request; what was received of a chunk is read again."""
    assert server.requests[0][1] == ""
    return int(server.requests[-1][1].removeprefix("bytes=").removesuffix("-"))


def assert_converted(file: Path, original: Path) -> None:
    expected = convert_file(original, SOURCES["mmdet"]).state
    content = torch.load(file, weights_only=True)
    assert content["model"].keys() == expected.keys()
    assert all(torch.equal(content["model"][name], expected[name]) for name in expected)
    assert len(content["classes"]) == 80


def test_downloaded_once_and_converted(
    server: Server, mmdet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = publish(monkeypatch, f"{server.url}/moved")
    file = fetch(model)
    assert_converted(file, mmdet_file)
    assert not model.download.exists()
    count = len(server.requests)
    assert fetch(model) == file
    assert len(server.requests) == count


def test_every_way_to_a_model_takes_them(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, f"{server.url}/file.pth")
    url = model_zoo.get_checkpoint_url(MMDET)
    assert url == "panet://pafpn/faster_rcnn_R50_PAFPN_1x.pth"
    cfg = model_zoo.get_config(MMDET, trained=True)
    assert url == cfg.MODEL.WEIGHTS
    expected = model_zoo.get(MMDET, trained=True).state_dict()
    predictor = Predictor.from_name(MMDET)
    assert len(server.requests) == 1
    assert predictor.classes[:2] == ["person", "bicycle"]
    original = torch.load(PUBLISHED[MMDET].cached, weights_only=True)["model"]
    assert all(torch.equal(expected[name], original[name]) for name in original)
    assert url != model_zoo.get_config(MMDET).MODEL.WEIGHTS


def test_drives_confirmation_page(
    server: Server, mmdet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.confirm = True
    get = requests.Session.get

    def redirected(self: requests.Session, url: str, **kwargs: Any) -> requests.Response:
        return get(self, url.replace("https://drive.google.com", server.url), **kwargs)

    monkeypatch.setattr(requests.Session, "get", redirected)
    model = publish(monkeypatch, "https://drive.google.com/uc?id=abc")
    assert_converted(fetch(model), mmdet_file)
    assert [path for path, _ in server.requests] == ["/uc?id=abc", "/uc?confirm=t"]


def test_a_cut_connection_resumes(
    server: Server, mmdet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cut_after = 5_000_000
    assert_converted(fetch(publish(monkeypatch, f"{server.url}/file.pth")), mmdet_file)
    assert resumed_at(server) > 4_000_000


def test_an_interrupted_program_resumes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model = publish(monkeypatch, f"{server.url}/file.pth")
    monkeypatch.setattr(published, "_RETRIES", 0)
    server.cut_after = 5_000_000
    with pytest.raises(DownloadError, match="cannot be downloaded .*place the file at"):
        fetch(model)
    assert not model.cached.exists()
    assert fetch(model).is_file()
    assert resumed_at(server) > 4_000_000


def test_a_wrong_hash_is_refused(
    server: Server, mmdet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(mmdet_file.read_bytes()).hexdigest()
    server.files[f"/model-{digest[:8]}.pth"] = server.files["/file.pth"]
    assert fetch(publish(monkeypatch, f"{server.url}/model-{digest[:8]}.pth")).is_file()
    # A file whose name has no hash must be that of the first download.
    model = publish(monkeypatch, f"{server.url}/file.pth")
    model.cached.unlink()
    server.files["/file.pth"] += b"\0"
    with pytest.raises(UserError, match=f"not {digest[:8]}.*; it is damaged or not"):
        fetch(model)
    model.download.unlink()
    model = publish(monkeypatch, f"{server.url}/model-{'0' * 8}.pth")
    server.files[f"/model-{'0' * 8}.pth"] = server.files["/file.pth"]
    with pytest.raises(UserError, match=r"not 00000000\.\.\."):
        fetch(model)
    assert not model.cached.exists()


def test_another_model_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = restatement.release_state(mask=False, fully_connected=True)
    torch.save({"model": state}, tmp_path / "2fc.pth")
    server.files["/2fc.pth"] = (tmp_path / "2fc.pth").read_bytes()
    model = replace(PUBLISHED[RELEASE], url=f"{server.url}/2fc.pth")
    with pytest.raises(UserError, match=f"is not a model of {RELEASE}"):
        fetch(model)


def test_offline(
    server: Server, mmdet_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = publish(monkeypatch, "http://127.0.0.1:9/model.pth")
    monkeypatch.setattr(published, "_RETRIES", 0)
    with pytest.raises(DownloadError, match=re.escape(str(model.download))) as error:
        fetch(model)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("PANET_MODEL_ZOO", str(tmp_path / "zoo"))
    with pytest.raises(UserError, match=r"which has no file pafpn/faster_rcnn_R50_PAFPN_1x\.pth"):
        fetch(model)
    by_hand = tmp_path / "zoo" / model.name
    by_hand.parent.mkdir(parents=True)
    by_hand.symlink_to(mmdet_file)
    assert_converted(fetch(model), mmdet_file)
    assert by_hand.exists()

    model.cached.unlink()
    monkeypatch.setenv("PANET_MODEL_ZOO", f"{server.url}/zoo/")
    assert fetch(model).is_file()
    assert server.requests[-1][0] == f"/zoo/{model.name}"

    model.cached.unlink()
    monkeypatch.setenv("PANET_MODEL_ZOO", "http://127.0.0.1:9")
    model.download.parent.mkdir(parents=True, exist_ok=True)
    model.download.symlink_to(mmdet_file)
    assert fetch(model).is_file()
    assert model.download.is_symlink()


def test_a_missing_file_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match="gone.pth cannot be downloaded .*404"):
        fetch(publish(monkeypatch, f"{server.url}/gone.pth"))


def test_a_full_disk_leaves_nothing_torn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model = publish(monkeypatch, f"{server.url}/file.pth")

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", no_space)
        with pytest.raises(OSError, match="No space left"):
            fetch(model)
    assert not model.cached.exists()
    assert fetch(model).is_file()


def test_two_at_once_download_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    model = publish(monkeypatch, f"{server.url}/file.pth")
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(fetch, [model, model]))
    assert files[0] == files[1]
    assert len(server.requests) == 1


def test_two_processes_share_the_cache(server: Server) -> None:
    code = (
        "from dataclasses import replace\n"
        "from panet.checkpoint import PUBLISHED, fetch\n"
        f"print(fetch(replace(PUBLISHED[{MMDET!r}], url='{server.url}/file.pth')))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert printed == {str(PUBLISHED[MMDET].cached)}
    assert len(server.requests) == 1


def test_unknown_urls_are_named() -> None:
    with pytest.raises(UserError, match="no published weights panet://gone.pth; there are panet"):
        published.PublishedHandler()._get_local_path("panet://gone.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_names_what_there_is(name: str) -> None:
    model = PUBLISHED[name]
    assert model.config == name
    assert name in model_zoo.list_configs()
    assert model.source in SOURCES
    state = model_zoo.get_config(name)
    assert (model.mask_ap is not None) == state.MODEL.MASK_ON
