# `make demo` and `make test` are all that a fresh machine needs; `make help` lists the rest. See docs/building.md.

PYTHON ?= python3
# The set-up leaves the wheel of llama-cpp-python that is in use there, alone; the bundle takes it from there.
WHEELS := $(CURDIR)/.cache/wheels
BIN    := .venv/bin
# A file is tested by one worker, so that its tests share what is made once for it.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup portable demo test check lint unit fuzz schedules bench bench-engine bench-gateway lock lock-check clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv complete: packages by hash, llama.cpp compiled once, the plugsky command
	@$(PYTHON) appliance/setup

demo: setup ## Build, sign, verify, install and serve a bundle, then ask its model a question
	@PLUGSKY_WHEELHOUSE="$(WHEELS)" $(BIN)/plugsky demo --dir .demo

portable: ## Compile the llama.cpp wheel that uses the best kernels of any x86-64 host, for bundles that travel
	@$(PYTHON) appliance/setup portable

test: check ## All checks and all tests that this machine can run; says what was skipped and why
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term

check: setup ## Lint, formatting, types and import rules, no tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: check ## The same as check

unit: setup ## The quick tests: no processes, no model
	$(BIN)/pytest $(PARALLEL) -m "not integration and not journey"

FUZZ_SECONDS ?= 600
fuzz: setup ## Fuzz every reader of what comes from media, FUZZ_SECONDS=600 for all together (needs atheris)
	PYTHONPATH=tests $(BIN)/python -m fuzz.campaign --seconds $(FUZZ_SECONDS)

schedules: setup ## Tens of thousands of random schedules of the engine's core, which `make unit` tries hundreds of
	$(BIN)/pytest $(PARALLEL) --hypothesis-profile thousands $(addprefix tests/appliance/test_, scheduler.py \
	  engine_cells.py engine_prefix.py engine_shares.py engine_fairness.py engine_pace.py engine_waiting.py)

bench: setup ## Measure installing, streaming, growth and building into docs/benchmarks.md (as root, 40 GiB free)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/install.py --size 8 --rounds 5 --write
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/stream.py --size 40 --write
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/growth.py --sizes 1 4 16 --chunks 1000 10000 100000 --rounds 5 --write
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/build.py --size 4 --rounds 5 --write

bench-engine: setup ## Measure the engine beside llama.cpp's own programs into docs/benchmarks.md (quiet machine, an hour)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/engine/run.py all --rounds 5 --write

bench-gateway: setup ## Measure the gateway before a stub engine, beside LiteLLM, into docs/benchmarks.md (quiet machine)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/gateway/run.py all --rounds 5 --write
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/gateway/soak.py --requests 10000 --write

lock: ## Compile bundles/locks from pyproject.toml (needs uv); present versions stay while they satisfy it
	@$(PYTHON) appliance/setup lock

lock-check: ## Fail when a lock no longer follows from pyproject.toml (needs uv)
	@$(PYTHON) appliance/setup lock --check

clean: ## Remove logs, half-finished compiles and the caches of the checks
	@$(PYTHON) appliance/setup clean

distclean: ## Remove also .venv, .cache (with the compiled wheel) and .demo
	@$(PYTHON) appliance/setup clean --everything
