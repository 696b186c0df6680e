"""A hub on 127.0.0.1 that speaks what huggingface_hub asks for, over small contents, with faults on demand.

    with HubServer({"org/model": {"main": {}, "step1": {"model.safetensors": b"…"}}}) as server:
        server.fault("cut", "GET .*model.safetensors", after=100)
        Hub(endpoint=server.url, …)

A repository is a mapping of branches to files; a file is bytes. Files that end like weights are in large-file storage,
so that listings tell their SHA-256. Every request is kept in `server.requests` as (method, path, range).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]
LARGE = (".safetensors", ".bin", ".pt")
PIECES = 20  # that a trickling answer comes in
KINDS = ("status", "cut", "wrong", "slow", "trickle", "headers", "redirect", "body")  # of faults

# Names of branches as the suites have them (a few of each), and what is to come of them.
LISTINGS: dict[str, tuple[str, ...]] = {
    "allenai/OLMoE-1B-7B-0924": (
        "main",
        "step1000000-tokens4194B",
        "step5000-tokens20B",
        "step10000-tokens41B",
        "step1220000-tokens5117B",
    ),
    "allenai/OLMoE-1B-7B-0125": ("main", "step1000-tokens4B", "stage2-ingredient1-step100-tokens1B"),
    "allenai/OLMo-1B": ("main", "step117850-tokens494B", "step20000-tokens84B", "step330000-tokens1384B"),
    "allenai/OLMo-7B-0424-hf": ("main", "step600000-tokens2515B", "step1000-tokens4B", "anneal-from-step600000"),
    "allenai/OLMo-2-1124-7B": (
        "main",
        "stage1-step175000-tokens735B",
        "stage1-step101000-tokens424B",
        "stage2-ingredient1-step1000-tokens5B",
        "stage2-ingredient2-step1000-tokens5B",
    ),
    "allenai/OLMo-2-0425-1B": ("main", "stage1-step10000-tokens21B"),
    "allenai/OLMo-2-0425-1B-early-training": ("main", "stage1-step1000-tokens3B", "stage1-step10000-tokens21B"),
    "allenai/Olmo-3-1025-7B": (
        "main",
        "stage1-step1000",
        "stage1-step20000",
        "stage3-step100",
        "stage2-step47684",
        "stage2-step47684-mix-a-from-stage1-step1413814",
    ),
    "EleutherAI/pythia-70m": ("main", "step143000", "step0", "step1", "step512", "step64000", "step1000"),
    "LLM360/Amber": ("main", "ckpt_358", "ckpt_000", "ckpt_010"),
    "HuggingFaceTB/SmolLM3-3B-checkpoints": (
        "main",
        "stage2-step-3480000",
        "stage1-step-40000",
        "stage1-step-3440000",
        "stage3-step-4720000",
        "lc-4k-to-32k-step-20000",
        "lc-4k-to-32k-step-4000",
        "lc-32k-to-64k-step-4000",
        "it-SFT",
        "it-mid-training",
    ),
    "swiss-ai/Apertus-8B-2509": ("main", "step2627139-tokens15T", "step50000-tokens210B", "step1750000-tokens7652B"),
    "stanford-crfm/alias-gpt2-small-x21": ("main", "checkpoint-400000", "checkpoint-0", "checkpoint-5000"),
    "inclusionAI/Ling-mini-base-2.0-5T": ("main",),
    "inclusionAI/Ling-mini-base-2.0-10T": ("main",),
    "inclusionAI/Ling-mini-base-2.0-15T": ("main",),
    "inclusionAI/Ling-mini-base-2.0-20T": ("main",),
    "OrionZheng/openmoe-8b-400B": ("main",),
    "OrionZheng/openmoe-8b-1T": ("main",),
    "OrionZheng/openmoe-8b": ("main",),
}


def recorded(*repos: str) -> dict[str, dict[str, Files]]:
    """The branches of `LISTINGS`, without files."""
    return {repo: {branch: {} for branch in LISTINGS[repo]} for repo in repos or LISTINGS}


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of a folder, such as save_pretrained writes it."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def git_id(content: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Fault:
    """What to do wrong with the next `times` requests whose "METHOD path" matches."""

    kind: str
    pattern: str
    times: int
    options: dict[str, Any] = field(default_factory=dict)


class HubServer:
    """The server; a context manager. `repos` may be changed while it runs."""

    def __init__(self, repos: Mapping[str, Mapping[str, Files]]) -> None:
        self.repos = {repo: {branch: dict(files) for branch, files in b.items()} for repo, b in repos.items()}
        self.past: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.tokens: list[str] = []
        self.faults: list[Fault] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, kind: str, pattern: str, times: int = 1, **options: Any) -> None:
        """Add a fault: "status" (code, headers), "cut" (after), "wrong" (bytes), "slow" or "trickle" (seconds),
        "headers" (headers, beside or instead of the right ones), "redirect" (location), "body" (body, headers).
        """
        assert kind in KINDS
        self.faults.append(Fault(kind, pattern, times, options))

    def commit(self, repo: str, branch: str) -> str:
        """The commit of a branch: what it holds, hashed; two branches with the same files have two commits."""
        files = self.repos[repo][branch]
        text = "".join(f"{name} {git_id(content)}\n" for name, content in sorted(files.items()))
        return hashlib.sha1(f"{repo} {branch}\n{text}".encode()).hexdigest()

    def move(self, repo: str, branch: str, files: Files) -> None:
        """Give a branch a new commit; the one before is still to be had by its hash."""
        self.past[self.commit(repo, branch)] = self.repos[repo][branch]
        self.repos[repo][branch] = dict(files)

    def asked(self, pattern: str) -> list[tuple[str, str, str]]:
        """The requests whose "METHOD path" matches."""
        return [request for request in self.requests if re.search(pattern, f"{request[0]} {request[1]}")]

    def due(self, line: str) -> Fault | None:
        """The fault for this request, if one is left."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, line):
                fault.times -= 1
                return fault
        return None

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch or commit."""
        for branch, files in self.repos[repo].items():
            commit = self.commit(repo, branch)
            if revision in (branch, commit):
                return commit, files
        return (revision, self.past[revision]) if revision in self.past else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up: that is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        fault = self.hub.due(f"{self.command} {path}")
        self.cut = fault.options["after"] if fault is not None and fault.kind == "cut" else None
        self.trickle = fault.options["seconds"] if fault is not None and fault.kind == "trickle" else 0.0
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.options["seconds"])
        if fault is not None and fault.kind == "status":
            self._send(fault.options["code"], b"", fault.options.get("headers", {}))
            return
        self.elsewhere = fault.options["location"] if fault is not None and fault.kind == "redirect" else ""
        if self.elsewhere and "/resolve/" not in path:
            self._send(302, b"", {"Location": self.elsewhere})
            return
        if fault is not None and fault.kind == "body":
            self._send(200, fault.options["body"], fault.options.get("headers", {}))
            return
        self.extra = (
            {} if fault is None or fault.kind not in ("headers", "redirect") else fault.options.get("headers", {})
        )
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(refs|tree|revision|paths-info))?(?:/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None or found[1] not in self.hub.repos:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif file is not None:
            self._file(file[1], file[2], file[3], fault)
        else:
            assert api is not None
            self._api(api[1], api[2], api[3] or "main")

    def _api(self, repo: str, verb: str | None, revision: str) -> None:
        if verb == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.hub.commit(repo, name)}
                for name in self.hub.repos[repo]
            ]
            self._json({"branches": branches, "converts": [], "tags": []})
            return
        found = self.hub.find(repo, revision)
        if found is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        commit, files = found
        if verb == "tree":
            self._json([_tree_entry(name, content) for name, content in files.items()])
        elif verb == "paths-info":
            asked = parse_qs(self.body.decode())["paths"]
            self._json([_tree_entry(name, files[name]) for name in asked if name in files])
        else:
            siblings = [_sibling(name, content) for name, content in files.items()]
            self._json({"_id": commit[:24], "id": repo, "modelId": repo, "sha": commit, "siblings": siblings})

    def _file(self, repo: str, revision: str, name: str, fault: Fault | None) -> None:
        found = self.hub.find(repo, revision)
        if found is None or name not in found[1]:
            code = "RevisionNotFound" if found is None else "EntryNotFound"
            self._send(404, b"", {"X-Error-Code": code})
            return
        commit, content = found[0], found[1][name]
        large = name.endswith(LARGE)
        etag = hashlib.sha256(content).hexdigest() if large else git_id(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if fault is not None and fault.kind == "wrong":
            content = bytes(byte ^ 0xFF for byte in content)
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers |= self.extra
        if self.elsewhere:
            self._send(302, b"", {**headers, "Location": self.elsewhere})
            return
        if start:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content = content[first:]
        self._send(206 if start else 200, content, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            body = body if self.cut is None else body[: self.cut]
            pieces = PIECES if self.trickle else 1
            for piece in range(pieces):
                self.wfile.write(body[len(body) * piece // pieces : len(body) * (piece + 1) // pieces])
                time.sleep(self.trickle / pieces)
        if self.cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _tree_entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_id(content)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_id(content)}
    if name.endswith(LARGE):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry
