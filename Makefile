# Every target makes what it needs; `make` alone shows them.
PYTHON ?= python3
PORT ?= 8080
GEMTUNE_HOME ?= $(CURDIR)/.gemtune
export PORT GEMTUNE_HOME

BIN := .venv/bin
EXTRAS := embedded,gcp,trainer,cpu,demo,dev
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)",$$/\1/p' pyproject.toml)
CODE := functions trainer tests examples bench deploy

.DEFAULT_GOAL := help
.PHONY: help setup demo llama test check mutants e2e infra up cloud unsloth images plan deploy destroy smoke format lock requirements clean

help: ## show this
	@sed -n 's/^\([a-z0-9]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/.ready ## make .venv with everything pinned (about 2 GB, the most of it torch)

# torch comes first and alone: asked for by name and version, pip may take a local CPU build of it.
.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "gemtune is tested with Python 3.11; set PYTHON to one"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || $(PYTHON) -m virtualenv .venv \
	  || { echo "making .venv needs the package python3-venv, or: $(PYTHON) -m pip install virtualenv"; exit 1; }
	@echo "installing packages into .venv"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

demo: .venv/.ready ## fine-tune the real Gemma 3 270M on this machine, start to end
	@$(BIN)/gemtune demo

llama: .venv/.ready ## build llama.cpp, which writes GGUF, into the cache: once, some 5 minutes on 2 cores
	@$(BIN)/python -m trainer.gguf.llama_cpp_build

# Without a compiler the tests of GGUF are skipped, and say so. Files of tests run side by side, on four cores at most.
test: .venv/.ready ## every test that this machine can run
	@$(BIN)/python -m trainer.gguf.llama_cpp_build || echo "going on without llama.cpp: tests of GGUF will be skipped"
	@$(BIN)/python -m pytest -m "not gpu" -rs -q --numprocesses auto --maxprocesses 4 --dist loadfile

check: .venv/.ready ## format, lint, types, fast tests: before every commit
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -m "not gpu and not emulators" tests/unit tests/contract tests/services tests/handlers tests/workflows

mutants: .venv/.ready ## what could be broken without a fast test noticing: PLACE=gemtune.jobs [COUNT=30] [SEED=1]
	@$(BIN)/python -m tests.mutants $(PLACE) --count $(or $(COUNT),30) --seed $(or $(SEED),1)

e2e: .venv/.ready ## both backends end to end, and 200 random schedules of faults on each
	@GEMTUNE_SCHEDULES=200 $(BIN)/python -m pytest -m "not gpu" tests/e2e tests/emulators tests/services/test_schedules.py

infra: .venv/.ready ## terraform/ offline: valid, planned, against policies (needs Terraform, nothing of Google)
	@$(BIN)/python -m pytest -q tests/infra

cloud: .venv/.ready ## the gcp backend on emulators of this machine, until Ctrl-C
	@exec $(BIN)/python -m tests.emulators

up: .venv/.ready ## serve on http://127.0.0.1:$(PORT), everything below $(GEMTUNE_HOME)
	@exec $(BIN)/gemtune up

unsloth: .venv/.ready ## make the environment of provider unsloth (about 0.2 GB, outside the checkout), and say what to set
	@$(BIN)/python -m trainer.unsloth_environment

# A Google Cloud project: PROJECT_ID=… REGION=… say which; terraform/terraform.tfvars may say more.

images: ## build and push the images of the steps: PROJECT_ID=… REGION=… [UNSLOTH=yes]
	@$(PYTHON) -m deploy images

ifdef PROJECT_ID
plan: ## what deploy would change: PROJECT_ID=… REGION=…; without them, of an empty project and without a network
	@$(PYTHON) -m deploy plan
else
plan: .venv/.ready
	@$(BIN)/python -m tests.infra.offline plan
endif

deploy: ## make a project the service: PROJECT_ID=… REGION=… [YES=yes] [UNSLOTH=yes]
	@$(PYTHON) -m deploy apply

destroy: ## remove the service, not its data: PROJECT_ID=… REGION=… [DELETE_DATA=yes]
	@$(PYTHON) -m deploy destroy

smoke: ## ask the deployed service whether it works: GEMTUNE_URL=… [REQUEST=request.json]
	@$(PYTHON) -m deploy smoke

format: .venv/.ready ## put the code into its form
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

lock: ## resolve pyproject.toml anew into constraints.txt
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	.lock/bin/python -m pip install --quiet --disable-pip-version-check '.[$(EXTRAS)]'
	.lock/bin/python -m pip freeze --exclude gemtune | sed 's/+cpu$$//' > constraints.txt
	rm -rf .lock

requirements: ## write functions/requirements.txt, trainer/requirements.txt, trainer/gpu.txt and trainer/unsloth.txt from pyproject.toml
	@$(PYTHON) -m deploy.requirements

clean: ## remove what was made here; caches outside the checkout and .gemtune stay
	rm -rf .venv .lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
