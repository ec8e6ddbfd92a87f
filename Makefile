# Every target makes the virtual environment that it needs: `make demo` and `make test` are all it takes on a machine with Python.

PYTHON ?= python3
PY := .venv/bin/python

# The modules of tests whose aggregates run on threads, and once more on the pool.
ON_BOTH := aggregate ceiling delivery events foreign model passivation races ref registry shutdown supervision waits \
	watch x3m_defects

.PHONY: help demo test check guards model wheel bench clean

help:
	@echo "make demo    run the bank example on its own sample"
	@echo "make test    run all the tests, on both runtimes, with branch coverage"
	@echo "make check   check formatting, lint and types"
	@echo "make guards  take each guard out of the code and see its test fail"
	@echo "make model   check the model of delivery in all its states (needs spin and gcc)"
	@echo "make wheel   build the wheel and try it in an empty environment"
	@echo "make bench   run the benchmarks"
	@echo "make clean   remove what the others made"

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Setting up .venv (once) ..."
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[examples]"
	@touch $@

.venv/test: .venv/base
	@$(PY) -m pip install --quiet --disable-pip-version-check --group test
	@touch $@

.venv/check: .venv/test
	@$(PY) -m pip install --quiet --disable-pip-version-check --group check
	@touch $@

demo: .venv/base
	@mkdir -p demo
	$(PY) -m examples.bank --db demo/bank.sqlite --balances demo/balances.csv

test: .venv/test
	@rm -f .coverage .coverage.*
	$(PY) -m coverage run -m pytest -n 4 --dist worksteal
	TEST_RUNTIME=pooled $(PY) -m coverage run -m pytest -n 4 --dist worksteal $(ON_BOTH:%=tests/test_%.py)
	@$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

check: .venv/check
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pyright

guards: .venv/test
	$(PY) -m tests.guards

model: .venv/base
	$(PY) -m formal.check $(MODEL_OPTIONS)

wheel: .venv/check
	@rm -rf dist .wheel-venv
	$(PY) -m build --outdir dist
	$(PY) -m venv .wheel-venv
	.wheel-venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd / && "$(CURDIR)/.wheel-venv/bin/python" "$(CURDIR)/tests/try_wheel.py"

.venv/bench: .venv/test
	@$(PY) -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

bench: .venv/bench
	$(PY) benchmarks/lookup.py
	$(PY) benchmarks/eviction.py --plot docs/eviction.svg
	$(PY) benchmarks/group_commit.py
	$(PY) -m benchmarks.live_aggregates
	$(PY) -m benchmarks.bank
	$(PY) -m tests.conservation
	TEST_RUNTIME=pooled $(PY) -m tests.conservation
	MALLOC_ARENA_MAX=1 $(PY) -m benchmarks.soak --seconds 60
	$(PY) -m benchmarks.runtime --plot docs/throughput.svg

clean:
	rm -rf .venv .wheel-venv .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build demo dist
