# Two commands do all the set-up a fresh machine needs: `make search` and `make test`.
# VENV=/path/to/environment uses an existing environment as it is (nothing is installed).
SPACE ?= search_spaces/digits.yaml
PYTHON ?= python3
ARGS ?=

ifdef VENV
READY :=
else
VENV := .venv
READY := .venv/.ready
endif
BIN := $(VENV)/bin

.PHONY: help search test report train test-gpu lint bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

search: $(READY) ## search SPACE (default: the digits) and write the report; ARGS="--trials 20"
	$(BIN)/python -m harness search $(SPACE) $(ARGS)

test: $(READY) ## all tests that need no GPU
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

report: $(READY) ## write the report of STUDY again
	$(BIN)/python -m harness report $(STUDY)

train: $(READY) ## train RECIPE for production
	$(BIN)/python -m harness train $(RECIPE) $(ARGS)

test-gpu: $(READY) ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(READY) ## ruff and pyright
	$(BIN)/ruff check . && $(BIN)/pyright

bench: $(READY) ## the benchmarks (minutes; outputs under results/benchmarks/)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove the environment and caches, keep the studies
	rm -rf .venv .pytest_cache .hypothesis .ruff_cache *.egg-info

.venv/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "harness needs Python >= 3.11; set PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up .venv (about 2 minutes; once, and again when requirements change) ..."
	$(PYTHON) -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check uv setuptools
	.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e . && touch $@
