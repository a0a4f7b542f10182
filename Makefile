# Two commands matter: `make serve` and `make test`. Both set up what they need in .venv with plain pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Spinning threads slow each other where programs share cores.
export GOMP_SPINCOUNT ?= 0

.PHONY: serve test train lint format bench bench-serving bench-batch bench-quality bench-recipes setup-serve setup-train clean

serve: setup-serve
	$(BIN)/stancewire serve

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

train: setup-train
	$(BIN)/stancewire train configs/train/default.yaml

lint: setup-train
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup-train
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-train
	$(BIN)/python -m benchmarks.engine

bench-serving: setup-train
	$(BIN)/python -m pip install --quiet 'litserve>=0.2.19,<0.3'
	$(BIN)/python -m benchmarks.serving --out docs/serving.png
	$(BIN)/python -m benchmarks.serving.layouts
	$(BIN)/python -m benchmarks.serving.layers

bench-batch: setup-train
	$(BIN)/python -m benchmarks.batch --out docs/batch.png
	$(BIN)/python -m benchmarks.batch.memory

bench-quality: setup-train
	$(BIN)/python -m benchmarks.quality

bench-recipes: setup-train
	$(BIN)/python -m benchmarks.recipes

setup-serve: $(VENV)/.serve
setup-train: $(VENV)/.train

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Stancewire needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[registry]'
	@touch $@

# torch goes first and by exact version: left to the resolver, a newer and far larger build may come.
$(VENV)/.train: pyproject.toml requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[registry,train,ray]' -r requirements-dev.txt
	@touch $@ $(VENV)/.serve

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
