PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-fast lint bench clean

help: ## Show these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

install: $(STAMP) ## Make .venv and install the package with the pinned versions

demo: $(STAMP) ## Train a small chatbot on real dialogues, score it and talk to it (a few minutes, no hub)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh benchmarks/demo.sh

test: $(STAMP) ## Run all tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(STAMP) ## Run the tests that start no process of their own (under a minute)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(STAMP) ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

bench: $(STAMP) ## Measure start-up, validation and memory (about ten minutes)
	$(BIN)/python benchmarks/end_to_end.py

clean: ## Remove .venv, caches and build folders; runs in outputs/ and multirun/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
