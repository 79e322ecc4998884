# `make reproduce` and `make test` each do everything on a fresh machine: Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= reproduction
LEVEL ?= quick

.PHONY: reproduce test lint clean

reproduce: .venv/installed
	$(BIN)/python -m launch reproduce --level $(LEVEL) --out $(OUT)

test: lint
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Set-up runs once, and again only when what is to be installed has changed.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mpi,test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
