"""Downloads, from a server of this process on loopback: resumed, checked, from the next mirror if one fails."""

import errno
import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minigan.data import DataError, open_data
from minigan.data.files import download
from minigan.data.files.download import REMOTES, Remote, fetch, fetch_all

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/good/ serves with Range; the other folders have a fault each."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.server.asked.append((kind, start))
        body = self.server.files.get(self.path.rsplit("/", 1)[1], BODY)
        if kind in ("404", "503"):
            self.send_error(int(kind))
            return
        if kind == "wrong":
            body = body[:-1] + b"?"
        if kind == "ranges-lie":  # the answer begins elsewhere than it was asked to
            self.answer(206, body, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"})
        elif kind == "no-ranges" or not start:
            self.answer(200, body, {}, cut=kind == "cut")
        elif start >= len(body):
            self.send_error(416)
        else:
            where = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            self.answer(206, body[start:], where, cut=kind == "cut")

    def answer(self, status, body, headers, cut=False):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body[: min(len(body), 100_000) if cut else None])

    def log_message(self, *given):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.files = [], {}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    server.at = f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote(server):
    return lambda *kinds: Remote("file.gz", tuple(f"{server.at}{kind}/" for kind in kinds), SHA256)


def test_a_file_comes_whole_and_once(server, remote, tmp_path):
    calls = []
    path = fetch(remote("good"), tmp_path / "new" / "folder", lambda *given: calls.append(given))
    assert path.read_bytes() == BODY
    assert calls[-1] == ("downloading file.gz", len(BODY), len(BODY))
    assert fetch(remote("good"), path.parent) == path
    assert server.asked == [("good", 0)]
    assert os.listdir(path.parent) == ["file.gz"]


def test_a_cut_connection_is_resumed(server, remote, tmp_path):
    assert fetch(remote("cut"), tmp_path).read_bytes() == BODY
    assert server.asked == [("cut", 0), ("cut", 100_000), ("cut", 200_000)]


def test_an_earlier_attempt_is_resumed(server, remote, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(BODY[:123])
    assert fetch(remote("good"), tmp_path).read_bytes() == BODY
    assert server.asked == [("good", 123)]


def test_a_whole_part_needs_no_bytes(server, remote, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(BODY)
    assert fetch(remote("good"), tmp_path).read_bytes() == BODY
    assert server.asked == [("good", len(BODY))]


@pytest.mark.parametrize("kind", ["no-ranges", "ranges-lie"])
def test_servers_that_do_not_resume(server, remote, tmp_path, kind):
    (tmp_path / "file.gz.part").write_bytes(BODY[:1000])
    assert fetch(remote(kind), tmp_path).read_bytes() == BODY
    assert server.asked == [(kind, 1000)]


@pytest.mark.parametrize("part", [b"something else", BODY + b"more"])
def test_a_wrong_beginning_is_thrown_away(server, remote, tmp_path, part):
    (tmp_path / "file.gz.part").write_bytes(part)
    assert fetch(remote("good"), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("first", ["404", "503", "wrong"])
def test_the_next_mirror_is_asked(server, remote, tmp_path, first):
    assert fetch(remote(first, "good"), tmp_path).read_bytes() == BODY
    assert server.asked == [(first, 0), ("good", 0)]


def test_what_one_mirror_gave_the_next_completes(server, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    assert fetch(remote("cut", "good"), tmp_path).read_bytes() == BODY
    assert server.asked == [("cut", 0), ("good", 100_000)]


def test_all_mirrors_fail(server, remote, tmp_path):
    nobody = "http://127.0.0.1:9/"  # the port to discard to, where nothing listens
    mirrors = (*remote("404", "wrong").mirrors, nobody)
    with pytest.raises(DataError) as caught:
        fetch(Remote("file.gz", mirrors, SHA256), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/file.gz: could not be downloaded; ")
    assert "404/: the server answers 404 Not Found" in message
    assert f"and not {SHA256[:12]}" in message
    assert "9/: no connection" in message
    assert "\n" not in message
    assert os.listdir(tmp_path) == []


def test_a_connection_that_is_always_cut_keeps_its_part(server, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    with pytest.raises(DataError, match=r"cut at 200,000 of 300,000 bytes"):
        fetch(remote("cut"), tmp_path)
    assert os.listdir(tmp_path) == ["file.gz.part"]


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mirror = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(DataError, match="could not be downloaded; .*no answer: timed out"):
            fetch(Remote("file.gz", (mirror,), SHA256), tmp_path)


def test_a_server_that_speaks_no_http(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail here\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        mirror = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(DataError, match="no answer: "):
            fetch(Remote("file.gz", (mirror,), SHA256), tmp_path)
        thread.join()


def test_a_full_disk(server, remote, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download.os, "replace", full)
    with pytest.raises(DataError, match=r"file\.gz: the disk is full; what came so far is kept"):
        fetch(remote("good", "good"), tmp_path)
    assert os.listdir(tmp_path) == ["file.gz.part"]


def test_open_data_downloads_only_when_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGAN_DATA", str(tmp_path))
    images = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 9])
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 2, 4, 5])
    server.files = {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels}
    remotes = [
        Remote(name, (f"{server.at}good/",), hashlib.sha256(data).hexdigest()) for name, data in server.files.items()
    ]
    monkeypatch.setitem(REMOTES, "mnist", tuple(remotes))
    with pytest.raises(DataError, match="allow its download"):
        open_data("mnist")
    assert server.asked == []
    assert open_data("mnist", download=True).values.ravel().tolist() == [7, 9]
    assert open_data("mnist").labels.tolist() == [4, 5]
    assert len(server.asked) == 2


def test_the_table():
    for remotes in REMOTES.values():
        for remote in remotes:
            assert len(remote.mirrors) >= 2
            assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in remote.mirrors)
            assert len(bytes.fromhex(remote.sha256)) == 32
    assert len({remote.sha256 for remotes in REMOTES.values() for remote in remotes}) == 5


def test_nothing_is_fetched_that_is_there(tmp_path):
    for remote in REMOTES["mnist"]:
        (tmp_path / remote.name).touch()
    fetch_all("mnist", tmp_path)
