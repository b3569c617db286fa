# Two commands do all the set-up: `make demo` and `make test`. `make` alone lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := src tests benchmarks tools
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help venv demo test test-all lint fix bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP) ## Make the environment in .venv

$(STAMP): pyproject.toml constraints.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e '.[server,scale,fast,tensorflow,jax,publish]' -r requirements-dev.txt -c constraints.txt
	touch $(STAMP)

demo: $(STAMP) ## Train a small model with three volunteers on this machine
	$(BIN)/handcar demo

lint: $(STAMP) ## Check style, types and who imports whom
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture src --min-confidence 80 --ignore-names "obj,trace,frame,format_suffix,schema_editor"

fix: $(STAMP) ## Mend what the linter can mend by itself
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

test: lint ## Run the linters and all tests but the slow ones
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow"

test-all: lint ## Run everything, slow tests too
	$(BIN)/pytest -n 2 --dist loadgroup

bench: $(STAMP) ## Run every benchmark, quickly
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file --quick || exit 1; done

clean: ## Remove the environment and what tools left behind
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
