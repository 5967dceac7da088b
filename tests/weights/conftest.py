"""A server of files on this machine, an empty list of lines, and a small Zero-1-to-3 before and after its conversion."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from download_server import Server

from magic123.measure.original_layouts import SMALL, save, zero123_checkpoint
from magic123.weights import download as download_module
from magic123.weights import zero123


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            path, range_ = self.path, self.headers.get("Range")
            state.headers.append(dict(self.headers))
            self.close_connection = True
            if path in state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.files.get(path)
            if body is None:
                state.seen.append((path, range_, 0))
                self.send_error(404)
                return
            tag, start, status = f'"{hashlib.md5(body).hexdigest()}"', 0, 200
            fresh = self.headers.get("If-Range") in (None, tag)
            if range_ and fresh and not state.no_ranges:
                start, status = int(range_.removeprefix("bytes=").rstrip("-")), 206
                if start >= len(body):
                    state.seen.append((path, range_, 0))
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            piece = body[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(piece)))
            self.send_header("ETag", tag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if cuts := state.cut_after.get(path):
                piece = piece[: cuts.pop(0)]
            state.seen.append((path, range_, len(piece)))
            self.wfile.write(piece)

    monkeypatch.setattr(download_module, "WAIT", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{service.server_address[1]}"
    yield state
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small Zero-1-to-3 in the original layout, and its content."""
    content = zero123_checkpoint(SMALL)
    return save(content, tmp_path_factory.mktemp("original") / "small.ckpt"), content


@pytest.fixture(scope="session")
def converted(small: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    record = zero123.convert(small[0], folder, "distance", lambda line: None)
    assert record == {"unet": "moving average", "conditioning": "distance"}
    return folder
