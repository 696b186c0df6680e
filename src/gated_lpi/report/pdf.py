"""The page as a PDF, printed by the system's Chromium or Chrome, whose pages hold text that can be searched.

The browser is given a page without scripts, whose figures are drawn already: it has nothing to run and nothing to load.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from gated_lpi.errors import OptionError, WriteError

VARIABLE = "GATED_LPI_CHROMIUM"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
SECONDS = 180.0


def browser() -> str:
    """The program that prints.

    Raises:
        OptionError: there is none.
    """
    given = os.environ.get(VARIABLE)
    found = [path for name in ((given,) if given else BROWSERS) if (path := shutil.which(name))]
    if found:
        return found[0]
    looked = (
        f"${VARIABLE} is {given!r}, which is no program"
        if given
        else f"none of {', '.join(BROWSERS[:6])} is installed here"
    )
    raise OptionError(
        f"--format pdf prints with Chromium or Chrome, and {looked}: install one (apt install chromium, or Google "
        f"Chrome), name it in ${VARIABLE}, or open report.html in any browser and print it"
    )


def printed(page: str, program: str) -> bytes:
    """A page as the bytes of a PDF file.

    Args:
        page: HTML that needs no script.
        program: from `browser`.

    Raises:
        WriteError: the browser did not print it.
    """
    with TemporaryDirectory(prefix="gated-lpi-pdf-") as name:
        folder = Path(name)
        source, target = folder / "report.html", folder / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            program,
            "--headless=new",
            "--disable-gpu",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            f"--user-data-dir={folder / 'profile'}",
            "--no-pdf-header-footer",
            f"--print-to-pdf={target}",
            *(["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),  # which Chromium refuses to root
            source.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_printed(program, str(error)) from error
        if done.returncode or not target.is_file():
            said = done.stderr.decode(errors="replace").strip()[-400:]
            raise _not_printed(program, said or f"exit code {done.returncode}")
        return target.read_bytes()


def _not_printed(program: str, why: str) -> WriteError:
    return WriteError(
        f"report.pdf was not made: {program} did not print it ({why}); try again, name another browser in ${VARIABLE}, "
        "or open report.html and print it there"
    )
