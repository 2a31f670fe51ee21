# SPDX-License-Identifier: Apache-2.0
"""A data file is found, or downloaded, through every fault, and is never used damaged."""

import gzip
import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest

from muster.data.datasets.fetch import BUNDLED, Remote, cache, found, locate
from muster.data.datasets.heart import _HEART
from muster.data.datasets.shakespeare import _FILE as _PLAYS
from muster.errors import DatasetError

BODY = bytes(range(256)) * 2000
SUM = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path


class Origin(BaseHTTPRequestHandler):
    """Serves BODY; `cut` bytes at most per answer, `ranges` or not."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        server.asked.append(start)
        if server.ranges and start >= len(BODY):
            self.send_error(416)
            return
        start = start if server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        self.wfile.write(BODY[start : start + server.cut])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def origin():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.asked, server.ranges, server.cut = [], True, len(BODY)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def remote(origin=None, sha256=SUM):
    url = origin and f"http://127.0.0.1:{origin.server_address[1]}/it"
    return Remote("deep/it.bin", sha256, "the moon", url)


def test_the_data_folder_comes_first(folders):
    (folders / "data/deep").mkdir()
    path = folders / "data/deep/it.bin"
    path.write_bytes(BODY)
    assert found(remote()) == locate(remote()) == path


def test_a_download_lands_in_the_cache_and_is_kept(origin):
    path = locate(remote(origin))
    assert path == cache() / "deep/it.bin"
    assert path.read_bytes() == BODY
    assert locate(remote(origin)) == path
    assert origin.asked == [0]
    assert not path.with_name("it.bin.part").exists()


def test_a_broken_download_goes_on_where_it_stopped(origin):
    origin.cut = 200_000
    assert locate(remote(origin)).read_bytes() == BODY
    assert origin.asked == [0, 200_000, 400_000]


def test_a_part_of_an_earlier_run_is_used(origin):
    part = cache() / "deep/it.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1000])
    assert locate(remote(origin)).read_bytes() == BODY
    assert origin.asked == [1000]


@pytest.mark.parametrize(("extra", "asked"), [(b"", [len(BODY)]), (b"x", [len(BODY) + 1, 0])])
def test_a_part_that_is_whole_or_too_long(origin, extra, asked):
    part = cache() / "deep/it.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY + extra)
    assert locate(remote(origin)).read_bytes() == BODY
    assert origin.asked == asked


def test_an_origin_without_ranges_starts_anew(origin):
    part = cache() / "deep/it.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"other")
    origin.ranges = False
    assert locate(remote(origin)).read_bytes() == BODY


def test_a_wrong_checksum_is_refused_and_leaves_nothing(origin):
    with pytest.raises(DatasetError, match=f"has SHA-256 {SUM}, {'0' * 64} is required"):
        locate(remote(origin, sha256="0" * 64))
    assert [path.name for path in (cache() / "deep").iterdir()] == ["it.bin.lock"]


@pytest.mark.parametrize("place", ["data/deep", "cache/muster/deep"])
def test_a_damaged_file_is_never_used(folders, place, origin):
    (folders / place).mkdir(parents=True)
    (folders / place / "it.bin").write_bytes(BODY[:-1])
    with pytest.raises(DatasetError, match="remove it"):
        locate(remote(origin))
    assert not origin.asked


def test_offline_it_says_what_to_put_where(folders):
    def opener(url, start):
        raise URLError("no route")

    file = Remote("deep/it.bin", SUM, "the moon", "http://origin.invalid/it")
    with pytest.raises(DatasetError, match="no route") as caught:
        locate(file, opener)
    assert f"from the moon and put it at {folders}/data/deep/it.bin" in str(caught.value)


def test_a_stalled_download_keeps_its_part(origin):
    origin.cut = 0
    part = cache() / "deep/it.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:77])
    with pytest.raises(DatasetError, match="77 bytes are kept"):
        locate(remote(origin))
    assert part.read_bytes() == BODY[:77]


def test_without_an_origin_it_says_what_to_put_where(folders, monkeypatch):
    with pytest.raises(DatasetError, match="no public origin"):
        locate(remote())
    monkeypatch.delenv("MUSTER_DATA")
    with pytest.raises(DatasetError, match=f"put it at {folders}/cache/muster/deep/it.bin"):
        locate(remote())


def test_the_cache_is_in_the_home_without_xdg(monkeypatch, folders):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(folders))
    assert cache() == folders / ".cache/muster"


def test_a_terminal_gets_a_bar(origin, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert gzip.compress(locate(remote(origin)).read_bytes())


@pytest.mark.parametrize("remote", [_HEART, _PLAYS], ids=str)
def test_small_data_come_with_muster(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert locate(remote).parent == BUNDLED
