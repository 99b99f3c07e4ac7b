# `make` alone lists the targets. Everything runs in .venv, made once from requirements.lock.

PYTHON ?= python3
VENV := .venv
UV_VERSION := 0.13.9

BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check -qq
DEPS := $(VENV)/.lock-installed
READY := $(VENV)/.ready

# A worker that has nothing left to do takes tests of the others; tests/conftest.py says how many there are. Bytecode is
# kept though an image says otherwise: each of some hundred processes would compile the package anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal

# Sets $$py to a Python that fits: $(PYTHON), or, where nobody named one, whichever the PATH has.
CANDIDATES := $(if $(filter file,$(origin PYTHON)),$(PYTHON) python3.12 python3.11 python3.10,$(PYTHON))
PICK_PYTHON = py=; for p in $(CANDIDATES); do \
	if $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	>/dev/null 2>&1; then py=$$p; break; fi; done; \
	if [ -z "$$py" ]; then echo "error: Python 3.10, 3.11 or 3.12 (with its venv module) is needed;" \
	"$(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1). Name one: make PYTHON=/path/to/python3.12" >&2; exit 1; fi

.PHONY: help demo demo-det demo-seg demo-all demo-serve test test-fast lint fuzz onnx ray lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "PYTHON=... picks the Python that makes $(VENV) (3.10, 3.11 or 3.12)"

demo: $(READY) ## the classification demo, end to end on the CPU
	@$(BIN)/python -m ppcls_ext.cls.demo

demo-det: $(READY) ## the detection demo, end to end on the CPU (better after `make demo`)
	@$(BIN)/python -m det.demo

demo-seg: $(READY) ## the segmentation demo, end to end on the CPU
	@$(BIN)/python -m seg.demo

demo-all: $(READY) ## the three demos, one after the other
	@$(MAKE) --no-print-directory demo
	@$(MAKE) --no-print-directory demo-det
	@$(MAKE) --no-print-directory demo-seg

demo-serve: $(READY) ## the classification demo's model over HTTP (after `make demo`)
	@$(BIN)/python -m ppcls_ext.demo.serving

test: lint ## lint, types and all tests, one on each core (ARGS="-k name" is given to pytest)
	@$(PYTEST) $(ARGS)

test-fast: lint ## lint, types and the tests that are not marked slow
	@$(PYTEST) -m "not slow" $(ARGS)

lint: $(READY) ## ruff, mypy, and the layers of the packages
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

fuzz: $(READY) ## all readers on random inputs for ten minutes (ARGS="--seconds 60", ARGS=--atheris)
	@$(BIN)/python -m tests.fuzz --seconds 600 $(ARGS)

onnx: $(READY) ## OpenVINO's own package (an engine for ONNX) and pyarrow (Parquet), into .venv
	@$(BIN)/python $(PIP) install --require-hashes --no-deps -r requirements-onnx.lock

ray: $(READY) ## Ray Data, for infer --ray, into .venv
	@$(BIN)/python $(PIP) install --require-hashes --no-deps -r requirements-ray.lock

lock: ## resolve requirements*.in again (UPGRADE=1 moves every pin, without it only what must move)
	@set -e; $(PICK_PYTHON); rm -rf .venv-lock; trap 'rm -rf .venv-lock' EXIT; \
	echo "Resolving requirements.in with uv $(UV_VERSION) ..."; \
	$$py -m venv .venv-lock; \
	.venv-lock/bin/python $(PIP) install uv==$(UV_VERSION); \
	known=; for name in requirements requirements-onnx requirements-ray; do \
		.venv-lock/bin/uv pip compile $$name.in --overrides requirements-overrides.txt $$known \
			--output-file $$name.lock $(if $(UPGRADE),--upgrade) --quiet \
			--universal --python-version 3.10 --python .venv-lock/bin/python \
			--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"; \
		known="$$known --constraints $$name.lock"; \
		if grep -n '://' $$name.lock; then echo "error: $$name.lock names an address" >&2; exit 1; fi; \
	done

clean: ## remove the .venv, caches and build products (not runs/ or output/)
	@rm -rf $(VENV) .venv-lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are the last thing an install writes, so one that was broken off starts over.
$(DEPS): requirements.lock
	@set -e; $(PICK_PYTHON); rm -rf $(VENV); \
	echo "Installing the locked packages into $(VENV) with $$($$py --version): about a minute, once ..."; \
	$$py -m venv $(VENV); \
	$(BIN)/python $(PIP) install --require-hashes --no-deps -r requirements.lock; \
	touch $@

$(READY): $(DEPS) setup.py pyproject.toml
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
