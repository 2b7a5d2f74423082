# Two commands on a fresh Debian or Ubuntu: `make demo` and `make test`. Each makes .venv when it is
# needed; the stamp files inside say that it is complete, so that a second run installs nothing.

PYTHON ?= python3
APT ?= yes
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    generate pictures, convert, train, evaluate: runs/demo/report.html"
	@echo "make test    all tests (ARGS='tests/model -k loss' for some)"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove .venv and caches; runs/ stays"
	@echo
	@echo "PYTHON=python3.12   make .venv from another Python (3.11 or newer)"
	@echo "APT=no              never install Debian packages; print the line that would"

demo: $(VENV)/.installed
	$(RUN) -m evaluation.demo --out runs/demo $(ARGS)

test: $(VENV)/.installed-dev
	$(RUN) -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/.installed: requirements.txt install/system.sh install/packages.sh
	@APT=$(APT) bash install/system.sh "$(PYTHON)"
	@bash install/packages.sh "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing requirements-dev.txt into $(VENV)"
	@$(RUN) -m pip install -q -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
