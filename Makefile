# Every target sets up .venv by itself; a fresh machine needs only Python 3.11 or later, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: help demo test check format bench bench-wsi bench-mil bench-features mutants clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole pipeline on the sample cohort, to a report (into ./$(DEMO))"
	@echo "make test    the tests"
	@echo "make check   formatting, lint, types, import rules, spelling"
	@echo "make mutants small mistakes on purpose, to see that the tests notice (an hour)"
	@echo "make bench   the benchmarks, as ratios to limits measured in the same run"

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than Python 3.11: set PYTHON=python3.11 or later"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/gigamil demo --out $(DEMO)

test: $(VENV)/.installed
	@$(BIN)/python -m pytest -n auto --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-wsi bench-features bench-mil

bench-wsi: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_wsi.py

bench-features: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_features.py

bench-mil: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_mil.py

mutants: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.3'
	$(BIN)/python tests/mutants/run.py

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
