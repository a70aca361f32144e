# make install | test | lint | demo | clean.  Needs make and Python >= 3.11; everything else goes into .venv.
PYTHON ?= $(shell for python in python3.11 python3; do $$python -c '' 2>/dev/null && { echo $$python; break; }; done)
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install test lint demo clean

install: $(STAMP)
	@:

# torch goes first and pinned, so that a build already at hand for this machine is kept.
$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found: $(or $(PYTHON),none). Try: make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch setuptools
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# One thread a worker: two workers with two threads each would only wait for each other on two cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: install
	$(BIN)/scale bench bios --preset demo

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
