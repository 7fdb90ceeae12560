"""A hub of datasets on the loopback: so much of the protocol as the libraries `datasets` and `huggingface_hub` speak.

Repositories are dictionaries of files by commit; branches name commits. What is asked for stands in `asked`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """`commits[sha]` are the files of a commit, `branches["main"]` is a commit; the repository is `owner/tales`."""

    name = "owner/tales"

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub._answer(self, b"")

            def do_GET(self) -> None:
                hub._answer(self, b"")

            def do_POST(self) -> None:
                hub._answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit of a branch; its hash."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        url = urlsplit(request.path)
        path = unquote(url.path)
        self.asked.append(f"{request.command} {request.path}")
        api, raw = f"/api/datasets/{self.name}", f"/datasets/{self.name}/resolve/"
        if path.startswith(raw):
            revision, _, name = path.removeprefix(raw).partition("/")
            self._file(request, revision, name)
        elif path == api or path.startswith(f"{api}/"):
            kind, _, rest = path.removeprefix(api).strip("/").partition("/")
            self._api(request, kind, rest, parse_qs(url.query), body)
        else:
            self._json(request, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _commit(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    def _file(self, request: BaseHTTPRequestHandler, revision: str, name: str) -> None:
        sha = self._commit(revision)
        if sha is None:
            self._json(request, {"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        content = self.commits[sha].get(name)
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            self._json(request, {"error": "Entry not found"}, 404, headers)
            return
        status, first, total = 200, 0, len(content)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        if given := request.headers.get("Range"):
            low, _, high = given.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high) if high else total - 1, total - 1)
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        self._send(request, content, status, headers)

    def _api(
        self, request: BaseHTTPRequestHandler, kind: str, rest: str, query: dict[str, list[str]], body: bytes
    ) -> None:
        revision, _, below = rest.partition("/")
        sha = self._commit(revision or "main")
        if sha is None:
            self._json(request, {"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.commits[sha]
        if kind in ("", "revision"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            about = {"id": self.name, "sha": sha, "private": False, "gated": False, "tags": [], "downloads": 0}
            self._json(request, {**about, "siblings": siblings})
        elif kind == "tree":
            self._json(request, self._entries(files, below, "true" in query.get("recursive", [""])[0].lower()))
        elif kind == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            everything = self._entries(files, "", True)
            self._json(request, [entry for entry in everything if entry["path"] in wanted])
        else:
            self._json(request, {"error": "not found"}, 404)

    def _entries(self, files: dict[str, bytes], below: str, recursive: bool) -> list[dict[str, object]]:
        entries: dict[str, dict[str, object]] = {}
        for name, content in files.items():
            parts = name.split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": _oid(folder.encode()), "size": 0}
            entries[name] = {"type": "file", "path": name, "oid": _oid(content), "size": len(content)}
        prefix = f"{below}/" if below else ""
        inside = {name: entry for name, entry in entries.items() if name.startswith(prefix) and name != below}
        return [e for name, e in sorted(inside.items()) if recursive or "/" not in name.removeprefix(prefix)]

    def _json(
        self, request: BaseHTTPRequestHandler, data: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self._send(request, json.dumps(data).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, request: BaseHTTPRequestHandler, content: bytes, status: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
