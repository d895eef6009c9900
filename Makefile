# Needs Python (>= 3.10) and make; everything else is installed into $(VENV). Tests and demo bring their own Postgres.
PYTHON ?= python3
VENV   ?= .venv
LOWEST ?= .venv-lowest
BIN    := $(VENV)/bin
# One more than cores: tests also wait, for servers and for processes that they kill.
WORKERS ?= 3
SOAK_SECONDS ?= 600
SOAK_SEED ?=
# Or each of hundreds of processes would compile LangGraph anew, where the environment forbids to keep compiled modules.
export PYTHONDONTWRITEBYTECODE =
PYTEST := -m pytest -q -rs -n $(WORKERS) --dist worksteal

.PHONY: test check lint types layers demo bench soak test-lowest clean

test: lint types layers  ## everything that must hold before a change is merged
	$(BIN)/python $(PYTEST)

check: lint types layers  ## the fast inner loop: no long property tests
	$(BIN)/python $(PYTEST) -x --ff -m "not slow" --ignore tests/test_examples.py --ignore tests/test_docs.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

layers: $(VENV)/.ready
	$(BIN)/lint-imports

demo: $(VENV)/.ready  ## the scripted chat, through real processes, on SQLite and on Postgres
	$(BIN)/python examples/demo.py

bench: $(VENV)/.ready  ## all workloads against the official savers, with charts
	$(BIN)/python -m benchmarks all --json benchmarks/results/latest.json
	$(BIN)/python -m benchmarks charts

soak: $(VENV)/.ready  ## a mixed load with random faults on both databases, for SOAK_SECONDS; SOAK_SEED repeats one
	$(BIN)/python -m tests.faults.soak --seconds $(SOAK_SECONDS) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

test-lowest: $(LOWEST)/.ready  ## the tests on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python $(PYTEST)

$(VENV)/.ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group dev
	touch $@

$(LOWEST)/.ready: pyproject.toml $(VENV)/.ready
	test -x $(LOWEST)/bin/python || $(BIN)/python -m venv $(LOWEST)
	$(BIN)/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct pyproject.toml -o $(LOWEST)/lowest.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --editable . --group dev --constraints $(LOWEST)/lowest.txt
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
