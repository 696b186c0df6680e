"""Checkpoints of training frameworks, made into folders that transformers and this package read."""

from gated_lpi.importing.agreement import Agreement
from gated_lpi.importing.convert import Imported, import_checkpoint
from gated_lpi.importing.layouts import Layout, layouts

__all__ = ["Agreement", "Imported", "Layout", "import_checkpoint", "layouts"]
