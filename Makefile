# Two commands matter: `make run` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install run test format bench proof clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

run: install
	$(BIN)/python -m btcbt run experiments/walkforward.yaml

# Statistics and tiny networks gain nothing from threads inside a test process, so each worker gets one.
test: export OMP_NUM_THREADS = 1
test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not proof" --cov --cov-report=term:skip-covered

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The reference goes into a folder of its own: it is upstream's code, measured, never imported by the package.
bench: install
	test -d .bench/reference/model || $(BIN)/python -m pip install --quiet --no-deps --target .bench/reference kronos-model-arch==0.1.0 einops
	$(BIN)/python benchmarks/forecast_speed.py
	$(BIN)/python benchmarks/training_speed.py --keep-memory

proof: install
	$(BIN)/python -m pytest -m proof -s

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .coverage*
