# Every target does its own set-up, can be repeated, and works on a fresh Debian or Ubuntu machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

help: ## show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

apt: ## Debian packages that Podling and its tests need
	@$(SUDO) tools/apt-packages

setup: apt $(VENV)/.done ## Debian packages and a virtual environment with the package in it

$(VENV)/.done: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup ## the story: a cluster, a pod, its pause container, two nodes
	$(SUDO) examples/demo.sh $(BIN)/podling

# Fetched before the tests, because they run where nothing can be fetched: kubectl old and new, the images.
fetched: setup
	@$(SUDO) $(BIN)/python -m podling.machine.kubectl 1.27 1.37
	@$(SUDO) $(BIN)/podling image demo

test: fetched ## all tests: unit, kernel, e2e
	$(SUDO) $(BIN)/python -m pytest -q

unit: setup ## the fast ones, no root
	$(BIN)/python -m pytest -q tests/unit

lint: setup ## formatting, lint, layers
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/ruff check src tests bench tools
	$(BIN)/lint-imports --no-cache

types: setup ## mypy, strict
	$(BIN)/mypy

format: setup ## mend what `make lint` says about formatting
	$(BIN)/ruff format src tests bench tools
	$(BIN)/ruff check --fix src tests bench tools

bench: fetched ## benchmarks: bench/results/*.json and a table
	$(SUDO) unshare --net $(BIN)/python -m bench

verify: test lint types ## all that CI runs

clean: ## remove what the targets above made in this folder
	rm -rf $(VENV) build bench/results .mypy_cache .ruff_cache .pytest_cache .import_linter_cache


.PHONY: help apt setup fetched demo test unit lint types format bench verify clean
.DEFAULT_GOAL := help
