"""Reaching Ray: the one of this process, a cluster, or one that is started on this machine."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gated_lpi.errors import OptionError, RunError

LOCAL = "local"


def address() -> str:
    """Where Ray is: $RAY_ADDRESS, or "local" for one that is to be started here."""
    return os.environ.get("RAY_ADDRESS") or LOCAL


def installed_ray() -> Any:
    """The package `ray`.

    Raises:
        OptionError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise OptionError(
            "The engine 'ray' needs Ray, which is not installed here: pip install 'gated-lpi[ray]'"
        ) from error


@contextmanager
def connected(ray: Any) -> Iterator[None]:
    """Be connected to a Ray for as long as the `with` block runs; one that was there before is left as it is.

    Raises:
        RunError: it could not be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    where = address()
    options = {"include_dashboard": False} if where == LOCAL else {}
    try:
        with _own_handlers():
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"Ray at {where!r} could not be reached or started ({first}). Check $RAY_ADDRESS, or unset it to use Ray "
            "on this machine only"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Put back the handler of SIGTERM that Ray replaces by its own, unless it is Python's."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
