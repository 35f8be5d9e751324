# make demo and make test need only Python 3.11+ and make: they set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format bench tables clean

demo: .venv/ready  ## train on the synthetic shop with several kinds of negatives, and compare
	$(BIN)/foilrec demo

test: .venv/ready  ## everything that must hold: format, lint, types, tests, doctests, house rules, README
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest

format: .venv/ready  ## put the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready  ## speed and memory beside the usual form, about ten minutes
	$(BIN)/python -m benchmarks

tables: .venv/ready  ## rerun the recipes on real data (FOILREC_DATA) and write docs/results.md
	$(BIN)/python -m benchmarks.tables

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## remove what can be made again
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
