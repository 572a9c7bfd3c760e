# make demo and make test need only Python 3.11+ and make; each sets everything up by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all test-kills lint types site clean

demo: $(STAMP)
	$(BIN)/unetx-search --study demo --out runs
	$(BIN)/unetx-search show runs/demo/best.json

# A process for each core, so each computes on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m "slow or not slow"

# The slow tests that CI runs: kills, hangs and restarts, on this machine and on a Ray cluster.
test-kills: $(STAMP)
	$(PYTEST) -m slow tests/search tests/evaluators/tasks/test_prepare_killed.py -k "not hundred and not twenty and not real"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The pages of docs/ in site/, to be read from the disk; a link that leads nowhere is an error.
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'unetx-search needs Python 3.11 or newer, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[export,postgres,ray,slurm,test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) site
