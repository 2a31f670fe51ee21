# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv; a machine needs Python 3.11 or newer, pip and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Where PyTorch's CPU build lies; on Linux, PyPI alone would bring gigabytes of CUDA. Empty: PyPI's.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# The release of PyTorch that is run, also at both ends of the ranges: no other CPU build is at hand
# everywhere. Name one to run it: make test-lowest TORCH=torch==2.3.0
TORCH ?= torch==2.13.0
INSTALL_TORCH = install $(if $(TORCH_INDEX),--retries 1 --extra-index-url $(TORCH_INDEX)) $(TORCH)
WORKERS ?= 2
ARGS ?=

# Only what .venv holds is used.
unexport PYTHONPATH
unexport PYTHONHOME

.DEFAULT_GOAL := help
EXTRAS := torch,jax,sklearn,report,postgres,privacy
# What the ends of the ranges are tried on: all that computes, stores, speaks and prints, without slow
# tests, those that kill processes, and those that measure privacy. RANGES='tests/cli' names others.
RANGES ?= $(addprefix tests/,aggregation algorithms data laws local pipeline plan sampling secagg \
	store tasks transport web) $(filter-out %/test_house.py,$(wildcard tests/test_*.py))

# What most changes break first.
QUICK ?= $(addprefix tests/,aggregation algorithms local metrics pipeline plan sampling) \
	$(filter-out %/test_goldens.py %/test_from_scratch.py,$(wildcard tests/test_*.py))

.PHONY: help venv run test quick test-lowest test-newest audit chaos check fix cover bench docs budget release clean

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 21
	@echo
	@echo "  make test ARGS='-k scaffold'   passes ARGS on to pytest; WORKERS=8 runs eight at once"

venv: $(VENV)/.dev ## create .venv with every extra and the tools of development

run: $(VENV)/.run ## train a federated digits model in demo/, next to its baselines, with a report
	@test -e demo/plan.py || $(BIN)/muster new digits demo
	$(BIN)/muster run demo/plan.py --baselines
	$(BIN)/muster report

test: $(VENV)/.dev ## run every test, doctests included
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

quick: $(VENV)/.dev ## run what most changes break first
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow" $(QUICK) $(ARGS)

test-lowest: .venv-lowest/.ready ## run the tests on the lowest releases that the ranges admit, in .venv-lowest
	.venv-lowest/bin/python -m pytest -n $(WORKERS) -m "not slow" $(RANGES) $(ARGS)

test-newest: .venv-newest/.ready ## the same on the newest that the index has, in .venv-newest
	.venv-newest/bin/python -m pytest -n $(WORKERS) -m "not slow" $(RANGES) $(ARGS)

audit: .venv-audit/.ready ## ask the public databases for known holes in what is pinned (needs the network)
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

chaos: $(VENV)/.dev ## kill runs and federations at 500 random instants each, and compare the bits
	MUSTER_KILLS=500 $(BIN)/python -m pytest -n $(WORKERS) tests/chaos $(ARGS)

check: $(VENV)/.dev ## format, lint, types, house rules: what a change must pass besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/check.py

fix: $(VENV)/.dev ## format, and mend what the linter can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check .

cover: $(VENV)/.dev ## run every test with coverage of branches; fail below the floors of tools/cover.py
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=json:.coverage.json $(ARGS)
	$(BIN)/python tools/cover.py .coverage.json

bench: $(VENV)/.dev ## measure speed and memory against a hand-written loop; write bench/RESULTS.md
	$(BIN)/python -m bench

docs: $(VENV)/.dev ## check the links and the Python blocks of every page
	$(BIN)/python tools/docs.py

budget: $(VENV)/.dev ## print the lines of code by floor against their ceilings
	$(BIN)/python tools/budget.py

release: $(VENV)/.dev ## build dist/ from what git knows, and install and try the wheel by itself
	$(BIN)/python tools/release.py

clean: ## remove the environments, builds and caches; runs/ and demo/ stay
	rm -rf $(VENV) .venv-audit .venv-lowest .venv-newest build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests tools examples bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Tools of development are the pinned ones in both: they differ in what muster stands on alone.
# PyTorch is the one that is run everywhere; of it the ranges promise no more (see pyproject.toml).
.venv-lowest/.ready .venv-newest/.ready: pyproject.toml constraints.txt tools/ranges.py
	@$(MAKE) --no-print-directory VENV=$(@D) $(@D)/bin/python
	@$(@D)/bin/python -m pip install --quiet packaging
	@echo "installing muster with its $(@D:.venv-%=%) dependencies in $(@D) (minutes, once)"
	@$(@D)/bin/python tools/ranges.py tools >$(@D)/constraints.txt
	@echo '$(TORCH)' >>$(@D)/constraints.txt
	@$(if $(filter .venv-lowest,$(@D)),$(@D)/bin/python tools/ranges.py lowest | grep -v '^torch==' >>$(@D)/constraints.txt)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet $(INSTALL_TORCH)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade \
		--upgrade-strategy eager -c $(@D)/constraints.txt -e '.[$(EXTRAS),dev]'
	@touch $@

.venv-audit/.ready:
	@$(MAKE) --no-print-directory VENV=$(@D) $(@D)/bin/python
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install pip-audit
	@touch $@

# Where Python comes without ensurepip (Debian), the pip of the machine fills the environment.
$(BIN)/python:
	@echo "creating $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; name one: make PYTHON=python3.12")'
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install --quiet pip; fi

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing muster"
	@$(PIP) install -c constraints.txt -e '.[sklearn,report]'
	@touch $@

# PyTorch alone first: no other requirement gets to choose its build.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing PyTorch, then muster with every extra (minutes, once)"
	@$(PIP) $(INSTALL_TORCH) -c constraints.txt
	@$(PIP) install -c constraints.txt -e '.[dev,torch,jax,sklearn,service]'
	@touch $@ $(VENV)/.run
