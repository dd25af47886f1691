# Everything that is needed is installed by the targets themselves; see README.md.
PYTHON ?= python3
CACHE  := $(or $(STUDY_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/study-operator)
# A virtual environment for each set of dependencies, outside the checkout: a fresh clone finds it again.
VENV   := $(CACHE)/venv-$(shell sha256sum requirements/constraints.txt | cut -c1-12)
PYTEST := PYTHONPATH=$(CURDIR)/operator:$(CURDIR)/trial-image:$(CURDIR)/client $(VENV)/bin/python -m pytest

.PHONY: help demo test test-faults test-variants test-unit lint lint-ruff lint-types lint-imports lint-licenses lint-audit dev cluster-up cluster-down cluster-status
.PHONY: bench bench-report bench-reading bench-start bench-turnaround bench-trials bench-idle bench-storm bench-scale bench-growth bench-neighbours bench-plots bench-suggest bench-sizing simulate
.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## local cluster, helm install, and the digits study to its best trial
	@$(PYTHON) hack/demo.py

test: $(VENV)/ready ## everything: lint, then unit and component tests; beside them the end-to-end tests
	@$(VENV)/bin/python hack/run_tests.py

# The long forms; `make test` has a short form of each.
test-faults: $(VENV)/ready ## everything is killed, cut off, filled up and upgraded; see docs/guarantees.md
	@$(PYTHON) hack/local-cluster up
	@FAULTS=all SEED=$${SEED:-$$(date +%s)} $(PYTEST) -n 4 -k "crash_points or any_order or fuzz" tests/component
	@$(PYTEST) -m faults tests/component/test_neighbours_together.py
	@$(PYTEST) -m faults tests/e2e

test-variants: $(VENV)/ready ## the operator's images with PyTorch, BoTorch and hyperopt; see CONTRIBUTING.md
	@$(PYTHON) hack/local-cluster up
	@$(PYTEST) -m variants tests/e2e/test_variants.py

test-unit: $(VENV)/ready ## unit tests alone, in a minute or two
	@$(PYTEST) tests/unit

lint: lint-audit lint-ruff lint-types lint-imports lint-licenses ## ruff, mypy, the import contracts, licences and known vulnerabilities

lint-ruff: $(VENV)/ready
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

lint-types: $(VENV)/ready
	@$(VENV)/bin/mypy --cache-dir=$(VENV)/mypy-cache

lint-imports: $(VENV)/ready
	@PYTHONPATH=operator:trial-image:client $(VENV)/bin/lint-imports --no-cache

lint-licenses: $(VENV)/ready
	@$(VENV)/bin/python hack/dependencies.py licenses

lint-audit: $(VENV)/ready
	@$(VENV)/bin/python hack/dependencies.py audit

dev: ## .venv for your editor, with all packages, and ruff and mypy before each commit
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check -r requirements/constraints.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable . --editable trial-image --editable client
	@.venv/bin/pre-commit install
	@echo "ready: let your editor use .venv/bin/python; CONTRIBUTING.md says how to go on"

cluster-up: ## start the local Kubernetes
	@$(PYTHON) hack/local-cluster up

cluster-down: ## end it
	@$(PYTHON) hack/local-cluster down

cluster-status: ## each component's process and health
	@$(PYTHON) hack/local-cluster status

# ARGS="--help" shows a benchmark's options. Figures come on stdout, progress on stderr.
BENCH := PYTHONPATH=$(CURDIR)/operator:$(CURDIR)/trial-image:$(CURDIR)/client $(VENV)/bin/python benchmarks

bench: $(VENV)/ready ## all benchmarks, half an hour; see docs/benchmarks.md
	@for name in report start turnaround trials idle; do $(BENCH)/$$name.py || exit 1; echo; done

bench-report: $(VENV)/ready ## reports per second, beside Optuna's own
	@$(BENCH)/report.py $(ARGS)

bench-reading: $(VENV)/ready ## what the log of changes costs who writes, and how long people wait who read
	@$(BENCH)/reading.py $(ARGS)

bench-start: $(VENV)/ready ## kubectl apply to a running pod, beside a bare Job
	@$(BENCH)/start.py $(ARGS)

bench-turnaround: $(VENV)/ready ## a Job's end to the next Job, beside bare Jobs
	@$(BENCH)/turnaround.py $(ARGS)

bench-trials: $(VENV)/ready ## 40 trials of 5 s and their API writes, beside bare Jobs
	@$(BENCH)/trials.py $(ARGS)

bench-idle: $(VENV)/ready ## CPU and memory of an operator with idle studies
	@$(BENCH)/idle.py $(ARGS)

bench-suggest: $(VENV)/ready ## suggestions of TPE over the mirror, beside Optuna's storages; ARGS=--keep for the plots
	@$(BENCH)/suggest.py $(ARGS)

bench-storm: $(VENV)/ready ## 1,000 trials that report every second, by way of PgBouncer and without
	@$(BENCH)/storm.py $(ARGS)

bench-scale: $(VENV)/ready ## thousands of trials on imitated nodes, beside bare Jobs; SCENARIO=b1 for one
	@$(BENCH)/scale.py $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SAMPLER),--sampler $(SAMPLER)) $(ARGS)

bench-growth: $(VENV)/ready ## figures at 10 and 100 times the work, and their plots
	@$(BENCH)/growth.py $(ARGS)
	@$(BENCH)/suggest.py --keep
	@$(BENCH)/plots.py

bench-neighbours: $(VENV)/ready ## a canary study's next Job beside hostile and heavy neighbours, and beside nobody
	@$(BENCH)/neighbourhood.py $(ARGS)

bench-plots: $(VENV)/ready ## docs/figures/*.svg from the JSON beside them
	@$(BENCH)/plots.py

bench-sizing: $(VENV)/ready ## what trials take in PostgreSQL, and a look's queries over them
	@$(BENCH)/sizing.py $(ARGS)

simulate: $(VENV)/ready ## 100,000 trials, 10,000 at once, on several replicas: simulated
	@$(BENCH)/simulate.py $(ARGS)

# Dependencies only: the code itself is imported from the checkout.
$(VENV)/ready:
	@echo "installing Python dependencies into $(VENV)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq libgomp1; } # LightGBM's
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements/constraints.txt
	@touch $@
