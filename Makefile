# Needs python3 (3.11 or newer, with venv), make, and PyPI the first time; nothing else.

PYTHON ?= python3
DATA ?= cluttered_digits
ARGS ?=

# What `make run` passes besides the data set's name.
MODEL_cifar10 := --model alexnet

BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help setup run test

help:
	@echo "make run    train with a stuck bit and without, under three minutes: a table, and a figure under runs/;"
	@echo "            interrupted or repeated, it goes on from what is there"
	@echo "            DATA=cifar10 for CIFAR-10; ARGS='...' for more options, see $(BIN)/miscompute train --help"
	@echo "make test   formatting, lint, types, tests and doctests"
	@echo "make setup  install into .venv, which the other two do by themselves"
	@echo "PYTHON=...  the Python to create .venv with (now: $(PYTHON))"

setup: $(INSTALLED)

run: $(INSTALLED)
	$(BIN)/miscompute train --data $(DATA) $(MODEL_$(DATA)) --resume $(ARGS)

test: $(INSTALLED)
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# Written last, so that an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: miscompute needs 3.11 or newer; try make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv: install it (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "creating .venv: about 1.6 GB of packages (more where torch brings CUDA), a few minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]' >.venv/pip.log 2>&1 || { cat .venv/pip.log >&2; exit 1; }
	@touch $@
