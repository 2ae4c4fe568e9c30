# Everything a developer or a new user runs. Needs Python 3.11 or later and make.
#   make demo    install, make up a raster, convolve it, check it, draw it
#   make test    the whole test suite
#   make soak    a thousand kills, tens of thousands of damaged files and of random sums, 4
#                gigapixels killed twenty times; two hours or three and 30 GB of disk
#   make check   ruff and mypy
#   make bench   speed beside libvips, dask-image, scipy and OpenCV, at 32768 x 32768; half an
#                hour and 12 GB of disk
#   make bench-quick
#                the same at 8192 x 8192, one round of the quicker jobs; a minute or so
#   make bench-lazy, bench-tiles, bench-cluster
#                what lazy graphs, ten million tiles and a cluster cost; minutes each

# The first Python there is that is new enough; `make PYTHON=python3.13 test` to choose.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Pip says in one line what went wrong, and nothing when nothing did.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow soak check format clean bench bench-quick bench-lazy bench-tiles bench-cluster
.DELETE_ON_ERROR:
# One environment, one pip at a time.
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow -p no:xdist

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak -n 2 --dist worksteal

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/speed.py --json out/speed.json --chart out/speed.png

bench-quick: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/speed.py --quick --side 8192 --rounds 1 \
		--json out/speed-quick.json --chart out/speed-quick.png

bench-lazy: $(VENV)/.installed
	$(BIN)/python benchmarks/lazy_graph.py

bench-tiles: $(VENV)/.installed
	$(BIN)/python benchmarks/ten_million_tiles.py

bench-cluster: $(VENV)/.installed
	$(BIN)/python benchmarks/cluster_scaling.py

check: $(VENV)/.installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "tileconv needs Python 3.11 or later; install it, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name another: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.made
	$(INSTALL) --editable ".[$*]"
	@touch $@ $(VENV)/.installed
