"""A Hugging Face hub on loopback: the three requests that fetching a model makes."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

from huggingface_hub import constants, file_download

LARGE = 2000  # bytes; what is larger is kept as a large file, with its sha256
CHUNK = 1024  # bytes that the client writes at a time
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What is on the hub, what goes wrong there, and what was asked of it.

    Attributes:
        repos: content by repository and path.
        cut_after: the next transfers of large files end after so many bytes, one for each.
        damaged: paths whose content arrives with a flipped bit, so often.
        requests: (method, path, first byte) of every request.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    damaged: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def publish(self, repo: str, folder: Path) -> None:
        """Puts all files of a local folder into a repository."""
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        content = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        self.repos.setdefault(repo, {}).update(content)

    def fetched(self) -> list[str]:
        """The paths whose content was sent, in order."""
        return [path for method, path, _ in self.requests if method == "GET" and path]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._list("/".join(parts[2:4]))
        elif parts[2:4] == ["resolve", "main"] or parts[2:4] == ["resolve", COMMIT]:
            self._file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._nothing("EntryNotFound")

    def _list(self, repo: str) -> None:
        self.hub.requests.append((self.command, "", 0))
        if repo not in self.hub.repos:
            return self._nothing("RepoNotFound")
        siblings = []
        for path, content in self.hub.repos[repo].items():
            sibling = {"rfilename": path, "size": len(content), "blobId": _git_sha(content)}
            if len(content) > LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self._send(200, {"Content-Type": "application/json"}, body)

    def _file(self, repo: str, path: str) -> None:
        content = self.hub.repos.get(repo, {}).get(path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.hub.requests.append((self.command, path, start))
        if content is None:
            return self._nothing("EntryNotFound")
        large = len(content) > LARGE
        etag = hashlib.sha256(content).hexdigest() if large else _git_sha(content)
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(content)),
        }
        status = 206 if "Range" in self.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and self.hub.damaged.get(path):
            self.hub.damaged[path] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        cut = None
        if self.command == "GET" and large and self.hub.cut_after:
            cut = self.hub.cut_after.pop(0)
        self._send(status, headers, content[start:], cut)

    def _send(self, status: int, headers: dict, body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _nothing(self, code: str) -> None:
        self._send(404, {"X-Error-Code": code}, b"")


def _git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve_hub(monkeypatch, cache: Path):
    """Runs a `Hub` that huggingface_hub then takes for the real one, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    for module in (constants, file_download):  # the older library keeps names of its own
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(module, "DOWNLOAD_CHUNK_SIZE", CHUNK, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
