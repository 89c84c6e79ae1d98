# make demo | test | lint | up | down
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 4200
PYTEST_ARGS ?= -n 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --durations 15
BIN := .venv/bin
READY := .venv/.ready

export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
# Every process would compile the project's own files again where this is set.
export PYTHONDONTWRITEBYTECODE :=
export PREFECT_HOME := $(CURDIR)/.prefect

.PHONY: demo test lint up down setup
.DEFAULT_GOAL := demo

setup: $(READY)

# Again whenever the pins or the dependencies change; otherwise instant.
$(READY): pyproject.toml constraints.txt deployments/install.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: install it, or name one with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	bash deployments/install.sh .venv
	@touch $@

demo: $(READY)
	$(BIN)/rlaif demo

test: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

up: $(READY)
	$(BIN)/python -m flows.stack up --port $(PORT)

down: $(READY)
	$(BIN)/python -m flows.stack down
