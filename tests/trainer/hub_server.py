"""Hub that takes uploads through the requests of the pinned huggingface_hub.

Tests can queue answers for a kind of request. The Hub gives these before its real ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_fakefakefakefake"
READ_ONLY_TOKEN = "hf_fakefakereadonly"
# Files that go to the large file storage (LFS), and the size above which they are uploaded in parts.
LARGE = re.compile(r"\.(safetensors|gguf|model)$")
PART_BYTES = 200_000
KINDS = {
    "info": r"GET /api/models/(?P<repo>[^/]+/[^/]+)(/revision/main)?$",
    "create": r"POST /api/repos/create$",
    "validate": r"POST /api/validate-yaml$",
    "preupload": r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/main$",
    "batch": r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$",
    "put": r"PUT /storage/(?P<oid>\w+)$",
    "part": r"PUT /storage/(?P<oid>\w+)/(?P<part>\d+)$",
    "complete": r"POST /storage/(?P<oid>\w+)/complete$",
    "verify": r"POST /storage/(?P<oid>\w+)/verify$",
    "commit": r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/main$",
}
STORAGE_KINDS = ("put", "part", "complete")  # through signed links, without a token


@dataclass(frozen=True)
class Answer:
    """Answer to one request.

    cut: close the connection instead of answering. after: do what was requested first.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    after: bool = False


CUT, CUT_AFTER = Answer(cut=True), Answer(cut=True, after=True)


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    history: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    card: dict[str, str] | None = None

    @property
    def sha(self) -> str:
        return self.history[-1][0]

    def commit(self, files: dict[str, bytes], title: str) -> None:
        self.files = files
        past = self.history[-1][0] if self.history else ""
        listed = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
        sha = hashlib.sha1(json.dumps([past, title, listed]).encode()).hexdigest()
        self.history.append((sha, dict(files)))


@dataclass
class HubServer:
    """State of the Hub.

    queued: kind -> answers that are given before the real ones. requests: (kind, path) of every request.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    queued: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    owner: str = "me"
    url: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, name: str, *, card: dict[str, str] | None = None, **files: bytes) -> Repository:
        self.repositories[name] = Repository(private=True, card=card)
        self.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"} | files, "initial commit")
        return self.repositories[name]

    def count(self, kind: str) -> int:
        return sum(requested == kind for requested, _ in self.requests)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> Answer:
        with self.lock:
            for kind, pattern in KINDS.items():
                if (match := re.match(pattern, f"{method} {path}")) is not None:
                    self.requests.append((kind, path))
                    queue = self.queued.get(kind)
                    planned = queue.pop(0) if queue else None
                    if planned is not None and not planned.after:
                        return planned
                    return self._answer(kind, match.groupdict(), headers, body, planned)
            self.requests.append(("unknown", path))
            return Answer(404)

    def _answer(self, kind: str, groups: dict[str, str], headers: Any, body: bytes, planned: Answer | None) -> Answer:
        refusal = None if kind in STORAGE_KINDS else self._refusal(kind, groups.get("repo"), headers["Authorization"])
        if kind in STORAGE_KINDS:
            assert headers["Authorization"] is None, "the token was sent to a signed storage link"
        answer: Answer = refusal or getattr(self, f"_{kind}")(body, **groups)
        return planned or answer

    def _refusal(self, kind: str, repo: str | None, authorization: str | None) -> Answer | None:
        token = (authorization or "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_ONLY_TOKEN):
            return Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is not None and repo not in self.repositories:
            return Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if kind not in ("info", "validate") and token == READ_ONLY_TOKEN:
            return Answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        return None

    def _info(self, body: bytes, repo: str) -> Answer:
        repository = self.repositories[repo]
        siblings = [{"rfilename": name} for name in sorted(repository.files)]
        card = {} if repository.card is None else {"cardData": repository.card}
        return Answer(
            200, {"id": repo, "sha": repository.sha, "private": repository.private, "siblings": siblings} | card
        )

    def _create(self, body: bytes) -> Answer:
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        if request["organization"] != self.owner:
            return Answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.repositories:
            return Answer(409, {"error": "You already created this model repo"})
        self.add(name).private = request.get("visibility") == "private"
        return Answer(200, {"url": f"{self.url}/{name}"})

    def _validate(self, body: bytes) -> Answer:
        import yaml

        front = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        fields = {} if front is None else yaml.safe_load(front[1])
        bad = [
            {"message": f"{name} is no name of a model"} for name in (fields.get("base_model") or "",) if "//" in name
        ]
        return Answer(400 if bad else 200, {"errors": bad, "warnings": []})

    def _preupload(self, body: bytes, repo: str) -> Answer:
        repository, files, request = self.repositories[repo], [], json.loads(body)
        ignored = request.get("gitIgnore", repository.files.get(".gitignore", b"").decode()).split()
        for file in request["files"]:
            name, large = file["path"], LARGE.search(file["path"]) is not None
            oid = oid_of(repository.files[name], large) if name in repository.files else None
            mode = "lfs" if large else "regular"
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": name in ignored, "oid": oid})
        return Answer(200, {"files": files})

    def _batch(self, body: bytes, repo: str) -> Answer:
        objects = []
        for file in json.loads(body)["objects"]:
            oid, size = file["oid"], file["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.stored:
                link = f"{self.url}/storage/{oid}"
                upload: dict[str, Any] = {"href": f"{link}?X-Amz-Signature=fakesignature"}
                if size > PART_BYTES:
                    parts = {
                        str(n + 1): f"{link}/{n + 1}?X-Amz-Signature=fakesignature"
                        for n in range(-(-size // PART_BYTES))
                    }
                    upload = {"href": f"{link}/complete", "header": {"chunk_size": str(PART_BYTES)} | parts}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{link}/verify"}}
            objects.append(entry)
        return Answer(200, {"transfer": "basic", "objects": objects})

    def _put(self, body: bytes, oid: str) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return Answer(400)
        self.stored[oid] = body
        return Answer(200)

    def _part(self, body: bytes, oid: str, part: str) -> Answer:
        self.parts[oid, int(part)] = body
        return Answer(200, headers={"ETag": hashlib.md5(body).hexdigest()})

    def _complete(self, body: bytes, oid: str) -> Answer:
        numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
        return self._put(b"".join(self.parts[oid, number] for number in numbers), oid)

    def _verify(self, body: bytes, oid: str) -> Answer:
        return Answer(200 if len(self.stored.get(oid, b"")) == json.loads(body)["size"] else 404)

    def _commit(self, body: bytes, repo: str) -> Answer:
        repository = self.repositories[repo]
        header, *operations = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit", repository.sha) != repository.sha:
            return Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repository.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.stored:
                    return Answer(400, {"error": f"LFS pointer {value['oid']} does not exist"})
                files[value["path"]] = self.stored[value["oid"]]
            else:
                del files[value["path"]]
        repository.commit(files, header["value"]["summary"])
        return Answer(200, {"commitUrl": f"{self.url}/{repo}/commit/{repository.sha}", "commitOid": repository.sha})


def oid_of(content: bytes, large: bool) -> str:
    """Return the object id of a file's content, in git or in its LFS."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self._body()
            answer = hub.answer(self.command, self.path.partition("?")[0], self.headers, body)
            if answer.cut:
                self.connection.close()
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body or {}).encode()
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do

        def _body(self) -> bytes:
            if self.headers["Transfer-Encoding"] != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"] or 0))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()
