"""The explorer on this machine: a server that says where it is once it answers."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable

import uvicorn

from gated_lpi.errors import OptionError
from gated_lpi.explore.app import LOOPBACK, create_app
from gated_lpi.explore.workspace import Workspace
from gated_lpi.results import Run

ANYWHERE = ("0.0.0.0", "::", "")  # noqa: S104


def serve(
    run: Run,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
    by_relation: bool = True,
    announce: Callable[[str], None] = print,
) -> None:
    """Explore a run in the browser until interrupted.

    Args:
        run: from `open_run`.
        host: the address to listen at; by default only this machine can reach it.
        port: 0 for any that is free.
        browser: whether to open one.
        by_relation: whether curves by relation are indexed too.
        announce: is told the address once it answers.

    Raises:
        OptionError: the address cannot be listened at.
    """
    listening = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    number = listening.getsockname()[1]
    url = f"http://{'127.0.0.1' if host in ANYWHERE else name}:{number}/"
    workspace = Workspace(run, by_relation=by_relation)
    hosts = ("*",) if host in ANYWHERE else (*LOOPBACK, host)
    config = uvicorn.Config(
        create_app(workspace, hosts), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    server = _Server(config, lambda: _ready(url, announce, browser))
    try:
        server.run(sockets=[listening])
    finally:
        workspace.close()
        listening.close()


class _Server(uvicorn.Server):
    """A server that tells when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self._ready()


def _ready(url: str, announce: Callable[[str], None], browser: bool) -> None:
    announce(url)
    if browser:
        webbrowser.open(url)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"{host}:{port} cannot be listened at ({error}); give another --port, or none for any that is free"
        ) from error
    return listening
