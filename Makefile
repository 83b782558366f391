# Two commands do all the set-up a fresh machine needs: `make search` and `make test`.
# VENV=/path/to/environment uses that environment as it is; VENV=system the python3 on PATH.
SPACE  ?= search_spaces/digits.yaml
STUDY  ?= results/$(basename $(notdir $(SPACE)))
RECIPE ?= $(STUDY)/best/knee.yaml
PYTHON ?= python3
ARGS   ?=

ifeq ($(VENV),)
READY := .venv/.ready
RUN   := .venv/bin/python
else ifeq ($(VENV),system)
RUN   := $(PYTHON)
else
RUN   := $(VENV)/bin/python
endif

.PHONY: help search test test-long test-lowest chaos report train test-gpu wheel lint bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

search: $(READY) ## search SPACE (default: the digits) and write its report; ARGS="--trials 20"
	$(RUN) -m harness search $(SPACE) $(ARGS)

test: $(READY) ## all tests that need no GPU and no minutes each, a file of them per core
	PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest -m "not gpu and not long" --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

chaos: $(READY) ## kill, tear and refuse a search at every file operation, and its processes (hours)
	$(RUN) -m tests.chaos $(ARGS)

report: $(READY) ## write the report of STUDY again (default: the study of SPACE)
	$(RUN) -m harness report $(STUDY) $(ARGS)

train: $(READY) ## train RECIPE for production (default: the knee of STUDY)
	$(RUN) -m harness train $(RECIPE) $(ARGS)

test-long: $(READY) ## the tests in which parts of a real cluster die (minutes)
	$(RUN) -m pytest -m long $(ARGS)

test-lowest: $(READY) ## all tests with the lowest versions that pyproject.toml states
	$(RUN) -m uv venv --quiet --clear --python $(RUN) build/lowest
	$(RUN) -m uv pip install --quiet --compile-bytecode --python build/lowest/bin/python --resolution lowest-direct -e ".[dev]"
	$(MAKE) test VENV=build/lowest

test-gpu: $(READY) ## the tests that need a GPU
	$(RUN) -m pytest -m gpu $(ARGS)

wheel: $(READY) ## dist/: a wheel that works from any folder
	rm -rf build/lib build/bdist.* *.egg-info dist
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

lint: $(READY) ## ruff (rules and format) and pyright
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m pyright --pythonpath $$(command -v $(RUN))

BENCHMARKS ?= overhead worth_it
bench: $(READY) ## the benchmarks (minutes; they write under results/benchmarks/)
	@$(RUN) -c "import ray.tune" 2>/dev/null || $(RUN) -m pip install --quiet "ray[tune]"
	for name in $(BENCHMARKS); do $(RUN) benchmarks/$$name.py || exit 1; done

docs: $(READY) ## the documentation, as build/docs/html/index.html
	@$(RUN) -c "import furo, myst_parser" 2>/dev/null || $(RUN) -m pip install --quiet furo myst-parser sphinx
	$(RUN) docs/generate.py && $(RUN) -m sphinx --fail-on-warning --keep-going --quiet --fresh-env --conf-dir docs . build/docs/html

clean: ## remove the environment and the caches, keep the studies
	rm -rf .venv .pytest_cache .hypothesis .ruff_cache build dist *.egg-info

# uv installs in a third of the time; where it is not to be had, or fails, pip does the same. Both compile the packages:
# else each process compiles them again where PYTHONDONTWRITEBYTECODE is set.
PIP  := .venv/bin/python -m pip --disable-pip-version-check install
LOCK := --require-hashes -r requirements.lock

.venv/.ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "harness needs Python >= 3.11, and $(PYTHON) is not. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv from requirements.lock (once, and again when it changes; minutes, by the network) ..."
	$(PYTHON) -m venv --clear .venv
	@$(PIP) --quiet uv || echo "No uv here: pip installs, which takes longer."
	@if .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python $(LOCK); then :; else $(PIP) $(LOCK); fi
	@$(PIP) --quiet --no-deps --no-build-isolation -e . && touch $@ && echo ".venv is ready."
