# Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-run

.PHONY: help install install-test demo test check format clean

help:
	@echo "make demo    train three small models, attribute every checkpoint, measure, ablate, report"
	@echo "make test    the whole test suite"
	@echo "make check   lint, types, import contracts, documentation links"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev]"
	touch $@

demo: install
	$(BIN)/gated-lpi demo --out $(OUT)

test: install install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

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
