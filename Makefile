PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TARGET ?= cpu
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint lock image clean report-assets browser

# The environment; made again only when the pins change. Compiled, because every process of a Ray job would compile
# what it imports where Python is told not to write bytecode: seconds in each.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: .venv/.installed
	$(BIN)/python jobs/demo.py

test: .venv/.installed lint browser
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: .venv/.installed lint browser
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the report's tests use where it can be had: a browser, and npm's packages (the glTF validator, esbuild).
browser:
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
		|| { apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } || echo "no Chromium: its tests are skipped"
	@! command -v npm >/dev/null || $(MAKE) --no-print-directory $(WEB)/node_modules/.installed \
		|| echo "no npm packages: their tests are skipped"

WEB := raylib/report/web

$(WEB)/node_modules/.installed: $(WEB)/package-lock.json
	cd $(WEB) && npm ci --no-audit --no-fund --loglevel=error
	touch $@

# The script of the report, built from raylib/report/web and committed, so that users need no npm.
report-assets: $(WEB)/node_modules/.installed
	cd $(WEB) && npm run --silent build

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-header -o requirements.lock

# TARGET=gpu for machines with one.
image:
	@for engine in docker podman; do \
		if $$engine info >/dev/null 2>&1; then \
			exec $$engine build --file k8s/Dockerfile --target $(TARGET) --tag physface:$(VERSION)-$(TARGET) .; \
		fi; \
	done; \
	echo "make image: neither docker nor podman answers on this machine; install and start one of them" >&2; \
	exit 1

clean:
	rm -rf .venv out
