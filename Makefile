# On a new machine: `make demo` and `make test`.  Every target creates .venv if it does not exist.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
WORKERS ?= 2
# one thread per process: small kernels slow down several-fold with two
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all check fresh docs format
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/beeline demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest -q -n $(WORKERS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) fresh
	$(MAKE) test

# the generated pages are up to date
fresh: docs
	git diff --exit-code --stat -- docs || (echo "generated pages are stale; run make docs and commit the result"; exit 1)

docs: $(READY)
	PYTHONPATH=. $(BIN)/python docs/generate.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
