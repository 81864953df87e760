"""A stand-in of the Hugging Face hub's HTTP interface, on loopback: what its client really calls, and no more.

Repositories are dictionaries of paths and bytes. Files above 2,000 bytes go by LFS, as the hub's large ones do.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standInTokenOfTheTests"
LFS_FROM = 2_000


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 1
    gated: bool = False

    @property
    def sha(self) -> str:
        return hashlib.sha1(str(self.commits).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server, and what the tests ask of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.commits_left: int | None = None
        """Commits that are taken before it answers 500; None: all."""
        self.cut_once: str = ""
        """End of a path whose next body ends in the middle."""
        self.uploaded: list[str] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def _send(self, code: int, content: object = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, code: int, error: str, message: str) -> None:
        self._send(code, {"error": message}, {"X-Error-Code": error, "X-Error-Message": message})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _repo(self, name: str, *, write: bool) -> Repo | None:
        """Return a repository that this request may see, or answer why not."""
        given = self.headers.get("Authorization", "")
        if given and given != f"Bearer {TOKEN}":
            self._send(401, {"error": "x"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        found = self.server.repos.get(name)
        if found is None:
            self._refuse(404 if given else 401, "RepoNotFound", "Repository not found")
        elif found.gated:
            self._refuse(403, "GatedRepo", "Access to model is restricted")
        elif write and not given:
            self._send(401, {"error": "Unauthorized"})
        else:
            return found
        return None

    def do_POST(self) -> None:
        body, path = self._body(), urlsplit(self.path).path
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            assert content.startswith("---\n")
            assert "\nlicense: " in content
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._send(
                    401, {"error": "x"}, {"X-Error-Message": "Invalid credentials in Authorization header"}
                )
            if name in self.server.repos:
                return self._send(
                    409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}
                )
            self.server.repos[name] = Repo()
            return self._send(200, {"url": f"{self.server.url}/{name}", "name": name})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs_batch(json.loads(body))
        _, _, _, owner, name, verb, _ = path.split("/")
        repo = self._repo(f"{owner}/{name}", write=True)
        if repo is None:
            return None
        return self._preupload(repo, json.loads(body)) if verb == "preupload" else self._commit(repo, body)

    def _preupload(self, repo: Repo, told: dict[str, Any]) -> None:
        files = [
            {
                "path": own["path"],
                "uploadMode": "lfs" if own["size"] > LFS_FROM else "regular",
                "shouldIgnore": False,
                "oid": git_sha1(repo.files[own["path"]]) if own["path"] in repo.files else None,
            }
            for own in told["files"]
        ]
        self._send(200, {"files": files})

    def _lfs_batch(self, told: dict[str, Any]) -> None:
        objects = []
        for own in told["objects"]:
            there = own["oid"] in self.server.lfs
            actions = {} if there else {"actions": {"upload": {"href": f"{self.server.url}/lfs/{own['oid']}"}}}
            objects.append({"oid": own["oid"], "size": own["size"], **actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        body, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.lfs[oid] = body
        self.server.uploaded.append(oid)
        self._send(200, b"")

    def _commit(self, repo: Repo, body: bytes) -> None:
        if self.server.commits_left == 0:
            return self._send(500, {"error": "out of order"})
        if self.server.commits_left:
            self.server.commits_left -= 1
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.server.lfs[value["oid"]]
        repo.commits += 1
        return self._send(200, {"commitUrl": f"{self.server.url}/x/y/commit/{repo.sha}", "commitOid": repo.sha})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, verb, *rest = [*(parts[2:] if api else parts), ""]
        repo = self._repo(f"{owner}/{name}", write=False)
        if repo is None:
            return None
        if api and verb == "tree":
            return self._tree(repo, "/".join(rest[1:]).strip("/"))
        if api:
            siblings = [{"rfilename": path} for path in repo.files]
            return self._send(200, {"id": f"{owner}/{name}", "sha": repo.sha, "private": False, "siblings": siblings})
        return self._resolve(repo, "/".join(rest[1:]).strip("/"))

    def _tree(self, repo: Repo, folder: str) -> None:
        found = [
            {
                "type": "file", "path": path, "size": len(data), "oid": git_sha1(data),
                **(lfs_of(data) if len(data) > LFS_FROM else {}),
            }
            for path, data in repo.files.items()
            if not folder or path.startswith(f"{folder}/")
        ]  # fmt: skip
        if folder and not found:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._send(200, found)

    def _resolve(self, repo: Repo, path: str) -> None:
        if path not in repo.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        data, asked = repo.files[path], self.headers.get("Range", "")
        etag = sha256(data) if len(data) > LFS_FROM else git_sha1(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha, "Accept-Ranges": "bytes"}
        if asked and self.command == "GET":
            self.server.ranges.append(asked)
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self._send(206, data[first:], headers)
        cut = self.server.cut_once
        if cut and path.endswith(cut) and self.command == "GET":
            self.server.cut_once = ""
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self._send(200, data, headers)


def lfs_of(data: bytes) -> dict[str, Any]:
    return {"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 130}}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
