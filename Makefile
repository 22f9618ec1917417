# `make demo` and `make test` work on a machine with nothing but Python 3.11+, make and a package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The installation links every module, so it is made again when the list of modules changes.
LIST := $(shell ls */*.py */templates/* 2>/dev/null | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed-$(LIST)
WITH_TESTS := $(VENV)/.with-tests-$(LIST)

.PHONY: demo test lint weights pictures notebooks bench fuzz pip-audit clean

demo: $(INSTALLED)
	$(BIN)/conceptatlas demo --out atlas-demo

test: $(WITH_TESTS)
	$(BIN)/python -m pytest

lint: $(WITH_TESTS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --level error

weights: $(INSTALLED)
	$(BIN)/python -m conceptatlas.demo.train

# Needs a browser: CHROMIUM=/path/to/chromium, else /usr/bin/chromium.
pictures: $(WITH_TESTS)
	$(BIN)/conceptatlas demo --out atlas-demo --recursion auto
	$(BIN)/python docs/pictures.py atlas-demo/run-cnn

notebooks: $(WITH_TESTS)
	$(BIN)/python -m pytest -m slow tests/notebooks

bench: $(WITH_TESTS)
	for script in benchmarks/*.py; do PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python $$script --quick || exit 1; done

fuzz: $(WITH_TESTS)
	CONCEPTATLAS_FUZZ_SECONDS=600 $(BIN)/python -m pytest -m slow tests/security

# Asks the package index whether any installed dependency has a known flaw.
pip-audit: $(WITH_TESTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --skip-editable

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# `build-essential` is not needed: every dependency comes as a wheel.
$(INSTALLED): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(WITH_TESTS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) atlas-demo build *.egg-info
