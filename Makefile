# make install | test | test-lowest | test-newest | test-wheel | test-common | mutants | lint | audit | demo | docs | clean.
# Needs make and Python >= 3.11; everything else goes into a virtual environment here.
PYTHON ?= $(shell for python in python3.11 python3; do $$python -c '' 2>/dev/null && { echo $$python; break; }; done)
WORKERS ?= 2
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# What pip is asked for first, so that a build already at hand for this machine is kept.
TORCH ?= torch
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) $(UPGRADE)

.PHONY: install test test-lowest test-newest test-wheel test-common mutants lint audit demo docs clean

install: $(STAMP)
	@:

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found: $(or $(PYTHON),none). Try: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH) setuptools
	$(PIP) --no-build-isolation -e '.[dev]' $(TORCH)
	@touch $@

# One thread per worker: two workers with two threads each would only wait for each other on two cores. Each worker takes
# neighbouring tests, which share trained runs.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The tests on the oldest releases that pyproject.toml allows.
test-lowest:
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt

# The tests on the newest releases of today. TORCH=torch==... keeps to a build of torch.
test-newest:
	rm -f .venv-newest/.installed
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=/dev/null UPGRADE='--upgrade --upgrade-strategy eager' TORCH='$(TORCH)'

# The wheel in an environment of its own, every command from a folder outside the checkout.
test-wheel: install
	rm -rf build dist .venv-wheel
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation -w dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) $(TORCH) dist/*.whl
	$(BIN)/python -m tests.installed .venv-wheel

# The common model tests of transformers, from its source distribution, on the SCALE methods.
test-common: install
	$(BIN)/python -m tests.common

# Do the tests fail if the code is wrong? A random sample of mutants; again until all are tested.
mutants: install
	$(PIP) 'mutmut>=3.8,<4'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants
	$(BIN)/mutmut results | grep -v 'not checked'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/deptry tests --exclude '^$$' --ignore DEP002,DEP004

# Known vulnerabilities in the pinned releases, from the advisories of the package index.
audit:
	test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install \
		--disable-pip-version-check 'pip-audit>=2.9,<3'; }
	.venv-audit/bin/pip-audit --requirement $(CONSTRAINTS) --no-deps --disable-pip

demo: install
	$(BIN)/scale bench bios --preset demo

# The pages of docs/ as a site in site/, in an environment of its own.
docs: install
	test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/python -m pip install \
		--disable-pip-version-check 'mkdocs-material>=9.7,<10'; }
	.venv-docs/bin/mkdocs build --strict

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-wheel .venv-docs .venv-audit site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants
