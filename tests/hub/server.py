"""A small Hub on localhost: real HTTP, spoken as huggingface_hub, transformers and datasets expect it.

It keeps repositories, commits, branches and large files in memory, and can be told to fail: see :class:`Fault`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

USER, TOKEN = "someone", "hf_" + "PLANTEDtoken" * 3
DATE = "2026-01-01T00:00:00.000Z"
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".pt", ".png", ".h5")


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else git_hash(self.content)

    def info(self, path: str) -> dict[str, Any]:
        """A file of a tree listing."""
        described: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content)}
        if not self.lfs:
            return {**described, "oid": git_hash(self.content)}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(pointer)}
        return {**described, "oid": git_hash(pointer.encode()), "lfs": lfs}


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    parent: str | None = None


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        names = sorted((path, blob.etag) for path, blob in files.items())
        oid = hashlib.sha1(json.dumps([parent, branch, title, names, len(self.commits)]).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files, parent)
        self.branches[branch] = oid
        return self.commits[oid]

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def history(self, branch: str = "main") -> list[Commit]:
        """Commits of a branch, newest first."""
        found, oid = [], self.branches.get(branch)
        while oid is not None:
            found.append(self.commits[oid])
            oid = found[-1].parent
        return found


@dataclass
class Fault:
    """What goes wrong, ``times`` times, with requests whose method and path match.

    ``error`` answers with ``status``; ``drop`` closes the connection before anything is done; ``lose_answer`` does
    what was asked and closes it then; ``cut`` sends half of the body; ``tamper`` sends a body with one byte changed;
    ``slow`` waits for ``seconds`` first.
    """

    method: str
    path: str
    action: Literal["error", "drop", "lose_answer", "cut", "tamper", "slow"]
    times: int = 1
    status: int = 500
    seconds: float = 0.0

    def matches(self, method: str, path: str) -> bool:
        return (
            self.times > 0 and re.fullmatch(self.method, method) is not None and re.search(self.path, path) is not None
        )


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {"X-Error-Message": message, **named, **(headers or {})}


class HubServer:
    """Serves until closed; ``url`` is what ``HF_ENDPOINT`` should be.

    Attributes:
        repos: (model or dataset, USER/NAME) -> repository.
        collections: name in its address -> collection, as the Hub describes it.
        large_files: sha256 -> content of what was uploaded for a commit.
        requests: "METHOD path" of everything that was asked.
        faults: what goes wrong next.
        tokens: those that are valid.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.tokens = {TOKEN}
        self.lock = threading.RLock()
        server = self

        class Handler(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # Large files lie with another host, as the Hub's do: clients must not send it their token.
        self.storage = f"http://localhost:{port}/storage"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add_repo(self, kind: str, name: str, files: dict[str, bytes] | None = None) -> Repo:
        """A repository as if somebody had pushed it."""
        repo = self.repos[kind, name] = Repo(kind, name, private=False)
        blobs = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", lfs=False)}
        repo.commit("main", "initial commit", dict(blobs))
        if files:
            blobs |= {path: Blob(content, path.endswith(LFS_SUFFIXES)) for path, content in files.items()}
            repo.commit("main", "files", blobs)
        return repo

    def repo(self, kind: str, name: str) -> Repo:
        with contextlib.suppress(KeyError):
            return self.repos[kind, name]
        raise Refused(404, "Repository not found", "RepoNotFound")

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(re.search(pattern, request) is not None for request in self.requests)


@contextlib.contextmanager
def serve() -> Iterator[HubServer]:
    server = HubServer()
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    damage = ""
    disable_nagle_algorithm = True  # else an answer waits 40 ms for word that its head has arrived

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.where = urllib.parse.unquote(url.path)
        self.query = urllib.parse.parse_qs(url.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else b"".join(
            self._chunks()
        )  # fmt: skip
        self.damage = ""
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {self.where}")
            fault = next((f for f in self.hub.faults if f.matches(self.command, self.where)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None:
            if fault.action == "slow":
                time.sleep(fault.seconds)
            elif fault.action == "error":
                return self.refuse(Refused(fault.status, "so it was planned"))
            elif fault.action == "drop":
                return self._hang_up()
            else:
                self.damage = fault.action
        try:
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, self.where)
                if found and self.command in method:
                    with self.hub.lock:
                        return answer(self, **found.groupdict())
            raise Refused(404, f"no such address: {self.command} {self.where}")
        except Refused as refused:
            self.refuse(refused)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def refuse(self, refused: Refused) -> None:
        self.answer({"error": str(refused)}, status=refused.status, headers=refused.headers)

    def answer(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.damage == "lose_answer":
            return self._hang_up()
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        sent = content
        if self.damage == "cut":
            sent = content[: len(content) // 2]
        elif self.damage == "tamper":
            middle = len(content) // 2
            sent = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(sent)
        if len(sent) != len(content):
            self._hang_up()

    def json(self) -> Any:
        return json.loads(self.body)

    def check_token(self) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")

    def commit_of(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


def whoami(self: _Handler) -> None:
    self.check_token()
    access = {"accessToken": {"displayName": "test", "role": "write"}}
    self.answer({"type": "user", "id": "1", "name": USER, "fullname": USER, "orgs": [], "auth": access})


def validate_yaml(self: _Handler) -> None:
    content = self.json()["content"]
    errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
    self.answer({"errors": errors, "warnings": []}, status=400 if errors else 200)


def create_repo(self: _Handler) -> None:
    self.check_token()
    asked = self.json()
    kind, name = asked.get("type") or "model", f"{asked.get('organization') or USER}/{asked['name']}"
    url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if (kind, name) in self.hub.repos:
        return self.answer({"error": "You already created this repo", "url": url}, status=409)
    self.hub.add_repo(kind, name).private = asked.get("visibility") == "private"
    self.answer({"url": url, "name": name, "id": name})


def create_collection(self: _Handler) -> None:
    self.check_token()
    asked = self.json()
    slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-{'0' * 24}"
    if slug in self.hub.collections:
        return self.answer({"error": "This collection already exists", "slug": slug}, status=409)
    self.hub.collections[slug] = {
        "slug": slug, "title": asked["title"], "owner": {"name": asked["namespace"]}, "items": [], "lastUpdated": DATE,
        "position": 0, "private": asked["private"], "theme": "blue", "upvotes": 0,
    }  # fmt: skip
    self.answer(self.hub.collections[slug])


def collection(self: _Handler, slug: str) -> None:
    self.answer(self.hub.collections[slug])


def add_to_collection(self: _Handler, slug: str) -> None:
    self.check_token()
    found, item = self.hub.collections[slug], self.json()["item"]
    self.hub.repo(item["type"], item["id"])  # what is not there cannot be put into one
    if item["id"] in [each["id"] for each in found["items"]]:
        return self.answer({"error": "Item already in collection"}, status=409)
    found["items"].append({"_id": str(len(found["items"])), "position": len(found["items"]), **item})
    self.answer(found)


def preupload(self: _Handler, kind: str, repo: str, revision: str) -> None:
    self.check_token()
    commit = self.commit_of(self.hub.repo(kind, repo), revision)
    files = []
    for file in self.json()["files"]:
        lfs = file["path"].endswith(LFS_SUFFIXES) and file["size"] > 0
        known = commit.files.get(file["path"])
        oid = {"oid": known.etag} if known is not None else {}
        files.append({"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **oid})
    self.answer({"files": files})


def lfs_batch(self: _Handler, prefix: str | None, repo: str) -> None:
    self.check_token()
    self.hub.repo("dataset" if prefix else "model", repo)
    objects = []
    for each in self.json()["objects"]:
        if each["oid"] not in self.hub.large_files:
            upload = {"href": f"{self.hub.storage}/{each['oid']}"}
            verify = {"href": f"{self.hub.url}/{prefix or ''}{repo}.git/info/lfs/objects/verify"}
            each = {**each, "actions": {"upload": upload, "verify": verify}}
        objects.append(each)
    self.answer({"transfer": "basic", "objects": objects})


def store(self: _Handler, oid: str) -> None:
    if "Authorization" in self.headers:
        raise Refused(400, "a token was sent to the storage")
    if hashlib.sha256(self.body).hexdigest() != oid:
        raise Refused(400, "BadDigest")
    self.hub.large_files[oid] = self.body
    self.answer(b"")


def lfs_verify(self: _Handler, prefix: str | None, repo: str) -> None:
    self.check_token()
    asked = self.json()
    if len(self.hub.large_files.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(404, "not uploaded, or of another size")
    self.answer({})


def commit(self: _Handler, kind: str, repo: str, revision: str) -> None:
    self.check_token()
    found = self.hub.repo(kind, repo)
    head = self.commit_of(found, revision)
    lines = [json.loads(line) for line in self.body.splitlines() if line]
    header = lines[0]["value"]
    if header.get("parentCommit") not in (None, head.oid):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in self.hub.large_files:
                raise Refused(400, f"{value['path']} was not uploaded")
            files[value["path"]] = Blob(self.hub.large_files[value["oid"]], lfs=True)
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise Refused(400, f"unknown operation {line['key']}")
    made = found.commit(revision, header["summary"], files)
    self.answer({"success": True, "commitOid": made.oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{made.oid}"})


def create_branch(self: _Handler, kind: str, repo: str, branch: str) -> None:
    self.check_token()
    found = self.hub.repo(kind, repo)
    if branch in found.branches:
        raise Refused(409, f"Reference already exists: {branch}")
    start = (self.json() if self.body else {}).get("startingPoint") or "main"
    found.branches[branch] = self.commit_of(found, start).oid
    self.answer({})


def delete_branch(self: _Handler, kind: str, repo: str, branch: str) -> None:
    self.check_token()
    del self.hub.repo(kind, repo).branches[branch]
    self.answer({})


def refs(self: _Handler, kind: str, repo: str) -> None:
    branches = self.hub.repo(kind, repo).branches
    listed = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": oid} for b, oid in branches.items()]
    self.answer({"branches": listed, "converts": [], "tags": []})


def commits(self: _Handler, kind: str, repo: str, revision: str) -> None:
    listed = [
        {"id": each.oid, "title": each.title, "message": "", "authors": [{"user": USER}], "date": DATE}
        for each in self.hub.repo(kind, repo).history(revision)
    ]
    self.answer(listed)


def info(self: _Handler, kind: str, repo: str, revision: str = "main") -> None:
    found = self.hub.repo(kind, repo)
    commit = self.commit_of(found, revision)
    siblings = [{"rfilename": path, "size": len(blob.content)} for path, blob in sorted(commit.files.items())]
    self.answer(
        {"_id": "1", "id": repo, "author": repo.split("/")[0], "sha": commit.oid, "private": found.private,
         "gated": False, "disabled": False, "lastModified": DATE, "createdAt": DATE, "tags": [], "downloads": 0,
         "likes": 0, "siblings": siblings, "cardData": {}}
    )  # fmt: skip


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": git_hash(path.encode()), "size": 0}


def tree(self: _Handler, kind: str, repo: str, revision: str, path: str = "") -> None:
    commit = self.commit_of(self.hub.repo(kind, repo), revision)
    below = path.strip("/") + "/" if path.strip("/") else ""
    recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
    listed: dict[str, dict[str, Any]] = {}
    for name, blob in sorted(commit.files.items()):
        if not name.startswith(below):
            continue
        folders = name[len(below) :].split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            if recursive or depth == 1:
                folder = below + "/".join(folders[:depth])
                listed[folder] = _folder(folder)
        if recursive or not folders:
            listed[name] = blob.info(name)
    if below and not listed:
        raise Refused(404, f"{path} does not exist", "EntryNotFound", {"X-Repo-Commit": commit.oid})
    self.answer(list(listed.values()))


def paths_info(self: _Handler, kind: str, repo: str, revision: str) -> None:
    commit = self.commit_of(self.hub.repo(kind, repo), revision)
    asked = urllib.parse.parse_qs(self.body.decode()).get("paths", [])
    found = []
    for path in (name.strip("/") for name in asked):
        if path in commit.files:
            found.append(commit.files[path].info(path))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            found.append(_folder(path))
    self.answer(found)


def resolve(self: _Handler, prefix: str | None, repo: str, revision: str, path: str) -> None:
    commit = self.commit_of(self.hub.repo("dataset" if prefix else "model", repo), revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.files.get(path)
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound", headers)
    if not blob.lfs:
        return _send(self, blob.content, {**headers, "ETag": f'"{blob.etag}"'})
    self.hub.large_files[blob.sha256] = blob.content
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    self.answer(b"", status=302, headers={**headers, **linked, "Location": f"{self.hub.storage}/{blob.sha256}"})


def download(self: _Handler, oid: str) -> None:
    if "Authorization" in self.headers:
        raise Refused(400, "a token was sent to the storage")
    _send(self, self.hub.large_files[oid], {"ETag": '"storage"', "Accept-Ranges": "bytes"})


def _send(self: _Handler, content: bytes, headers: dict[str, str]) -> None:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    if asked is None:
        return self.answer(content, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
    if first >= len(content):
        raise Refused(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    part = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    self.answer(content[first : last + 1], status=206, headers={**headers, **part})


_API = r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"
_WEB = r"/(?P<prefix>datasets/)?(?P<repo>[^/]+/[^/]+)"
ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("GET",), "/api/whoami-v2", whoami),
    (("POST",), "/api/validate-yaml", validate_yaml),
    (("POST",), "/api/repos/create", create_repo),
    (("POST",), "/api/collections", create_collection),
    (("GET",), "/api/collections/(?P<slug>[^/]+/[^/]+)", collection),
    (("POST",), "/api/collections/(?P<slug>[^/]+/[^/]+)/items", add_to_collection),
    (("POST",), _API + "/preupload/(?P<revision>.+)", preupload),
    (("POST",), _WEB + r"\.git/info/lfs/objects/batch", lfs_batch),
    (("POST",), _WEB + r"\.git/info/lfs/objects/verify", lfs_verify),
    (("PUT",), "/storage/(?P<oid>[0-9a-f]{64})", store),
    (("GET", "HEAD"), "/storage/(?P<oid>[0-9a-f]{64})", download),
    (("POST",), _API + "/commit/(?P<revision>.+)", commit),
    (("POST",), _API + "/branch/(?P<branch>.+)", create_branch),
    (("DELETE",), _API + "/branch/(?P<branch>.+)", delete_branch),
    (("GET",), _API + "/refs", refs),
    (("GET",), _API + "/commits/(?P<revision>.+)", commits),
    (("GET",), _API, info),
    (("GET",), _API + "/revision/(?P<revision>.+)", info),
    (("GET",), _API + "/tree/(?P<revision>[^/]+)", tree),
    (("GET",), _API + "/tree/(?P<revision>[^/]+)(?P<path>/.*)", tree),
    (("POST",), _API + "/paths-info/(?P<revision>.+)", paths_info),
    (("GET", "HEAD"), _WEB + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]  # fmt: skip
