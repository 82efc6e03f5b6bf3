PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint lock clean

# The environment; made again only when the pins change.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: .venv/.installed
	$(BIN)/python jobs/demo.py

test: .venv/.installed lint
	$(BIN)/python -m pytest

test-fast: .venv/.installed lint
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-header -o requirements.lock

clean:
	rm -rf .venv out
