"""A run's report: one HTML file that opens offline, the same figures for print, and all numbers as JSON.

The report lays out what `gated_lpi.metrics` computes. For notebooks: `charts` and `heatmaps` build a chart from
summaries, scores or records by arm, `plotly_figure` and `matplotlib_figure` draw it.
"""

from gated_lpi.report import charts, heatmaps
from gated_lpi.report.arms import ArmResults, Results, load_results
from gated_lpi.report.build import ReportFiles, all_charts, build_report
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import plotly_figure
from gated_lpi.report.static import matplotlib_figure

__all__ = [
    "ArmResults",
    "Chart",
    "ReportFiles",
    "Results",
    "all_charts",
    "build_report",
    "charts",
    "heatmaps",
    "load_results",
    "matplotlib_figure",
    "plotly_figure",
]
