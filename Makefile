# Every target makes what it needs; `make` alone shows them.
PORT ?= 8080
GEMTUNE_HOME ?= $(CURDIR)/.gemtune
export PORT GEMTUNE_HOME

BIN := .venv/bin
INSTALL := setup/environment.sh
# Resolves for all systems and Pythons at once, and writes hashes: pip's own freeze does neither.
UV := uv==0.13.9
PINS := pyproject.toml constraints.txt $(wildcard setup/locked/*.txt)
# An environment whose Python is gone, after an upgrade of the system say, is made anew.
$(shell test -x .venv/bin/python || rm -f .venv/.service .venv/.demo .venv/.tests)
# The Python of this machine, for what needs no packages: PYTHON, or one that fits.
PYTHON_HERE = python=$$(setup/interpreter.sh) && exec "$$python"
CODE := functions trainer tests examples bench deploy docs

.DEFAULT_GOAL := help
.PHONY: help setup demo llama test check types fast docs mutants e2e infra up cloud unsloth images plan deploy destroy smoke format lock clean terraform-program

help: ## show this
	@sed -n 's/^\([a-z0-9]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/.tests ## make .venv with everything pinned; other targets make as much of it as they need

.venv/.service: $(PINS)
	@$(INSTALL) service
	@touch $@

.venv/.demo: $(PINS)
	@$(INSTALL) demo
	@touch .venv/.service $@

.venv/.tests: $(PINS)
	@$(INSTALL) tests
	@touch .venv/.service .venv/.demo $@

demo: .venv/.demo ## fine-tune the real Gemma 3 270M on this machine, start to end
	@$(BIN)/gemtune demo

llama: .venv/.service ## build llama.cpp, which writes GGUF, into the cache: once, some 5 minutes on 2 cores
	@$(BIN)/python -m trainer.gguf.llama_cpp_build

# Without a compiler the tests of GGUF are skipped, and say so. Files of tests run side by side, on four cores at most.
test: .venv/.tests ## every test that this machine can run
	@$(BIN)/python -m trainer.gguf.llama_cpp_build || echo "going on without llama.cpp: tests of GGUF will be skipped"
	@$(BIN)/python -m pytest -m "not gpu" -rs -q --numprocesses logical --maxprocesses 4 --dist loadfile

check: .venv/.tests ## format, lint, types, fast tests: before every commit
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(MAKE) --no-print-directory --jobs 2 types fast

types: .venv/.tests
	@$(BIN)/mypy

fast: .venv/.tests
	@$(BIN)/python -m pytest -q -m "not gpu and not emulators" tests/unit tests/contract tests/services tests/handlers tests/workflows

docs: .venv/.tests ## write docs/reference/ from the code
	@$(BIN)/python -m docs.generate

mutants: .venv/.tests ## what could be broken without a fast test noticing: PLACE=gemtune.jobs [COUNT=30] [SEED=1]
	@$(BIN)/python -m tests.mutants $(PLACE) --count $(or $(COUNT),30) --seed $(or $(SEED),1)

e2e: .venv/.tests ## both backends end to end, and 200 random schedules of faults on each
	@GEMTUNE_SCHEDULES=200 $(BIN)/python -m pytest -m "not gpu" tests/e2e tests/emulators tests/services/test_schedules.py

infra: terraform-program .venv/.tests ## terraform/ offline: valid, planned, against policies (needs Terraform, nothing of Google)
	@$(BIN)/python -m pytest -q tests/infra

cloud: .venv/.tests ## the gcp backend on emulators of this machine, until Ctrl-C
	@exec $(BIN)/python -m tests.emulators

up: .venv/.service ## serve on http://127.0.0.1:$(PORT), everything below $(GEMTUNE_HOME)
	@exec $(BIN)/gemtune up

unsloth: .venv/.service ## make or repair the environment of provider unsloth (0.35 GB, outside the checkout), and say what to set
	@$(BIN)/python -m trainer.unsloth_environment

# Asked before anything is installed.
terraform-program:
	@command -v terraform >/dev/null || { echo "make: this needs Terraform 1.9 or later: https://developer.hashicorp.com/terraform/install" >&2; exit 1; }

# A Google Cloud project: PROJECT_ID=… REGION=… say which; terraform/terraform.tfvars may say more.

images: ## build and push the images of the steps: PROJECT_ID=… REGION=… [UNSLOTH=yes]
	@$(PYTHON_HERE) -m deploy images

ifdef PROJECT_ID
plan: ## what deploy would change: PROJECT_ID=… REGION=…; without them, of an empty project and without a network
	@$(PYTHON_HERE) -m deploy plan
else
plan: terraform-program .venv/.tests
	@$(BIN)/python -m tests.infra.offline plan
endif

deploy: ## make a project the service: PROJECT_ID=… REGION=… [YES=yes] [UNSLOTH=yes]
	@$(PYTHON_HERE) -m deploy apply

destroy: ## remove the service, not its data: PROJECT_ID=… REGION=… [DELETE_DATA=yes]
	@$(PYTHON_HERE) -m deploy destroy

smoke: ## ask the deployed service whether it works: GEMTUNE_URL=… [REQUEST=request.json]
	@$(PYTHON_HERE) -m deploy smoke

format: .venv/.tests ## put the code into its form
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

lock: ## resolve pyproject.toml into constraints.txt and all lists of packages with hashes [UPGRADE=yes]
	rm -rf .lock && python=$$(setup/interpreter.sh) && "$$python" -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: $(UV)
	.lock/bin/python -m deploy.lock .lock/bin/uv $(if $(filter yes,$(UPGRADE)),--upgrade)
	rm -rf .lock

clean: ## remove what was made here; caches outside the checkout and .gemtune stay
	rm -rf .venv .lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
