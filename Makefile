# Two commands on a fresh Debian or Ubuntu: `make demo` and `make test`. Each makes .venv when it is
# needed; the stamp files inside say that it is complete, so that a second run installs nothing.

PYTHON ?= python3
APT ?= yes
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
# CUDA's build of torch, and another Triton: that of torch 2.11
REHEARSAL := .venv-rehearsal
OTHER_TRITON := 3.6.0

.PHONY: help demo test rehearse lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    generate pictures, convert, train, evaluate: runs/demo/report.html"
	@echo "make test    all tests (ARGS='tests/model -k loss' for some)"
	@echo "make rehearse   the CUDA path without a GPU (docs/rehearsal.md)"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove .venv and caches; runs/ stays"
	@echo
	@echo "PYTHON=python3.12   make .venv from another Python (3.11 or newer)"
	@echo "APT=no              never install Debian packages; print the line that would"

demo: $(VENV)/.installed
	$(RUN) -m evaluation.demo --out runs/demo $(ARGS)

test: $(VENV)/.installed-dev
	$(RUN) -m pytest $(ARGS)

rehearse: $(REHEARSAL)/.installed
	$(REHEARSAL)/bin/python -m tests.rehearsal $(ARGS)

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

# ===: not the CPU's build, whatever index PIP_EXTRA_INDEX_URL names
$(REHEARSAL)/.installed: requirements.txt install/system.sh
	@APT=$(APT) bash install/system.sh "$(PYTHON)"
	@echo "Making $(REHEARSAL), with CUDA (two to five minutes, 7 GB)"
	@"$(PYTHON)" -m venv --clear $(REHEARSAL)
	@sed -E '/^(nvidia-|ffcv|torchvision)/d; s/^torch==/torch===/' requirements.txt >$(REHEARSAL)/requirements.txt
	@$(REHEARSAL)/bin/python -m pip install -q -r $(REHEARSAL)/requirements.txt
	@$(REHEARSAL)/bin/python -m pip install -q --no-deps --target $(REHEARSAL)/triton-$(OTHER_TRITON) triton==$(OTHER_TRITON)
	@touch $@

clean:
	rm -rf $(VENV) $(REHEARSAL) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
