"""Sphinx's configuration of the site. `build.py` lays the pages out and calls it."""

from gated_lpi.version import __version__

project = "gated-lpi"
author = "the authors of gated-lpi"
copyright = author  # noqa: A001  the name that Sphinx reads
release = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 6  # a heading's anchor is the one that a Git host gives it
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"  # fonts are the reader's own, scripts and styles come along
html_title = f"gated-lpi {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
highlight_language = "text"
show_warning_types = True
suppress_warnings = ["misc.highlighting_failure"]  # an excerpt of a file need not be a whole program
