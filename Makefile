# Needs make and Python 3.11 or newer, nothing else. `make` lists the targets.
# Without make (Windows): py bootstrap.py, then the commands below with .venv\Scripts\python.

PYTHON ?= python3
UV     := uv==0.13.9
VENV   := .venv/bin/python
PYTEST := OMP_NUM_THREADS=1 $(VENV) -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check faults lock clean clean-venv

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | \
		while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

setup:  ## make .venv with everything in it (returns at once when nothing changed)
	@$(PYTHON) bootstrap.py

demo: setup  ## train, evaluate and report a small model from the built-in fables
	.venv/bin/fabula run recipes/fables.toml

test: setup  ## all tests but the slow ones
	$(PYTEST)

faults: setup  ## cause every fault of tests/faults in large numbers, and write docs/reliability.md (about 20 minutes)
	$(PYTEST) tests/faults --nightly -m "" --timeout 3600 --reliability-page docs/reliability.md

lint: setup  ## style, format, types and import order
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	$(VENV) -m mypy
	.venv/bin/lint-imports

check: lint  ## the same and the fast tests
	$(PYTEST) --ignore=tests/journey --ignore=tests/faults

lock:  ## write requirements.lock anew, keeping its versions (LOCK=--upgrade renews them)
	rm -rf .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet $(UV)
	.lock-venv/bin/uv pip compile pyproject.toml --quiet --extra dev --constraint constraints.txt \
		--custom-compile-command "make lock" --output-file requirements.lock $(LOCK)
	rm -rf .lock-venv
	@if grep -nE '://|^--|^(torch|triton|nvidia-|cuda-)' requirements.lock; then \
		echo 'requirements.lock must name no address and no part of torch (above): see [tool.uv.pip] in pyproject.toml'; exit 1; fi

clean:  ## delete builds and caches (runs and .venv stay)
	rm -rf build dist .lock-venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf src/*.egg-info

clean-venv:  ## delete .venv, for a set-up from nothing
	rm -rf .venv
