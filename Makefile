# make demo and make test need nothing but Python 3.10 or newer: each makes .venv, installs into it, and does its job.
#
#   make demo      an analytic scene becomes photos, the photos become a surface, a report compares it with the truth
#                  DEMO_SECONDS=30 make demo   trains for 30 seconds only; DEMO_STEPS=300 make demo, for 300 steps
#   make test      every test that takes seconds; those that need a GPU or the real captures skip where there are none
#   make nightly   the tests that take minutes, without the checks of types that slow down small steps
#   make as-on-a-gpu  tests the GPU's kernels and control flow on one thread of the CPU
#   make lint      ruff and pyright
#   make bench     the benchmarks, their JSON and the table in docs/benchmarks.md
#   make docs-check  the examples inside the documentation, and that its benchmark table is the one of the JSON
#   make docs      the documentation as a website, in build/site; every warning is an error
#   make package   the wheel and the source distribution, in dist
#   make clean     removes .venv and what was built; run folders stay

PYTHON ?= python3
BIN := .venv/bin
# Tests of primitives that need no capacity on a GPU, and of what is made of them.
GPU_TESTS := rasterize interpolate texture antialias surface_rendering compat_nvdiffrast hash_encoding grid_lookup grid_surface frequency_encoding \
    spherical_harmonics mlp compositing distortion contraction adam fields encodings ray_operations topology
# PyTorch's threads sleep while they wait for each other. Spinning, they take the cores from every other thread, their own included.
export OMP_WAIT_POLICY ?= PASSIVE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 120 -c constraints.txt

.PHONY: demo test as-on-a-gpu nightly lint bench docs-check docs package clean

demo: .venv/.installed
	$(BIN)/unrender demo $(if $(DEMO_STEPS),--steps $(DEMO_STEPS)) $(if $(DEMO_SECONDS),--max-seconds $(DEMO_SECONDS))

test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

as-on-a-gpu: .venv/.installed-dev
	$(BIN)/python -m pytest --as-on-a-gpu -o addopts=-q -m "not slow" $(patsubst %,tests/test_%.py,$(GPU_TESTS)) $(PYTEST_ARGS)

nightly: .venv/.installed-dev
	$(BIN)/python -m pytest -o addopts=-q -m slow $(PYTEST_ARGS)
	$(BIN)/python -m pytest --as-on-a-gpu -o addopts=-q -m "not slow" tests/test_recipes.py $(PYTEST_ARGS)

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonversion 3.10

bench: .venv/.installed-dev
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

docs-check: .venv/.installed-dev
	$(BIN)/python -m pytest tests/test_docs.py
	$(BIN)/python benchmarks/run.py --check

docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: .venv/.installed-dev
	rm -rf dist build/lib src/*.egg-info
	$(BIN)/python -m build --no-isolation --quiet

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache

$(BIN)/pip:
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3.10; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then exec $$python -m venv .venv; fi; \
	done; \
	echo "No Python of version 3.10 or newer was found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e ".[dev]"
	@touch .venv/.installed $@

.venv/.installed-docs: .venv/.installed-dev
	$(INSTALL) -e ".[dev,docs]"
	@touch $@
