"""A stand-in for the hub's server that creates repositories and branches and commits files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class Hub:
    """The contents of a server: repositories, their branches, and the commits with their files."""

    url: str
    token: str = TOKEN
    forbidden: bool = False
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def hub() -> Iterator[Hub]:
    """A local server for the hub's client. Only requests with `token` may write."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            path = urlsplit(self.path).path
            state.requests.append(f"POST {path}")
            if path == "/api/validate-yaml":
                known = "license: nonsense" not in json.loads(body)["content"]
                errors = [] if known else [{"message": '"license" must be one of [...]'}]
                return self.answer(200 if known else 400, {"errors": errors, "warnings": []})
            if self.headers["Authorization"] != f"Bearer {state.token}":
                return self.answer(401, {"error": "Invalid credentials in Authorization header"})
            if state.forbidden:
                return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            owner, name, action, *rest = path.removeprefix("/api/models/").split("/")
            repository = state.repositories.get(f"{owner}/{name}")
            if repository is None:
                return self.answer(404, {"error": "Repository not found"})
            branch = unquote(rest[0])
            if action == "branch":
                if branch in repository["branches"]:
                    return self.answer(409, {"error": "Reference already exists"})
                repository["branches"].append(branch)
                return self.answer(200, {})
            assert branch in repository["branches"]
            if action == "preupload":
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                return self.answer(200, {"files": modes})
            assert action == "commit"
            lines = [json.loads(line) for line in body.splitlines()]
            header = next(line["value"] for line in lines if line["key"] == "header")
            values = [line["value"] for line in lines if line["key"] == "file"]
            files = {value["path"]: base64.b64decode(value["content"]) for value in values}
            state.commits.append(
                {"repo": f"{owner}/{name}", "branch": branch, "message": header["summary"], "files": files}
            )
            oid = f"{len(state.commits):040d}"
            self.answer(
                200, {"commitUrl": f"{state.url}/{owner}/{name}/commit/{oid}", "commitOid": oid, "success": True}
            )

        def create(self, asked: dict[str, Any]) -> None:
            repo_id = f"{asked['organization'] or 'somebody'}/{asked['name']}"
            url = {"url": f"{state.url}/{repo_id}"}
            if repo_id in state.repositories:
                return self.answer(409, url | {"error": "You already created this model repo"})
            state.repositories[repo_id] = asked | {"branches": ["main"]}
            self.answer(200, url)

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            state.requests.append(f"GET {path}")
            self.answer(404, {"error": "not here"})

        def answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if "error" in content:
                self.send_header("X-Error-Message", content["error"])
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Hub(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
