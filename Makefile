# Every target sets up .venv by itself; a fresh machine needs only Python 3.11 or later, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
# Versions that the tests have passed with; CONSTRAINTS= takes whatever pyproject.toml allows.
CONSTRAINTS ?= $(wildcard constraints.txt)
# The newest Python on this machine: pyenv's, too. Pre-releases only where they are named.
NEWEST ?= $(shell for v in 3.15 3.14 3.13 3.12 3.11; do \
	for p in $$(command -v python$$v) $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$v.*/bin/python 2>/dev/null | sort -V | tail -1); do \
	$$p -c 'import sys; sys.exit(sys.version_info.releaselevel != "final")' 2>/dev/null && echo $$p && exit; done; done)
DEVICE ?= cuda
TORCH_INDEX ?=
# The tests start hundreds of processes: without bytecode on the disk each of them compiles the packages anew.
unexport PYTHONDONTWRITEBYTECODE
# What `make test-newest` runs, where not all of it.
TESTS ?=
TSC := npx --yes -p typescript@5.9.3 tsc
# One more than there are cores: tests wait for browsers and other processes a fifth of their time.
PYTEST := -m pytest -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder
# What needs no other process, no training and no cluster: formats, geometry, pixels, metrics, texts.
QUICK := tests/wsi/cohort tests/wsi/pixels tests/wsi/readers/test_resolution.py tests/wsi/store/test_grid.py \
	tests/wsi/store/test_shards.py tests/wsi/store/test_store.py tests/wsi/store/test_store_metadata.py \
	tests/wsi/tissue/test_roi.py tests/features/bags tests/features/extraction/test_feature_plan.py \
	tests/mil/targets/test_metrics.py tests/test_docs.py

.PHONY: help setup demo test test-quick test-slow test-newest coverage check check-js format docs constraints bench bench-wsi bench-mil bench-train bench-scale image \
	bench-features bench-gpu bench-learned wheelhouse mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make setup       the environment in $(VENV), and no more"
	@echo "make demo        the whole pipeline on the sample cohort, to a report (into ./$(DEMO))"
	@echo "make test        the tests"
	@echo "make test-quick  those that take less than a minute together"
	@echo "make test-slow   those that take minutes"
	@echo "make test-newest the tests with the newest Python here and the newest of every dependency"
	@echo "make coverage    the tests, and which lines they never run (into ./htmlcov)"
	@echo "make check       formatting, lint, types, import rules, spelling"
	@echo "make format      formatting, and what lint can mend"
	@echo "make docs        the documentation as a site (into ./site)"
	@echo "make constraints writes constraints.txt: the versions in $(VENV)"
	@echo "make mutants     small mistakes on purpose, to see that the tests notice (an hour)"
	@echo "make image       a container, by docker or podman (DEVICE=cpu TORCH_INDEX=... without a GPU)"
	@echo "make bench-train training from disk: until the first step, an epoch, bytes, memory, open files"
	@echo "make bench-scale from one slide and worker to a cluster: what grows, and what would be in the way first (half an hour)"
	@echo "make bench-learned formulas: pictures per second; and what a network that learned from them knows (half an hour)"
	@echo "make bench       the benchmarks, as ratios to limits measured in the same run"
	@echo "make bench-gpu   what only a GPU can show: exactness, processes, speed, training (about ten minutes)"
	@echo "make wheelhouse  the wheels that a machine without a network needs (into ./wheelhouse; FOR=3.12 HAVE=freeze.txt)"

$(VENV)/.installed: pyproject.toml hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11: set PYTHON=python3.11 or later"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]' $(CONSTRAINTS:%=-c %) || { test -n "$(CONSTRAINTS)" && \
		echo "not with the versions of $(CONSTRAINTS): trying those that pyproject.toml allows" && $(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'; }
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true # by all cores, where pip takes one
	@touch $@

setup: $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/gigamil demo --out $(DEMO)

test: $(VENV)/.installed
	@$(BIN)/python $(PYTEST)

test-quick: $(VENV)/.installed
	@$(BIN)/python $(PYTEST) $(QUICK)

test-slow: $(VENV)/.installed
	@$(BIN)/python $(PYTEST) -m 'slow and not gpu' --timeout 3600

test-newest:
	@test -n "$(NEWEST)" || { echo "make: no Python 3.11 or later found: set NEWEST=python3.14, say"; exit 2; }
	@echo "$(NEWEST), the newest of every dependency, in $(VENV)-newest"
	@test -x $(VENV)-newest/bin/python || $(NEWEST) -m venv $(VENV)-newest
	@$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager pip -e '.[dev]'
	@$(VENV)-newest/bin/python $(PYTEST) $(TESTS)

coverage: $(VENV)/.installed
	@$(BIN)/python $(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@$(MAKE) --no-print-directory check-js

# The front end's types stand in JSDoc. Nothing needs node: without it, or without a network for npx, this is left out.
check-js:
	@command -v npx > /dev/null && $(TSC) --version > /dev/null 2>&1 || { echo "check-js: left out (no node, or TypeScript cannot be fetched)"; exit 0; }; \
		echo "tsc -p wsi/viewing/frontend" && $(TSC) -p wsi/viewing/frontend

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.docs: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet -e '.[docs]' $(CONSTRAINTS:%=-c %)
	@touch $@

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet && echo "site/index.html"

constraints: $(VENV)/.installed $(VENV)/.docs
	@$(BIN)/python .ci/constraints.py > constraints.new && mv constraints.new constraints.txt

bench: bench-wsi bench-features bench-mil bench-train

bench-wsi: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_wsi.py
	$(BIN)/python tests/benchmarks/bench_page.py

bench-features: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_features.py

bench-mil: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_mil.py

bench-train: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/bench_train.py

bench-gpu: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_gpu.py

bench-learned: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_formulas.py
	PYTHONPATH=tests/benchmarks $(BIN)/python tests/benchmarks/bench_learned.py $(if $(wildcard $(DEMO)/stores),--cohort $(DEMO))

wheelhouse: $(VENV)/.installed
	@$(BIN)/python .ci/wheelhouse.py $(FOR:%=--python %) $(HAVE:%=--have %)

bench-scale: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_scale.py

image:
	$(shell command -v docker || command -v podman || echo docker) build --build-arg DEVICE=$(DEVICE) --build-arg TORCH_INDEX=$(TORCH_INDEX) --tag gigamil:$(DEVICE) .

mutants: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.3'
	$(BIN)/python tests/mutants/run.py

clean:
	rm -rf $(VENV) $(VENV)-newest $(DEMO) wheelhouse bench-gpu site htmlcov .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
