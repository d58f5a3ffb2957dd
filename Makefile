# `make demo` and `make test` need nothing but Python 3.11 or newer, pip and make: the environment
# is built on first use in .venv, from the versions in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-thorough test-gpu test-system screenshots check format proto benchmark soak coverage-parsers sbom \
    audit-dependencies drills clean

demo: $(READY) ## a two-site federation on phantoms, with a report
	$(BIN)/fdfed simulate --sites tnbc,monuseg --rounds 14 --steps 10 --size 64 --width 8 \
	    --seed 0 --out runs/demo

test: $(READY) ## the test suite; in the unit tests every annotated tensor shape is checked
	$(PYTEST) tests/unit --ignore=tests/unit/fdfed/studies -m "not bad_input" \
	    --jaxtyping-packages=fdfed,beartype.beartype
	$(PYTEST) -m "not thorough" tests/faults tests/integration tests/gpu tests/unit/fdfed/studies
	$(PYTEST) -m bad_input $$(grep -rl bad_input tests/unit --include='*.py')

test-thorough: $(READY) ## what `make test` leaves out for time: tutorial, deployment files, every network
	$(PYTEST) -m thorough tests/integration

test-gpu: $(READY) ## what training does on a GPU, held to the CPU; skips where there is none
	$(BIN)/python -m pytest -q tests/gpu

test-system: $(READY) ## tests with a real browser and a real Prometheus; installs them on Debian
	tests/system/install.sh
	$(PYTEST) tests/system

screenshots: $(READY) ## pictures of both consoles, from the run of the browser tests, in docs/images/
	tests/system/install.sh
	FDFED_SCREENSHOTS=docs/images OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q \
	    tests/system/test_console_in_a_browser.py

check: $(READY) ## static checks: format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.:server:client $(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(READY) ## tables of ratios; nothing is asserted by the clock
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_exchange.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_loss.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_aggregation.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_watching.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_scale.py

soak: $(READY) ## a million inputs against every parser of foreign bytes; a table in runs/soak/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	PYTHONPATH=.:server:client $(BIN)/python -m tests.fuzz.run --inputs 1000000
	$(MAKE) drills

drills: $(READY) ## hundreds of random faults in a federation of processes; a table in runs/drills/
	OMP_NUM_THREADS=1 PYTHONPATH=.:server:client $(BIN)/python -m tests.faults.soak

coverage-parsers: $(READY) ## branches of those parsers that the unit tests and the corpus take
	PYTHONPATH=.:server:client $(BIN)/python -m tests.fuzz.branches

sbom: $(READY) ## the packages that an installed fdfed needs, as CycloneDX
	$(BIN)/python .ci/supply_chain.py sbom runs/sbom.json

audit-dependencies: $(READY) ## known vulnerabilities of the pinned versions; asks https://pypi.org
	$(BIN)/python .ci/supply_chain.py audit runs/vulnerabilities.json

proto: $(READY) ## regenerates fdfed/exchange/exchange_pb2*.py
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
	    fdfed/exchange/exchange.proto

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fdfed needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
