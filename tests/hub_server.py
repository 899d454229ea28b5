"""A stand-in for the Hub: the part of its HTTP API that pushing and pulling needs, in memory.

The real `huggingface_hub` client talks to it: in another process with `HubServer.environment`, in this one with
`HfApi(endpoint=server.url, token=TOKEN)`. Large and binary files travel as on the Hub: to the LFS store first, then by
their hash in the commit. `fail` makes a request fail half-way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test"
LFS_SUFFIXES = {".safetensors", ".parquet", ".bin", ".arrow", ".onnx", ".pt", ".pth", ".png", ".jpg"}
_REPO = r"(?P<id>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPO}"


class ApiError(Exception):
    """An answer that is no success: status, and the code that the client turns into an exception."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass
class Repository:
    """Branches are commits; a commit is all files of the repository.

    Attributes:
        private: As asked for.
        commits: Files by path, by commit hash.
        branches: Commit hash by name.
        messages: Of the commits, in order.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Makes a commit the head of a branch."""
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Hash and files of a branch or commit."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise ApiError(404, "RevisionNotFound", f"There is no revision {revision}.")
        return sha, self.commits[sha]


class HubServer(ThreadingHTTPServer):
    """The server and what it stores.

    Attributes:
        repositories: By kind ("models", "datasets") and name.
        lfs: Contents of large files by SHA-256.
        requests: (method, path) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._failures: list[list[Any]] = []
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        """Where the client is pointed."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables with which a process takes this server for the Hub."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        return {**os.environ, **own}

    def files(self, name: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """Files of a repository by path."""
        return self.repositories[kind, name].find(revision)[1]

    def fail(self, method: str, pattern: str, status: int | None = None, times: int = 1) -> None:
        """Makes the next matching requests fail: with a status, or with None by a connection that is cut."""
        self._failures.append([method, re.compile(pattern), status, times])

    def planned_failure(self, method: str, path: str) -> tuple[int | None] | None:
        """Takes the failure that is planned for a request, if there is one."""
        for failure in self._failures:
            if failure[0] == method and failure[1].search(path) and failure[3] > 0:
                failure[3] -= 1
                return (failure[2],)
        return None

    def repository(self, kind: str, name: str) -> Repository:
        """A repository, which must exist."""
        if (kind, name) not in self.repositories:
            raise ApiError(404, "RepoNotFound", f"There is no repository {name}.")
        return self.repositories[kind, name]


@contextmanager
def serve() -> Iterator[HubServer]:
    """Runs a server in a thread."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, path))
        failure = self.server.planned_failure(self.command, path)
        if failure == (None,):
            self.close_connection = True
            self.connection.close()
            return
        try:
            if failure is not None:
                raise ApiError(failure[0], "", "A planned failure.")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
                raise ApiError(401, "", "Invalid user token.")
            with self.server.lock:
                for method, pattern, answer in _ROUTES:
                    match = re.fullmatch(pattern, path)
                    if match and self.command in method.split():
                        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
                        answer(self, body=body, query=query, **match.groupdict())
                        return
            raise ApiError(404, "", f"No such address: {path}")
        except ApiError as error:
            data = json.dumps({"error": error.message}).encode()
            headers = {"X-Error-Code": error.code} if error.code else {}
            self._send(data, error.status, **headers, **{"X-Error-Message": error.message})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815, the names of the base class

    def _send(self, data: bytes | Any = b"", status: int = 200, **headers: str) -> None:
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # ---- repositories

    def _whoami(self, **_: Any) -> None:
        self._send({"type": "user", "name": "user", "orgs": [], "auth": {"type": "access_token"}})

    def _create(self, body: bytes, **_: Any) -> None:
        asked = json.loads(body)
        kind = f"{asked.get('type') or 'model'}s"
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.repositories:
            return self._send({"error": "You already created this repo", "url": url}, 409)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[kind, name] = Repository(private=bool(private))
        self.server.repositories[kind, name].commit("main", {".gitattributes": b""}, "initial commit")
        self._send({"url": url, "name": name, "id": name})

    def _branch(self, kind: str, id: str, revision: str, body: bytes, **_: Any) -> None:
        repository = self.server.repository(kind, id)
        if revision in repository.branches:
            raise ApiError(409, "", f"The branch {revision} is there.")
        start = (json.loads(body) if body else {}).get("startingPoint") or "main"
        repository.branches[revision] = repository.find(start)[0]
        self._send({})

    def _validate(self, **_: Any) -> None:
        self._send({"errors": [], "warnings": []})

    def _info(self, kind: str, id: str, revision: str | None = None, **_: Any) -> None:
        repository = self.server.repository(kind, id)
        sha, files = repository.find(revision or "main")
        self._send(
            {
                "id": id,
                "sha": sha,
                "private": repository.private,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path, "size": len(data)} for path, data in sorted(files.items())],
            }
        )

    def _refs(self, kind: str, id: str, **_: Any) -> None:
        branches = self.server.repository(kind, id).branches
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()]
        self._send({"branches": listed, "tags": [], "converts": [], "pullRequests": []})

    # ---- files

    def _tree(self, kind: str, id: str, revision: str, query: dict, folder: str | None = None, **_: Any) -> None:
        files = self.server.repository(kind, id).find(revision)[1]
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise ApiError(404, "EntryNotFound", f"There is no folder {folder}.")
        recursive = query.get("recursive", "").lower() in ("true", "1")
        depth = len(PurePosixPath(folder or "").parts) + 1
        folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents if str(parent) != "."}
        entries = [_entry(path, data) for path, data in inside.items()]
        entries += [{"type": "directory", "path": path, "oid": _git_oid(path.encode()), "size": 0} for path in folders]
        below = [entry for entry in entries if len(PurePosixPath(entry["path"]).parts) >= depth]
        shown = [entry for entry in below if recursive or len(PurePosixPath(entry["path"]).parts) == depth]
        self._send(sorted(shown, key=lambda entry: entry["path"]))

    def _paths_info(self, kind: str, id: str, revision: str, body: bytes, **_: Any) -> None:
        files = self.server.repository(kind, id).find(revision)[1]
        type_ = self.headers.get("Content-Type", "")
        asked = json.loads(body)["paths"] if "json" in type_ else parse_qs(body.decode())["paths"]
        asked = [asked] if isinstance(asked, str) else asked
        entries = [_entry(path, files[path]) for path in asked if path in files]
        for path in asked:
            if path not in files and any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": _git_oid(path.encode()), "size": 0})
        self._send(entries)

    def _resolve(self, id: str, revision: str, path: str, kind: str | None = None, **_: Any) -> None:
        sha, files = self.server.repository(kind or "models", id).find(revision)
        if path not in files:
            raise ApiError(404, "EntryNotFound", f"There is no file {path}.")
        data, headers = files[path], {"X-Repo-Commit": sha, "ETag": f'"{_git_oid(files[path])}"'}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(data, **headers, **{"Accept-Ranges": "bytes"})
        first = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
        last = int(wanted[2]) if wanted[1] and wanted[2] else len(data) - 1
        last = min(last, len(data) - 1)
        self._send(data[first : last + 1], 206, **headers, **{"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    # ---- upload

    def _preupload(self, kind: str, id: str, revision: str, body: bytes, **_: Any) -> None:
        files = self.server.repository(kind, id).find(revision)[1]
        answers = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            old = files.get(path)
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if _is_lfs(path) or asked["size"] > 10_000_000 else "regular",
                    "shouldIgnore": False,
                    "oid": None if old is None else hashlib.sha256(old).hexdigest() if _is_lfs(path) else _git_oid(old),
                }
            )
        self._send({"files": answers})

    def _lfs_batch(self, body: bytes, id: str, **_: Any) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.lfs:  # what is there need not be sent again
                answer["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}", "header": {}}}
            objects.append(answer)
        self._send({"transfer": "basic", "objects": objects})

    def _lfs_put(self, oid: str, body: bytes, **_: Any) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise ApiError(400, "", "The content does not have this hash.")
        self.server.lfs[oid] = body
        self._send()

    def _commit(self, kind: str, id: str, revision: str, body: bytes, **_: Any) -> None:
        repository = self.server.repository(kind, id)
        files, message = dict(repository.find(revision)[1]), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.lfs:
                    raise ApiError(400, "", f"{value['path']} was not uploaded.")
                files[value["path"]] = self.server.lfs[value["oid"]]
            elif item["key"] in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {path: data for path, data in files.items() if path != gone and not path.startswith(f"{gone}/")}
            else:
                raise ApiError(400, "", f"Operation {item['key']} is not understood.")
        sha = repository.commit(revision, files, message)
        self._send(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{id}/commit/{sha}", "hookOutput": ""}
        )


def _is_lfs(path: str) -> bool:
    return PurePosixPath(path).suffix in LFS_SUFFIXES


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
    if _is_lfs(path):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


_REVISION = r"(?P<revision>[^/]+|refs/[^/]+/[^/]+)"
_ROUTES = (
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", rf"{_API}/branch/(?P<revision>.+)", _Handler._branch),
    ("POST", rf"{_API}/preupload/{_REVISION}", _Handler._preupload),
    ("POST", rf"{_API}/commit/{_REVISION}", _Handler._commit),
    ("POST", rf"{_API}/paths-info/{_REVISION}", _Handler._paths_info),
    ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler._tree),
    ("GET", rf"{_API}/refs", _Handler._refs),
    ("GET", rf"{_API}(?:/revision/{_REVISION})?", _Handler._info),
    ("POST", rf"/(?:(?P<kind>datasets)/)?{_REPO}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler._lfs_put),
    ("GET HEAD", rf"/(?:(?P<kind>datasets)/)?{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler._resolve),
)
