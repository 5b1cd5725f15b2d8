# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON chooses the interpreter (3.10 to 3.14), WORKERS how many processes run the tests. TORCH (a requirement of pip's or
# a wheel file) and TORCH_INDEX (of packages) choose the build of torch: see scripts/install_torch.py.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
AT_ONCE := -n $(WORKERS) --dist loadfile # the tests of a file share what they have made

.PHONY: demo test test-slow test-levels faults fuzz long lint format bench release-check docs docs-serve clean

demo: $(VENV)/.installed
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(AT_ONCE)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow $(AT_ONCE)

# The network at the lower levels of instructions that the processor has, and without the compiled part.
test-levels: $(VENV)/.test
	$(BIN)/python tests/levels.py

# Kills, full disks, readers meanwhile: everything that writes files, tried at length, as one table. It goes on
# where it was stopped; the results are in build/faults.
faults: $(VENV)/.test
	$(BIN)/python tests/faults/run.py --keep build/faults

# 12,000 damaged and hostile files of every kind: some hours. It goes on where it was stopped; the results are in build/fuzz.
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz --workers $(WORKERS)

# Memory, open files, threads and processes over a million sentences: an hour or two. It goes on where it was stopped.
long: $(VENV)/.test
	$(BIN)/python tests/long/run.py

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/plain_english.py

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Build, check and install what would be released; more sessions: nox -l.
release-check: $(VENV)/.installed
	$(PIP) install "nox>=2024.4"
	TORCH="$(or $(TORCH),torch==2.13.0)" $(BIN)/nox -s release

# The site, into build/site; broken links and references fail.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/bench.py targets --level all

clean:
	rm -rf $(VENV) .nox benchmarks/.envs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache spacy_elmo/bilm/*.so

# torch comes first and alone: left to the resolver, it may take a build of several gigabytes.
$(VENV)/.installed: pyproject.toml setup.py $(wildcard spacy_elmo/bilm/_kernels*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py
	$(BIN)/python -m pip --disable-pip-version-check install --editable .
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install --editable ".[test]"
	touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(PIP) install --editable ".[lint]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) install --editable ".[docs]"
	touch $@
