# `make reproduce` and `make test` each do everything on a fresh machine: Python 3.11+ and make.
# VENV=system takes the packages of PYTHON as they are, its torch among them, and installs nothing.
PYTHON ?= python3
VENV ?= .venv
OUT ?= reproduction
LEVEL ?= quick
ifeq ($(VENV),system)
PY := $(PYTHON)
READY :=
export PYTHONPATH := $(CURDIR)
else
PY := $(VENV)/bin/python
READY := $(VENV)/installed
endif
# PyPI's torch is a CUDA build of gigabytes. Where there is no NVIDIA driver, and no other source of
# packages is set, torch comes from PyTorch's own index of CPU builds.
ifeq ($(wildcard /dev/nvidiactl /dev/dxg)$(PIP_INDEX_URL)$(PIP_EXTRA_INDEX_URL)$(PIP_FIND_LINKS),)
TORCH_INDEX ?= --extra-index-url https://download.pytorch.org/whl/cpu
endif

# Tests and ranks start Python hundreds of times, so it keeps what it has compiled.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: reproduce test test-all lint docs gpu minkowski clean

reproduce: $(READY)
	$(PY) -m launch reproduce --level $(LEVEL) --out $(OUT)

# Three tests at a time, a thread each (many wait for processes); then those that shape links, which
# nothing may disturb.
test: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not emulated"
	$(PY) -m pytest -m emulated

# Every test, those that take minutes, those against MinkowskiEngine and those of n-grams included: about
# an hour. The last lines say what was skipped, and why: without a GPU, what needs one. Chromium and
# espeak-ng come from the system's packages.
test-all: lint minkowski
	$(PY) -m pip install --quiet -c constraints.txt -e '.[ngram]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
		-m "(slow or not slow) and not emulated"
	$(PY) -m pytest -m "(slow or not slow) and emulated"

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

# The site, into build/docs.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

# On a machine with an NVIDIA GPU and a torch for CUDA: checks, then times, in 8 minutes, into
# results/gpu-NAME.json; what is done is not repeated. With DRY=1 the same lines run on a CPU, with CUDA
# imitated, in 2 minutes; what they write is no measurement.
gpu: $(READY)
ifdef DRY
	OMP_NUM_THREADS=1 $(PY) -m tests.dry_gpu --name dry --out $(or $(GPU_OUT),build/gpu)
else
	$(PY) -m tests.gpu --name $(or $(NAME),gpu) --out $(or $(GPU_OUT),results)
endif

# Set-up runs once, and again only when what is to be installed has changed.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet $(TORCH_INDEX) -c constraints.txt -e '.[mpi,test]'
	touch $@

# MinkowskiEngine from PyPI, for CPU: about 8 minutes. Needs OpenBLAS (apt-get install libopenblas-dev).
minkowski: $(READY)
	$(PY) -m pip install --quiet setuptools wheel ninja
	PATH="$(CURDIR)/$(dir $(PY)):$$PATH" MAX_JOBS=2 $(PY) -m pip install --no-build-isolation \
		--use-pep517 --no-deps --config-settings="--global-option=--blas=openblas --cpu_only" \
		MinkowskiEngine==0.5.4
	$(PY) -c "import collections, collections.abc; \
		collections.Sequence = collections.abc.Sequence; import MinkowskiEngine"

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
