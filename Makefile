# make train   install into .venv (once), then train the main job on digits; typed again, it prints the finished run
# make test    install the test tools (once), then run every test; it lists those that it skips, and why
# make lint    ruff and mypy on the project's files; yours beside them are left alone
# make docs    install mkdocs (once), then build the site of documentation: site/index.html; ARGS=serve, with its search
#
# ARGS="..." is passed on: make train ARGS="weights=log4 seed=1", make test ARGS="-k resume"

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
SOURCES := lpt scripts tests hydra_plugins train.py
RUN := $(VENV)/bin/python
# A test process each core, eight at the most; each computes with one thread.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 8 ? n : 8)))

.PHONY: train test lint docs

train: $(VENV)/.installed
	@$(RUN) train.py resume=true $(ARGS)

test: $(VENV)/.installed-test
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -rs -n $(WORKERS) --dist loadscope $(ARGS)

lint: $(VENV)/.installed-test
	@$(RUN) -m ruff check $(SOURCES) && $(RUN) -m mypy

docs: $(VENV)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs $(or $(ARGS),build --strict)

$(RUN):
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later was found. Install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	@echo "Making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(RUN)
	@echo "Installing lpt and what it needs into $(VENV); the first time this takes some minutes"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(RUN)
	@echo "Installing lpt and its test tools into $(VENV); the first time this takes some minutes"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(RUN)
	@echo "Installing lpt and mkdocs into $(VENV); the first time this takes some minutes"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@
