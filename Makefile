# Everything a person or CI does with a source checkout. `make` alone lists it. Needs Python 3.11 or 3.12; the broker tests need Java 17 and Maven.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= $(shell .ci/find-python)
BIN := .venv/bin
RUN := PYTHONPATH=. $(BIN)
JOBS ?= 2

.PHONY: help setup lock demo test lint docs schemas bench acceptance clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/ready ## make .venv with the locked dependencies and hedgerow itself

.venv/ready: requirements-dev.lock pyproject.toml
	@test -x $(BIN)/python || { test -n "$(PYTHON)" || { echo "make: no working Python 3.11 or 3.12 found; set PYTHON=..." >&2; exit 1; }; "$(PYTHON)" -m venv .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@$(BIN)/hedgerow version | sed -n 1,2p

lock: ## write the lock files anew (needs uv); UPGRADE=--upgrade takes newer versions
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(UPGRADE) --quiet -o requirements.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(UPGRADE) --quiet --extra plots --group dev -c requirements.lock -o requirements-dev.lock
	uv pip compile --group data --no-deps --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url $(UPGRADE) --quiet -o requirements-data.lock

demo: setup ## on the embedded broker, with live boards: venues and the execution flow, then clients, the hedger and an order agent
	$(BIN)/hedgerow demo
	$(BIN)/hedgerow demo --hedge

test: setup ## every test; those on a real Kafka are skipped without Java, and fail without it when CI=true
	$(BIN)/hedgerow warm
	$(RUN)/python -m pytest -n $(JOBS) -rs $(ARGS)

lint: setup ## ruff, its formatter, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## write the generated pages of docs/ anew
	$(RUN)/python docs/generate.py

schemas: setup ## write schemas/generated anew
	$(BIN)/hedgerow schemas export

bench: setup ## the benchmarks; each ends with a line of JSON (hedge_quality fetches its data once; the last three need Java 17 and Maven)
	$(RUN)/python -m bench.codec
	$(RUN)/python -m bench.table_layout
	$(RUN)/python -m bench.kernel_arguments
	$(RUN)/python -m bench.parking
	$(RUN)/python -m bench.hedge_speed
	$(RUN)/python -m bench.hedge_quality
	$(RUN)/python -m bench.state --max-rows 1000000
	$(RUN)/python -m bench.simulation --seconds 30
	$(RUN)/python -m bench.execution --records 100000 --peers none
	$(RUN)/python -m bench.acceptance --scenario clean --rate 2000 --seconds 10
	$(RUN)/python -m bench.latency --rates 1000,20000 --seconds 10

acceptance: setup ## the flow on a real Kafka under load and faults, judged by the oracle (SCENARIO=clean|kill|pause|scale|all)
	$(RUN)/python -m bench.acceptance --scenario $(or $(SCENARIO),clean) $(ARGS)

clean: ## remove what was made here, .venv too
	rm -rf .venv .venv-peers build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
