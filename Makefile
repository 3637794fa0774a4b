# make demo    builds a D3S dataset with the pocket model into out/d3s, scores its labels and draws its preview
# make test    lint, types, all tests, which include every benchmark at a tiny size
# make bench-quick    only the benchmarks, two at a time; prints the seconds that each took
# make guard   shows that a change leaves images, labels and weights as they were: builds and trains with this code and
#              with that of REVISION (HEAD), and names what differs; takes some minutes
# The first run makes .venv and installs the pinned versions. PYTHON chooses the interpreter (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
PYTEST := $(BIN)/python -m pytest
REVISION ?= HEAD

.PHONY: demo test tests bench-quick guard lint format install

demo: install
	$(BIN)/figureground build d3s --out out/d3s
	$(BIN)/figureground verify out/d3s
	$(BIN)/figureground show out/d3s

# Side by side: type checks take one core for a minute. Modules are compiled once, not in each process of a test, even
# where PYTHONDONTWRITEBYTECODE is set.
test: install
	$(BIN)/python -m compileall -q builders tests
	$(MAKE) --jobs 2 lint tests

tests: install
	$(PYTEST) -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder --durations 20

bench-quick: install
	$(PYTEST) tests/test_benchmarks.py -n 2 --dist loadscope --no-loadscope-reorder --maxfail 1 --durations 0 --durations-min 1

guard: install
	$(BIN)/python tests/guard.py $(REVISION)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
