# make demo and make test bring the whole set-up with them; what is set up once is not touched again until
# requirements/, setup.py or tools/setup/ change.

VENV ?= .venv
PYTHON ?= python3
TORCH ?= $(shell grep -v '^\#' requirements/torch.txt)
PYTEST_ARGS ?= -q -n 2

# One stamp per TORCH, so that another TORCH=... is not mistaken for what is there.
STAMP := $(VENV)/.setup-$(shell printf '%s' '$(TORCH)' | tr -c 'A-Za-z0-9.' '_')
TEST_STAMP := $(VENV)/.setup-test
PINS := $(filter-out requirements/test.txt,$(wildcard requirements/*.txt)) setup.py $(wildcard tools/setup/*.py)
RUN := $(VENV)/bin/python

# Set in many container images. Without byte code each tool would compile some 3000 modules anew, 7 s every time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test soak bench lint clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    set up, then train, test and picture a detector and a segmenter on generated images'
	@echo 'make test    set up, then run the tests'
	@echo 'make soak    set up, then run the long tests: kills, damaged files, resumed and long runs; up to 30 minutes'
	@echo 'make bench   set up, then time ours against stock parts and what else is installed; under 10 minutes'
	@echo 'make setup   only set up: $(VENV) with torch, the OpenMMLab forks, mmcv with compiled ops, this project'
	@echo 'make lint    ruff'
	@echo 'make clean   remove caches and build leftovers; keeps $(VENV), work_dirs/ and data/'
	@echo ''
	@echo 'VENV=path       environment to use or to make        (now $(VENV))'
	@echo 'PYTHON=python   Python >= 3.10 that makes it         (now $(PYTHON))'
	@echo 'TORCH=...       requirement for torch, CPU or GPU    (now $(TORCH))'

setup: $(STAMP)

$(STAMP): $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'PYTHON=$(PYTHON) is missing or older than 3.10: install Python >= 3.10 or name one, as in "make setup PYTHON=python3.12".' >&2; exit 1; }
	@$(PYTHON) tools/setup/install.py --venv '$(VENV)' --torch '$(TORCH)' $(if $(filter test soak lint,$(MAKECMDGOALS)),--test)
	@rm -f $(VENV)/.setup-*
	@touch $(STAMP)

$(TEST_STAMP): $(STAMP) requirements/test.txt
	@$(RUN) -m pip install --disable-pip-version-check -q -r requirements/test.txt
	@touch $@

demo: $(STAMP)
	$(RUN) tools/demo.py --setup-json $(VENV)/setup.json

# One thread per test process: two processes share the machine, and toy tensors gain nothing from threads.
test: $(STAMP) $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests $(PYTEST_ARGS)

# The long half of the tests: one process, at most 30 minutes on two cores.
soak: $(STAMP) $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests -q -m soak $(SOAK_ARGS)

# Nothing else should run meanwhile.
bench: $(STAMP)
	$(RUN) tools/benchmark_all.py --quick $(BENCH_ARGS)

lint: $(STAMP) $(TEST_STAMP)
	$(RUN) -m ruff check .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.*' -not -path './$(VENV)/*' -prune -exec rm -rf {} +
