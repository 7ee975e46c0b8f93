# On a new machine: `make demo` and `make test`.  Every target creates .venv if it does not exist.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
WORKERS ?= 2
# one thread per process: small kernels slow down several-fold with two
export OMP_NUM_THREADS ?= 1
export NO_MKDOCS_2_WARNING ?= 1

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
	$(MAKE) docs
	$(MAKE) test

# the generated pages are up to date with the results of the claims and of the benchmarks
fresh: $(READY)
	$(BIN)/python -m benchmarks.claims --page
	$(BIN)/python -m benchmarks.fewstep --page
	$(BIN)/python -m benchmarks.editing --page
	$(BIN)/python -m benchmarks.networks --page
	$(BIN)/python -m benchmarks.adapt --page
	$(BIN)/python -m benchmarks.compress --page
	$(BIN)/python -m benchmarks.chain --page
	$(BIN)/python -m benchmarks.controls --page
	git diff --exit-code --stat -- docs || (echo "a generated page of docs is stale; commit the new one"; exit 1)

# the documentation site, in site/; nothing is fetched, and a broken link is an error
docs: $(READY)
	$(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html, or serve it with search: python -m http.server --directory site"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
