# `make reproduce` and `make test` each do everything on a fresh machine: Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= reproduction
LEVEL ?= quick

.PHONY: reproduce test test-all lint docs sanitize minkowski clean

reproduce: .venv/installed
	$(BIN)/python -m launch reproduce --level $(LEVEL) --out $(OUT)

# Three tests at a time, a thread each (many wait for processes); then those that shape links, which
# nothing may disturb.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not emulated"
	$(BIN)/pytest -m emulated

# Every test, those that take minutes and those against MinkowskiEngine included: about an hour. The
# last lines say what was skipped, and why. Chromium and espeak-ng come from the system's packages.
test-all: lint minkowski
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder \
		-m "(slow or not slow) and not emulated"
	$(BIN)/pytest -m "(slow or not slow) and emulated"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, into build/docs.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# On a machine with a GPU: the verification kernels under CUDA's memory checker.
sanitize: .venv/installed
	compute-sanitizer --error-exitcode 1 --target-processes all \
		$(BIN)/python -m pytest -q tests/speculative/verification/test_cuda.py -k "gpu or graph"

# Set-up runs once, and again only when what is to be installed has changed.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mpi,test]'
	touch $@

# MinkowskiEngine from PyPI, for CPU: about 8 minutes. Needs OpenBLAS (apt-get install libopenblas-dev).
minkowski: .venv/installed
	$(BIN)/python -m pip install --quiet setuptools wheel ninja
	PATH="$(CURDIR)/$(BIN):$$PATH" MAX_JOBS=2 $(BIN)/python -m pip install --no-build-isolation \
		--use-pep517 --no-deps --config-settings="--global-option=--blas=openblas --cpu_only" \
		MinkowskiEngine==0.5.4
	$(BIN)/python -c "import collections, collections.abc; \
		collections.Sequence = collections.abc.Sequence; import MinkowskiEngine"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
