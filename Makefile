# Every target sets itself up: the first one that needs a virtual environment makes it, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers

ARITHMETIC ?= full

.PHONY: help demo test test-arithmetic test-thorough peers lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.models  ## meta-train the sparse few-shot learner on Glyphs; table and figure in runs/demo
	$(BIN)/python -m implicitlayers.models.demo $(DEMO_ARGS)

test: $(VENV)/.dev  ## run the tests; coverage of lines and branches
	$(BIN)/python -m pytest -n auto --cov --cov-report=term --cov-report=json:.coverage.json
	$(BIN)/python tests/coverage_floors.py .coverage.json

test-arithmetic: $(VENV)/.dev  ## the core's tests under other thread counts and instructions; ARITHMETIC=quick for a part
	$(BIN)/python tests/arithmetic.py $(ARITHMETIC)

test-thorough: $(VENV)/.dev  ## 150,000 problems over all layers, resumable; summary in benchmarks/results
	$(BIN)/python benchmarks/thorough.py

peers: $(PEERS)/.installed  ## time, memory and gaps of other libraries on the same problems; benchmarks/results/peers
	$(PEERS)/bin/python -m benchmarks.peers all $(PEERS_ARGS)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove the virtual environment and what the tools cached
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

$(VENV)/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(PEERS)/.installed: benchmarks/peers/requirements.txt pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[models]' -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps qpth==0.0.18
	@touch $@
