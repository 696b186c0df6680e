"""Keeping transformers' own bars and reports off the terminal where this package shows its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Hide the bars that transformers shows for every file it reads or writes; what was set before comes back after."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and everything below its errors; what was set before comes back after."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
