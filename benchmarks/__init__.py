"""Measurements of the certified fast estimator: `make bench`, `make bench-quick`; results in docs/benchmarks.md."""
