# Everything that is needed is installed by the targets themselves; see README.md.
PYTHON ?= python3
CACHE  := $(or $(STUDY_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/study-operator)
# A virtual environment for each set of dependencies, outside the checkout: a fresh clone finds it again.
VENV   := $(CACHE)/venv-$(shell cat pyproject.toml requirements/constraints.txt | sha256sum | cut -c1-12)
TESTS  ?= tests

.PHONY: help demo test lint bench cluster-up cluster-down cluster-status
.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## local cluster, helm install, and the digits study to its best trial
	@$(PYTHON) hack/demo.py

test: $(VENV)/ready lint ## everything under tests/; TESTS=tests/unit for a part
	@$(PYTHON) hack/local-cluster up
	@PYTHONPATH=$(CURDIR)/operator:$(CURDIR)/trial-image $(VENV)/bin/python -m pytest $(TESTS)

lint: $(VENV)/ready ## ruff and the import contracts
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@PYTHONPATH=operator:trial-image $(VENV)/bin/lint-imports --no-cache

cluster-up: ## start the local Kubernetes
	@$(PYTHON) hack/local-cluster up

cluster-down: ## end it
	@$(PYTHON) hack/local-cluster down

cluster-status: ## each component's process and health
	@$(PYTHON) hack/local-cluster status

# Dependencies only: the code itself is imported from the checkout.
$(VENV)/ready:
	@echo "installing Python dependencies into $(VENV)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements/constraints.txt
	@touch $@
