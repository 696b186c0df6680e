"""A transformer as writers to a residual stream: a table of families, loading, blocks, units and readout."""

from gated_lpi.models.blocks import Block, PostNorm, Writer
from gated_lpi.models.census import TypeStatus, list_types
from gated_lpi.models.families import FAMILIES, Family, find_family, has_row
from gated_lpi.models.foreign_experts import ForeignExperts, with_fused_experts
from gated_lpi.models.model import Model, Reconstruction, build_model, require_model
from gated_lpi.models.proposing import propose
from gated_lpi.models.readout import Readout
from gated_lpi.models.rows import read_row, row_as_toml, row_of
from gated_lpi.models.tokenizer import LoadedTokenizer, adds_bos, load_tokenizer
from gated_lpi.models.units import GroupTable, Places, UnitAxis, UnitTable, WriterUnits
from gated_lpi.models.weights import Loaded, load_weights, refuse_packed

__all__ = [
    "FAMILIES",
    "Block",
    "Family",
    "ForeignExperts",
    "GroupTable",
    "Loaded",
    "LoadedTokenizer",
    "Model",
    "Places",
    "PostNorm",
    "Readout",
    "Reconstruction",
    "TypeStatus",
    "UnitAxis",
    "UnitTable",
    "Writer",
    "WriterUnits",
    "adds_bos",
    "build_model",
    "find_family",
    "has_row",
    "list_types",
    "load_tokenizer",
    "load_weights",
    "propose",
    "read_row",
    "refuse_packed",
    "require_model",
    "row_as_toml",
    "row_of",
    "with_fused_experts",
]
