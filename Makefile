# Every target installs or builds what it needs; `make` alone lists them.
PORT ?= 8080
GEMTUNE_HOME ?= $(CURDIR)/.gemtune
export PORT GEMTUNE_HOME
# Commands and tests start many processes: without stored bytecode each compiles the same sources, for up to a second.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
INSTALL := setup/environment.sh
# Resolves for all systems and Pythons at once, and writes hashes: pip's own freeze does neither.
UV := uv==0.13.9
PINS := pyproject.toml constraints.txt $(wildcard setup/locked/*.txt)
# If the environment's Python is gone, for example after a system upgrade, the environment is created again.
$(shell test -x .venv/bin/python || rm -f .venv/.service .venv/.demo .venv/.tests)
# The machine's own Python, for programs that need no packages: $PYTHON, or a supported one.
PYTHON_HERE = python=$$(setup/interpreter.sh) && exec "$$python"
CODE := functions trainer tests examples bench deploy docs

.DEFAULT_GOAL := help
.PHONY: help setup demo llama test check types fast docs mutants e2e infra up cloud unsloth timm images plan deploy destroy output smoke format lock clean terraform-program

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup: .venv/.tests ## create .venv with all packages; other targets install as many as they need

.venv/.service: $(PINS)
	@$(INSTALL) service
	@touch $@

.venv/.demo: $(PINS)
	@$(INSTALL) demo
	@touch .venv/.service $@

.venv/.tests: $(PINS)
	@$(INSTALL) tests
	@touch .venv/.service .venv/.demo $@

demo: .venv/.demo ## fine-tune the real Gemma 3 270M on this machine, from start to end
	@$(BIN)/gemtune demo

llama: .venv/.service ## build llama.cpp, which writes GGUF, and its programs into the cache: once, 4 to 7 minutes on 2 cores
	@$(BIN)/python -m trainer.gguf.llama_cpp_build --programs

# Test files run in parallel, on at most four cores. A test process that dies ends the run, with the name of its test:
# one that is started again may wait for work for ever, as pytest-xdist 3.8 divides files.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

# Without a compiler the tests of GGUF are skipped, with a message. Files are tested in the order of their folders: a
# long one, such as those of e2e/, that came last would leave the other cores idle.
test: .venv/.tests ## every test that this machine can run
	@$(BIN)/python -m trainer.gguf.llama_cpp_build || echo "continuing without llama.cpp: tests of GGUF will be skipped"
	@$(BIN)/python -m pytest -m "not gpu and not timm and not jupyter" -rfEs -q $(PARALLEL) --no-loadscope-reorder

check: .venv/.tests ## format, lint, types, fast tests: before every commit
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(MAKE) --no-print-directory --jobs 2 types fast

types: .venv/.tests
	@$(BIN)/mypy

fast: .venv/.tests
	@$(BIN)/python -m pytest -q -m "not gpu and not emulators" $(PARALLEL) tests/unit tests/contract tests/services tests/handlers tests/workflows

docs: .venv/.tests ## write docs/reference/ from the code
	@$(BIN)/python -m docs.generate

mutants: .venv/.tests ## find faults that no fast test notices: PLACE=gemtune.jobs [COUNT=30] [SEED=1]
	@$(BIN)/python -m tests.mutants $(PLACE) --count $(or $(COUNT),30) --seed $(or $(SEED),1)

e2e: .venv/.tests ## test both backends end to end, with 200 random schedules of faults on each
	@GEMTUNE_SCHEDULES=200 $(BIN)/python -m pytest -m "not gpu" tests/e2e tests/emulators tests/services/test_schedules.py

infra: terraform-program .venv/.tests ## validate and plan terraform/ offline, and check policies (needs Terraform, no Google account)
	@$(BIN)/python -m pytest -q tests/infra

cloud: .venv/.tests ## run the gcp backend on local emulators, until Ctrl-C
	@exec $(BIN)/python -m tests.emulators

up: .venv/.service ## serve on http://127.0.0.1:$(PORT), with all data in $(GEMTUNE_HOME)
	@exec $(BIN)/gemtune up

unsloth: .venv/.service ## create or repair the environment of provider unsloth (0.35 GB, outside the checkout), and print what to set
	@$(BIN)/python -m trainer.unsloth_environment

timm: .venv/.service ## install timm and torchvision (0.05 GB), which Gemma 3n needs
	@setup/timm.sh

# Checked before anything is installed.
terraform-program:
	@command -v terraform >/dev/null || { echo "make: this needs Terraform 1.9 or later: https://developer.hashicorp.com/terraform/install" >&2; exit 1; }

# Deployment to the Google Cloud project PROJECT_ID in REGION. All other settings are in terraform/terraform.tfvars.

images: ## build and push the images of the machines: PROJECT_ID=… REGION=… [BUILD_REGION=…] [UNSLOTH=yes]
	@$(PYTHON_HERE) -m deploy images

ifdef PROJECT_ID
plan: ## show what deploy would change: PROJECT_ID=… REGION=…; without them, in an empty project, without a network
	@$(PYTHON_HERE) -m deploy plan
else
plan: terraform-program .venv/.tests
	@$(BIN)/python -m tests.infra.offline plan
endif

deploy: ## deploy the service to a project: PROJECT_ID=… REGION=… [YES=yes] [STATE_BUCKET=…]
	@$(PYTHON_HERE) -m deploy apply

output: ## print the address of the deployed service, or another output: PROJECT_ID=… REGION=… [NAME=api_url]
	@$(PYTHON_HERE) -m deploy output

destroy: ## remove the service, not its data: PROJECT_ID=… REGION=… [DELETE_DATA=yes]
	@$(PYTHON_HERE) -m deploy destroy

smoke: ## check that the deployed service works: GEMTUNE_URL=… [REQUEST=request.json]
	@$(PYTHON_HERE) -m deploy smoke

format: .venv/.tests ## format the code
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

lock: ## resolve pyproject.toml into constraints.txt and all lists of packages with hashes [UPGRADE=yes]
	rm -rf .lock && python=$$(setup/interpreter.sh) && "$$python" -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: $(UV)
	.lock/bin/python -m deploy.lock .lock/bin/uv $(if $(filter yes,$(UPGRADE)),--upgrade)
	rm -rf .lock

clean: ## remove everything that make created in the checkout, except .gemtune; caches stay
	rm -rf .venv .lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
