"""Weights are fetched from a server on this machine: one that breaks off, sends web pages, the wrong file, or knows ranges."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading

import pytest

from checkpoints import CheckpointError, manifest
from checkpoints.__main__ import main
from checkpoints.download import address, download, needs_consent
from checkpoints.manifest import Entry

CONTENT = bytes(range(256)) * 4096


class Server(http.server.BaseHTTPRequestHandler):
    """Serves /good, /html, /other, /short (ends early each time) and /gone; counts what it sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 - the name that the library calls
        state = self.server.state
        kind = self.path.strip("/").split("/")[0]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        state["ranges"].append(first)
        if kind == "gone":
            return self.send_error(404)
        body = {"html": b"<!DOCTYPE html><html>sign in</html>", "other": b"x" * 100,
                "same_size": CONTENT[:-1] + b"!"}.get(kind, CONTENT)
        if first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        ranged = first and kind != "norange"
        part = body[first:] if ranged else body
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Type", "text/html; charset=utf-8" if kind == "html" else "application/octet-stream")
        self.end_headers()
        if kind in ("short", "norange") and state["breaks"] > 0:
            state["breaks"] -= 1
            part = part[:300_000]
            self.close_connection = True
        self.wfile.write(part)
        state["sent"] += len(part)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.state = {"ranges": [], "breaks": 0, "sent": 0}
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.address = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()


def entry(**changes):
    facts = {"name": "toy", "file": "toy.bin", "kind": "toy", "licence": "MIT", "source": "a README", "purpose": "a test",
             "bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    return Entry(**facts | changes)


def test_a_file_comes_to_its_place(server, tmp_path):
    seen = []
    place = download(entry(), mirror=f"{server.address}/good", progress=lambda have, total: seen.append((have, total)))
    assert place == tmp_path / "weights" / "toy.bin" and place.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and not list((tmp_path / "weights" / ".downloads").iterdir())


def test_a_broken_connection_goes_on_where_it_was(server):
    server.state["breaks"] = 2
    assert download(entry(), mirror=f"{server.address}/short").read_bytes() == CONTENT
    assert server.state["ranges"] == [0, 300_000, 600_000]


def test_the_next_command_goes_on(server):
    server.state["breaks"] = 3
    with pytest.raises(CheckpointError, match="broke off after 900000 bytes.*goes on"):
        download(entry(), mirror=f"{server.address}/short")
    assert download(entry(), mirror=f"{server.address}/short").read_bytes() == CONTENT
    assert server.state["ranges"][-1] == 900_000


def test_a_server_without_ranges_begins_again(server):
    server.state["breaks"] = 1
    assert download(entry(), mirror=f"{server.address}/norange").read_bytes() == CONTENT


def test_a_part_that_is_whole_is_taken(server, tmp_path):
    folder = tmp_path / "weights" / ".downloads"
    folder.mkdir(parents=True)
    (folder / "toy.bin.part").write_bytes(CONTENT)
    assert download(entry(), mirror=f"{server.address}/good").read_bytes() == CONTENT and server.state["sent"] == 0


@pytest.mark.parametrize(("kind", "facts", "word"), [
    ("html", {}, "web page"), ("other", {}, "has 100 bytes, expected"), ("same_size", {}, "SHA-256"),
    ("gone", {}, "404"), ("other", {"bytes": None}, "SHA-256")])
def test_what_is_not_the_file_is_refused_in_one_line(server, tmp_path, kind, facts, word):
    with pytest.raises(CheckpointError, match=word) as error:
        download(entry(**facts), mirror=f"{server.address}/{kind}")
    assert "\n" not in str(error.value) and not (tmp_path / "weights" / "toy.bin").exists()
    assert download(entry(), mirror=f"{server.address}/good").read_bytes() == CONTENT


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    with pytest.raises(CheckpointError, match="broke off after 0 bytes"):
        download(entry(), mirror="http://127.0.0.1:9")


def test_files_without_an_address_say_where_they_are():
    with pytest.raises(CheckpointError, match="by hand from a README.*toy.bin"):
        address(entry())
    assert address(entry(url="https://x/y")) == "https://x/y" and address(entry(), "http://m/a/") == "http://m/a/toy.bin"


def test_licences_that_need_consent():
    asked = {one.name for one in manifest.entries() if not one.folder and needs_consent(one)}
    assert {"stylegan2-ffhq", "landmarks", "e4e", "style1"} <= asked and not {"alexnet", "dino", "lpips-heads"} & asked


def test_the_command_asks_before_such_licences(server, monkeypatch, capsys, tmp_path):
    listed = [vars(entry()) | {"licence": "not for commercial use"}]
    (tmp_path / "manifest.json").write_text(json.dumps(listed))
    monkeypatch.setattr(manifest, "HERE", tmp_path)
    monkeypatch.setattr("checkpoints.manifest.official_names", lambda: {"toy.bin"})
    command = ["download", "toy", "--mirror", f"{server.address}/good"]
    assert main(command) == 2 and "--yes" in capsys.readouterr().err and server.state["sent"] == 0
    assert main([*command, "--yes"]) == 0 and capsys.readouterr().out.strip().endswith("toy.bin")
    assert main([*command, "--yes"]) == 0 and "here already" in capsys.readouterr().err
    assert main(["download", "nothing"]) == 2 and "there are toy" in capsys.readouterr().err


def test_doctor_is_one_screen(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and any("torch" in line for line in lines) and any(line.startswith("device") for line in lines)
    (tmp_path / "alex.pth").write_bytes(b"<html>sign in</html>")
    assert main(["doctor"]) == 2 and "WRONG" in capsys.readouterr().out
