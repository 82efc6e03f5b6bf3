PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TARGET ?= cpu
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint lock image clean report-assets browser blender blender-check

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

test: .venv/.installed lint browser blender
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

# Blender as a Python module for the tests that open meshes in it, in an environment of its own: it wants other versions
# of what we use. Where its libraries are missing, Debian's packages bring them.
BLENDER := .venv-blender
BPY := 4.5.15
X_LIBRARIES := libxrender1 libxi6 libxkbcommon0 libsm6 libgl1 libxxf86vm1 libxfixes3 libegl1
OPENS := $(BLENDER)/bin/python -c "import bpy"

$(BLENDER)/.installed-$(BPY): | .venv/.installed
	$(BIN)/uv venv --quiet --clear --python 3.11 $(BLENDER)
	VIRTUAL_ENV=$(BLENDER) $(BIN)/uv pip install --quiet bpy==$(BPY)
	$(OPENS) 2>/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
		|| { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(X_LIBRARIES) >/dev/null; }
	$(OPENS)
	touch $@

blender: .venv/.installed
	@$(MAKE) --no-print-directory $(BLENDER)/.installed-$(BPY) || echo "no Blender: its tests are skipped"

# Whether Blender shows the meshes that we write: upright, at true size, with texture and smooth.
blender-check: .venv/.installed $(BLENDER)/.installed-$(BPY)
	$(BIN)/python -m pytest tests/test_blender.py

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
	rm -rf .venv $(BLENDER) out
