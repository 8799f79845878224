"""A stand-in for the model hub on this machine: the requests of an upload and of a download, and what they leave."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "s3cr3t" * 5
OWNER = "me"


@dataclass
class Repository:
    """Commits by branch, each a mapping of names to contents; branches share what is in the first one."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or a commit."""
        for name, files in self.branches.items():
            if revision in (name, self.sha(name)):
                return files
        return None

    def sha(self, branch: str) -> str:
        """A commit's name: a digest of its files."""
        digest = hashlib.sha1(branch.encode(), usedforsecurity=False)
        for name, content in sorted(self.branches[branch].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


class Answers(BaseHTTPRequestHandler):
    """Answers as the hub does, after the status codes that are queued for a path."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_GET(self) -> None:
        self.serve("GET")

    def do_HEAD(self) -> None:
        self.serve("HEAD")

    def do_POST(self) -> None:
        self.serve("POST")

    def do_PUT(self) -> None:
        self.serve("PUT")

    def log_message(self, *_: object) -> None:
        """Keep the tests' output free of it."""

    def serve(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.requests.append((method, path))
            refused = next((status for part, status in self.server.refuse.items() if part in path), None)
            if refused is not None:
                return self.reply(refused, {"error": f"refused {self.headers.get('Authorization')}"})
            writes = method in ("POST", "PUT") and not path.startswith("/lfs/")
            if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.reply(401, {"error": "Invalid username or password."})
            return self.answer(method, path, body)

    def answer(self, method: str, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if parts[0] == "lfs":
            if hashlib.sha256(body).hexdigest() != parts[1]:
                return self.reply(400, {"error": "content is not what its name says"})
            self.server.blobs[parts[1]] = body
            return self.reply(200, {})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "api":
            return self.of_repository(name, repository, parts[4:], body)
        if len(parts) > 4 and parts[2] == "resolve":
            return self.resolve(method, repository, parts[3], "/".join(parts[4:]))
        return self.reply(404, {"error": f"no answer for {method} {path}"})

    def create(self, asked: dict[str, Any]) -> None:
        owner = asked.get("organization") or OWNER
        name = f"{owner}/{asked['name']}"
        url = f"{self.server.address}/{name}"
        if owner != OWNER:
            return self.reply(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.server.repositories:
            return self.reply(409, {"error": "You already created this model repo", "url": url})
        self.server.repositories[name] = Repository(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return self.reply(200, {"url": url})

    def validate(self, content: str) -> None:
        try:
            tree = yaml.safe_load(content.split("---\n")[1])
            errors = [] if isinstance(tree, dict) else [{"message": "not a mapping"}]
        except (IndexError, yaml.YAMLError) as error:
            errors = [{"message": str(error)}]
        return self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return self.reply(200, {"transfer": "basic", "objects": objects})

    def of_repository(self, name: str, repository: Repository, rest: list[str], body: bytes) -> None:
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        if what == "branch":
            if revision in repository.branches:
                return self.reply(409, {"error": "Reference already exists"})
            repository.branches[revision] = dict(repository.branches["main"])
            return self.reply(200, {})
        files = repository.at(revision)
        if files is None:
            return self.reply(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "preupload":
            return self.reply(200, {"files": [_mode(one) for one in json.loads(body)["files"]]})
        if what == "commit":
            return self.commit(name, repository, revision, body)
        sha = next(repository.sha(b) for b in repository.branches if revision in (b, repository.sha(b)))
        if what == "tree":
            return self.reply(200, [_entry(path, content) for path, content in sorted(files.items())])
        return self.reply(200, {"id": name, "sha": sha, "private": repository.private, "siblings": [], "tags": []})

    def commit(self, name: str, repository: Repository, branch: str, body: bytes) -> None:
        files = repository.branches[branch]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            else:
                return self.reply(400, {"error": f"no commit of a {entry['key']}"})
        sha = repository.sha(branch)
        return self.reply(200, {"commitUrl": f"{self.server.address}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, method: str, repository: Repository, revision: str, path: str) -> None:
        content = (repository.at(revision) or {}).get(path)
        if content is None:
            return self.reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": revision}
        return self.send(200, content, {**headers, "Content-Type": "application/octet-stream"}, method != "HEAD")

    def reply(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send(status, content, {"Content-Type": "application/json", **(headers or {})}, self.command != "HEAD")

    def send(self, status: int, content: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _entry(path: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": digest[:40]}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


class HubServer(ThreadingHTTPServer):
    """The stand-in, on a free port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.lock = threading.Lock()
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
