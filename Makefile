# Two commands matter: `make run` and `make test`. Each installs what it needs into .venv first: `run` what a user
# needs, `test` also the checkers, the test tools and every extra.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
IMPORTED := arch, btcbt.forecasters.kronos, btcbt.report.figures, btcbt.walkforward.runner, vectorbt
LIGHT := $(VENV)/.installed
FULL := $(VENV)/.installed-dev

.PHONY: install run test coverage format docs bench proof matrix sbom clean

install: $(LIGHT)

# torch on its own first, so that pip's configuration decides which build (CPU or CUDA) everything else sees.
# Bytecode only of what a run imports: pip would compile five times as much.
$(LIGHT): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile torch
	$(PIP) --no-compile --editable .
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c "import $(IMPORTED)"
	touch $(LIGHT)

$(FULL): $(LIGHT)
	$(PIP) --editable ".[dev]"
	touch $(FULL)

run: install
	$(BIN)/python -m btcbt run experiments/walkforward.yaml

# Statistics and tiny networks gain nothing from threads inside a test process, so each worker gets one.
test: export OMP_NUM_THREADS = 1
test: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 -m "not proof"

# Apart from `test`, since tracing makes the tests half as slow again.
coverage: export OMP_NUM_THREADS = 1
coverage: $(FULL)
	$(BIN)/python -m pytest -n 2 -m "not proof" --cov --cov-report=term:skip-covered

format: $(FULL)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# build/site/index.html: the pages of docs/, references from the code, the notebooks as executed.
docs: $(FULL)
	$(BIN)/python -m docs.builder

# The reference goes into a folder of its own: it is upstream's code, measured, never imported by the package.
bench: install
	test -d .bench/reference/model || $(BIN)/python -m pip install --quiet --no-deps --target .bench/reference kronos-model-arch==0.1.0 einops
	$(BIN)/python benchmarks/forecast_speed.py
	$(BIN)/python benchmarks/training_speed.py --keep-memory

proof: $(FULL)
	$(BIN)/python -m pytest -m proof -s

matrix: $(FULL)
	$(BIN)/python tests/matrix.py

# The tool has an environment of its own, so that the list holds what a user installs and nothing else.
sbom: $(LIGHT)
	test -d build/sbom-tool || $(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/python -m pip install --quiet --constraint constraints.txt cyclonedx-bom
	build/sbom-tool/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.json $(BIN)/python

clean:
	rm -rf $(VENV) build runs .pytest_cache .mypy_cache .ruff_cache .coverage*
