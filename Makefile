# Two commands matter: `make lab` and `make check`. Both install what is missing first, and say what.
PYTHON = /usr/bin/python3
COMPILED = ovirt_he_ha tests -name __pycache__ -type d -prune -exec rm -rf {} +
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help install check fast bench swarm mutations lab lab-down soak clean

help:
	@echo "make lab       three hosts on this machine: the engine is killed and comes back; they stay up"
	@echo "make lab-down  remove the lab"
	@echo "make soak      an hour of random faults in a lab of its own (MINUTES=, SEED=)"
	@echo "make check     everything CI runs"
	@echo "make fast      the part of it that needs no lab (some minutes)"
	@echo "make swarm     2,000 random worlds in the simulator: two copies of the engine nowhere (SEEDS=, FIRST=)"
	@echo "make mutations more than 30 deliberate breaks of the policy: each is found by a scenario or the swarm"
	@echo "make bench     what the daemons cost, one JSON line per figure (docs/cost.md)"
	@echo "make clean     remove what these commands made in this directory"

install:
	@scripts/install-packages
	@scripts/make-venv .venv dev $(PYTHON)

check: install
	@scripts/check

fast: install
	@scripts/check fast

bench: install
	@$(SUDO) env PYTHONDONTWRITEBYTECODE=1 "$(CURDIR)/.venv/bin/python" -m benchmarks

swarm: install
	@.venv/bin/he-sim swarm --seeds $(or $(SEEDS),2000) --first-seed $(or $(FIRST),0) --jobs "$$(nproc)" --save swarm-failures

mutations: install
	@.venv/bin/python tests/sim/mutations.py

lab: install
	@scripts/lab-tour

soak: install
	@scripts/soak

lab-down:
	@if [ -x .venv/bin/he-lab ]; then $(SUDO) env PYTHONDONTWRITEBYTECODE=1 .venv/bin/he-lab down; fi

clean: lab-down
	rm -rf .venv .venv39 __pycache__ .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist *.egg-info
	@# he-lab under sudo leaves compiled files that are root's
	@find $(COMPILED) 2>/dev/null || $(SUDO) find $(COMPILED)
