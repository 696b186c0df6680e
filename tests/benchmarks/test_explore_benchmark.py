"""The benchmark of the explorer measures every kind of click."""

from benchmarks.explore import TINY, made_up, measure


def test_the_benchmark_measures_every_page(tmp_path):
    found = measure(made_up(tmp_path / "run", TINY, 3), clicks=3)
    assert (found["units"], found["checkpoints"]) == (80, 3)
    assert found["index_bytes"] > 3 * 80 * 4 * 4
    assert len(found["ms"]) == 10
    assert all(0 < one["median"] <= one["greatest"] and one["median_cpu"] > 0 for one in found["ms"].values())
