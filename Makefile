# Tunesmith. `make demo` and `make test` do all the set-up they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPEC ?= examples/reviews-demo.json
PYTEST_WORKERS ?= 2
TUNESMITH_TENSORFLOW_VENV ?= .venv-tensorflow
TENSORFLOW_STAMP := $(TUNESMITH_TENSORFLOW_VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' requirements.lock)

ifneq ($(TUNESMITH_TENSORFLOW_VENV),.venv-tensorflow)
export TUNESMITH_TENSORFLOW_PYTHON := $(abspath $(TUNESMITH_TENSORFLOW_VENV))/bin/python
endif

.DEFAULT_GOAL := help
.PHONY: help install install-tensorflow demo test test-faults test-models check up bench lock

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-26s %s\n", $$1, $$2}'

install: $(STAMP) ## Create .venv with the exact versions of requirements.lock

# torch goes first and alone, with what its own build needs; nothing after it may move it.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

install-tensorflow: $(TENSORFLOW_STAMP) ## Create .venv-tensorflow, for the engine tensorflow

# An environment of its own: the transformers that has TensorFlow classes needs older packages than ours.
$(TENSORFLOW_STAMP): requirements-tensorflow.lock
	test -x $(TUNESMITH_TENSORFLOW_VENV)/bin/python || $(PYTHON) -m venv $(TUNESMITH_TENSORFLOW_VENV)
	$(TUNESMITH_TENSORFLOW_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-tensorflow.lock
	touch $(TENSORFLOW_STAMP)

demo: $(STAMP) ## Train on real reviews, end to end; SPEC=file runs another job
	$(BIN)/python tools/demo.py $(SPEC)

test: $(STAMP) $(TENSORFLOW_STAMP) ## Run the tests, with real servers and processes; the long ones are `make test-faults` and `make test-models`
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not faults and not models" $(PYTEST_ARGS)

test-faults: $(STAMP) $(TENSORFLOW_STAMP) ## Run the long tests in which a process, the broker, the database or a clock fails
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m faults $(PYTEST_ARGS)

test-models: $(STAMP) ## Train real pretrained models on real data: token labels, and a chat model of 135 M
	$(BIN)/python -m pytest -m models $(PYTEST_ARGS)

check: $(STAMP) ## Lint, types, layers, migrations, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/python tools/check_migrations.py
	$(BIN)/python tools/check_docs.py

up: $(STAMP) ## Start the service on this machine
	$(BIN)/tunesmith up

bench: $(STAMP) ## Measure, side by side with the named peers
	for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lock: ## Write the lock files anew
	$(PYTHON) tools/lock.py
