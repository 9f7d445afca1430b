# `make demo` and `make test` need nothing but make and Python >= 3.10: they set up .venv themselves.

PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
PIP_INSTALL := $(VENV_PYTHON) -m pip install -qq --disable-pip-version-check -c constraints.txt
# More arguments for the demo or for pytest, as in: make test ARGS="tests/envs -k delivery"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-oldest test-newest lint format docs clean

# What the oldest and the newest versions are tried with: every recipe, the command line, the pages' code, callbacks.
SMOKE := tests/run/test_old_files.py tests/test_cli.py tests/test_docs_pages.py tests/run/test_callbacks.py
SMOKE_TOOLS := pytest hypothesis tqdm minatar

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.core ## watch two preference models learn a reward from the same comparisons
	@$(VENV_PYTHON) scripts/demo.py $(ARGS)

# One thread: the tests' networks are small, and more threads only get in each other's way. Two processes, each
# with whole files, since some files have costly fixtures.
test: $(VENV)/.dev ## run the fast tests (ARGS="..." goes to pytest)
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev ## run the slow tests
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -m slow $(ARGS)

test-oldest: ## try the lowest versions that pyproject.toml allows (PYTHON=python3.11: old wheels want an older Python)
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) scripts/lowest_versions.py > .venv-oldest/lowest.txt
	.venv-oldest/bin/python -m pip install -qq --disable-pip-version-check -c .venv-oldest/lowest.txt -e . $(SMOKE_TOOLS)
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -m "not slow" $(SMOKE) $(ARGS)

test-newest: ## try the newest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -qq --disable-pip-version-check --upgrade -e . $(SMOKE_TOOLS)
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -m "not slow" $(SMOKE) $(ARGS)

# No cache for lint-imports: it does not notice that a module imported before it existed has come into being.
lint: $(VENV)/.dev ## check format, style, types and import rules
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

format: $(VENV)/.dev ## format the code and mend what ruff can mend
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

docs: $(VENV)/.dev ## build the site into docs/_build/html; a warning is an error
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m sphinx -q -b html -j 2 -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove caches and build outputs (.venv and runs/ stay)
	rm -rf docs/_build docs/reference build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps .core and .dev say what .venv holds; a change of the dependencies brings it up to date.
$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: prefrl needs Python >= 3.10, and '$(PYTHON)' is older or missing; name another, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@echo "setting up $(VENV) (once, about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) torch # alone and first, so that a torch build already at hand is taken
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "adding the tools for tests and lint to $(VENV) (once)"
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $@
