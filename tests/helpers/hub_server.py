"""A Hugging Face hub on loopback: the requests that fetching a model makes."""

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
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What is on the hub, and what was asked of it.

    Attributes:
        repos: content by repository and path.
        requests: method and path of every request; the path is empty where it is no file's.
    """

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, repo: str, folder: Path) -> None:
        """Puts all files of a local folder into a repository."""
        files = (path for path in Path(folder).rglob("*") if path.is_file())
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        self.repos.setdefault(repo, {}).update(content)

    def fetched(self) -> list[str]:
        """The paths whose content was sent, in order."""
        return [path for method, path in self.requests if method == "GET" and path]


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
            self._list("/".join(parts[2:4]), as_tree=parts[4:5] == ["tree"])
        else:
            self._file("/".join(parts[:2]), "/".join(parts[4:]))

    def _list(self, repo: str, as_tree: bool) -> None:
        self.hub.requests.append((self.command, ""))
        if repo not in self.hub.repos:
            return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"")
        siblings, tree = [], []
        for path, content in self.hub.repos[repo].items():
            siblings.append({"rfilename": path, "size": len(content), "blobId": _git_sha(content)})
            tree.append({"type": "file", "path": path, "size": len(content)})
            tree[-1]["oid"] = _git_sha(content)
            if len(content) > LARGE:
                large = {"size": len(content), "pointerSize": 130}
                siblings[-1]["lfs"] = {**large, "sha256": hashlib.sha256(content).hexdigest()}
                tree[-1]["lfs"] = {**large, "oid": hashlib.sha256(content).hexdigest()}
        answer = tree if as_tree else {"id": repo, "sha": COMMIT, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _file(self, repo: str, path: str) -> None:
        self.hub.requests.append((self.command, path))
        content = self.hub.repos.get(repo, {}).get(path)
        if content is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        large = len(content) > LARGE
        etag = hashlib.sha256(content).hexdigest() if large else _git_sha(content)
        headers = {"ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        self._send(200, {**headers, "X-Repo-Commit": COMMIT}, content)

    def _send(self, status: int, headers: dict, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


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
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
