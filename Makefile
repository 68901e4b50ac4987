.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 100000
N ?= 3000
KILLS ?= 22
SEED ?= 1
# Python compiles each module once and keeps it, whatever the shell says: the tests start a hundred processes.
export PYTHONDONTWRITEBYTECODE :=
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.PHONY: help install demo quick test test-all check fmt sim chaos bench soak up down audit lock clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/installed ## the environment in .venv, exactly as locked

PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off

# Installs what a lock has, then the project itself with the build backend that came with it. pip says what it does.
define install
$(PIP) --require-hashes -r $(1)
@PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-deps --no-build-isolation -e .
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is %d.%d, 3.11 is the oldest that will do: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "making the environment .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

.venv/installed: requirements/lock.txt pyproject.toml | $(BIN)/python
	@echo "installing what the project is developed and tested with (requirements/lock.txt: some 340 MB)"
	@$(call install,requirements/lock.txt)
	@touch $@

.venv/demo: requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs (requirements/demo.txt: some 130 MB)"
	@$(call install,requirements/demo.txt)
	@touch $@

# One environment that grows: what is installed in full has what the demo needs.
demo: $(if $(wildcard .venv/installed),install,.venv/demo) ## watch a callback survive kill -9
	@$(BIN)/python -m examples.demo

quick: install ## the inner loop: types, unit and contract tests without servers, 25 seeds of the simulation
	$(BIN)/mypy
	SIM_SEEDS=25 $(BIN)/python -m pytest -n 2 -q -m "not slow and not real_postgres" tests/unit tests/contract tests/golden tests/simulation

test: install ## everything that this machine can run; what needs a Docker engine is skipped without one
	$(BIN)/python -m pytest -n 5

check: install ## format, lint, types, layers, what a callback cycle may cost
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/budget

test-all: check test ## what CI runs

fmt: install ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sim: install ## the simulation at length: make sim SEEDS=100000
	SIM_SEEDS=$(SEEDS) $(BIN)/python -m pytest -n 2 -q tests/simulation -k every_promise

chaos: install ## two instances on PostgreSQL and Kafka, and a function, killed, frozen and cut off: make chaos N=3000 KILLS=22 SEED=1
	@cd tests && ../$(BIN)/python -m e2e.chaos $(N) $(KILLS) $(SEED)

bench: install ## how fast it is here, beside the floor (needs wrk and a real Kafka or a Docker engine)
	@$(BIN)/python -m benchmarks

soak: install ## half of the peak for half an hour: memory, backlog and files must stay flat
	@$(BIN)/python -m benchmarks soak

up: ## Kafka, PostgreSQL, two instances and two workers in containers; returns when they are ready
	$(COMPOSE) up --detach --build
	@echo "the shop is served at http://127.0.0.1:$${HTTP_PORT:-8080} and http://127.0.0.1:$${HTTP_PORT_2:-8081}"

down: ## stop and remove them; their data stays in the volumes
	$(COMPOSE) down

lock: ## pin the dependencies anew (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
		--extra aws --extra dev --extra encryption --extra function --extra otel --extra postgres --extra remote --group test -o requirements/lock.txt pyproject.toml
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
		-c requirements/lock.txt --extra encryption --extra postgres --extra remote -o requirements/runtime.txt pyproject.toml
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
		-c requirements/lock.txt --extra dev --extra encryption --extra postgres --extra remote --group build -o requirements/demo.txt pyproject.toml
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-emit-index-url \
		-c requirements/lock.txt --group build -o requirements/build.txt

audit: install ## known vulnerabilities in what is locked, if PyPI's database can be reached
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements/lock.txt

clean: ## forget the environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
