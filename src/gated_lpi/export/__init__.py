"""A run's results as files for others: tables (Parquet, CSV), netCDF, and a card to share. No torch.

`tables` and `netcdf` write a checkpoint at a time, so that what is in memory does not grow with a run; `card` says in a
page what was run and found. Each returns the files that it wrote.
"""

from gated_lpi.export.card import card, write_card
from gated_lpi.export.netcdf import write_netcdf
from gated_lpi.export.tables import write_tables

__all__ = ["card", "write_card", "write_netcdf", "write_tables"]
