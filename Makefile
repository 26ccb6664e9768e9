# Tunesmith. `make demo` and `make test` do all the set-up they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPEC ?= examples/reviews-demo.json
# Twice the cores: many tests wait for a lease, a clock or a server, and others compute meanwhile.
PYTEST_WORKERS ?= 4
SELECT ?= not faults and not models
PYTEST := $(BIN)/python -m pytest
SPREAD := -n $(PYTEST_WORKERS) --dist loadscope --no-loadscope-reorder --durations=30 --durations-min=1
TUNESMITH_TENSORFLOW_VENV ?= .venv-tensorflow
TENSORFLOW_STAMP := $(TUNESMITH_TENSORFLOW_VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' requirements.lock)

ifneq ($(TUNESMITH_TENSORFLOW_VENV),.venv-tensorflow)
export TUNESMITH_TENSORFLOW_PYTHON := $(abspath $(TUNESMITH_TENSORFLOW_VENV))/bin/python
endif

.DEFAULT_GOAL := help
SHELL := bash
.PHONY: help install install-tensorflow demo test test-faults test-models test-portable test-seeds durations check up bench bench-service bench-gpu lock

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
	$(PYTEST) $(SPREAD) -m "$(SELECT)" $(PYTEST_ARGS)

test-faults: $(STAMP) $(TENSORFLOW_STAMP) ## Run the long tests in which a process, the broker, the database or a clock fails
	$(PYTEST) $(SPREAD) -m faults $(PYTEST_ARGS)

test-models: $(STAMP) ## Train real pretrained models on real data: on each engine, token labels, and a chat model of 135 M
	$(PYTEST) $(SPREAD) -m models $(PYTEST_ARGS)

# What torch, oneDNN and MKL may use of the processor; the last only where there is one.
COMMA := ,
LEVELS := default,SSE41,SSE4_2 avx2,AVX2,AVX2 $(if $(shell grep -m1 avx512f /proc/cpuinfo),avx512$(COMMA)AVX512_CORE$(COMMA)AVX512)
SEEDS ?= 20

durations: $(STAMP) $(TENSORFLOW_STAMP) ## Run all tests and record how long each takes, by which they are spread
	$(PYTEST) $(SPREAD) --record-durations $(PYTEST_ARGS)

test-portable: $(STAMP) $(TENSORFLOW_STAMP) ## Run the tests that depend on what a model computes, as on other processors
	for level in $(LEVELS); do \
	  echo "== $$level"; IFS=, read -r aten onednn mkl <<< "$$level"; \
	  ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn MKL_ENABLE_INSTRUCTIONS=$$mkl \
	    $(PYTEST) $(SPREAD) -m numeric $(PYTEST_ARGS) || exit 1; \
	done

test-seeds: $(STAMP) $(TENSORFLOW_STAMP) ## Run the tests in which a model learns, from SEEDS seeds
	for seed in $$(seq $(SEEDS)); do \
	  echo "== seed $$seed"; \
	  TUNESMITH_TEST_SEED=$$seed $(PYTEST) $(SPREAD) -m numeric -k "(learn or better) and not test_real_models" $(PYTEST_ARGS) || exit 1; \
	done

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

BENCHES ?= whole_job tasks first_step supervision

bench: $(STAMP) ## Measure, side by side with the named peers, in about 15 minutes; BENCHES="eta repair_time" runs others of bench/
	for name in $(BENCHES); do echo "== $$name"; $(BIN)/python bench/$$name.py || exit 1; done

SERVICE_BENCHES ?= api claims watchers migration downloads mixed_load

bench-service: $(STAMP) ## Measure the API, the queue and downloads with a full database, in about 40 minutes; downloads need nginx
	for name in $(SERVICE_BENCHES); do echo "== $$name"; $(BIN)/python bench/$$name.py || exit 1; done

bench-gpu: $(STAMP) ## Measure whole jobs on a GPU against scripts on the same GPU
	$(BIN)/python bench/gpu.py

lock: ## Write new lock files
	$(PYTHON) tools/lock.py
