"""The explorer on this machine: a server that says where it is once it answers."""

from __future__ import annotations

import socket
import time
import webbrowser
from collections.abc import Callable
from threading import Thread
from typing import Any

import uvicorn

from gated_lpi.errors import OptionError
from gated_lpi.explore.app import LOOPBACK, create_app
from gated_lpi.explore.workspace import Workspace
from gated_lpi.report.explorer_links import PORT
from gated_lpi.results import Run

ANYWHERE = ("0.0.0.0", "::", "")


def serve(
    run: Run,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = True,
    by_relation: bool = True,
    announce: Callable[[str], None] = print,
) -> None:
    """Explore a run in the browser until interrupted.

    Args:
        run: from `open_run`.
        host: the address to listen at; by default only this machine can reach it.
        port: 0 for any that is free; None: the one that reports lead to or, where that is taken, any.
        browser: whether to open one.
        by_relation: whether curves by relation are indexed too.
        announce: is told the address once it answers.

    Raises:
        OptionError: the address cannot be listened at.
    """
    listening = _listen(host, port) if port is not None else _listen_as_reports_say(host)
    name = f"[{host}]" if ":" in host else host
    number = listening.getsockname()[1]
    url = f"http://{'127.0.0.1' if host in ANYWHERE else name}:{number}/"
    workspace = Workspace(run, by_relation=by_relation)
    hosts = ("*",) if host in ANYWHERE else (*LOOPBACK, host)
    app = create_app(workspace, hosts)
    options = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_graceful_shutdown": 2}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    Thread(target=_tell, args=(server, url, announce, browser), name="announce", daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        workspace.close()
        listening.close()


def _tell(server: Any, url: str, announce: Callable[[str], None], browser: bool) -> None:
    """Say where a server is once it answers."""
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.02)
    announce(url)
    if browser:
        webbrowser.open(url)


def _listen_as_reports_say(host: str) -> socket.socket:
    """At the port that reports lead to or, where something else listens there, at any that is free."""
    try:
        return _listen(host, PORT)
    except OptionError:
        return _listen(host, 0)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise OptionError(
            f"{host}:{port} cannot be listened at ({error}); give another --port, or none for any that is free"
        ) from error
    return listening
