# `make` lists the targets. Every target makes .venv when it is missing or older than its pins.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/stamp
NAME ?= toy-latte
WORKERS ?= 2
PROCESSES ?= 2

# One thread a process: two threads on a busy two-core machine can be ten times slower than one.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false
test browser notebooks bench: export HF_HUB_OFFLINE = 1

ALLOW_ROOT = $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)
LATEST_FIRST = $(shell ls -r notebooks/*.ipynb)# the later pages take longest: begun first, they leave no worker idle at the end
SOCKET_LOG := $(CURDIR)/.pytest_cache/sockets.log

.DEFAULT_GOAL := help
.PHONY: help lab test env bench ledger notebooks browser model lint

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

lab: $(STAMP)  ## open JupyterLab on the start page (ARGS="--no-browser --port 8899" without a screen)
	$(BIN)/jupyter lab $(ALLOW_ROOT) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

test: $(STAMP)  ## unit tests, every notebook run again and compared, then the guards over the pages
	$(BIN)/pytest -n $(WORKERS) tests
	@mkdir -p $(dir $(SOCKET_LOG)) && rm -f $(SOCKET_LOG)
	PYTHONPATH=$(CURDIR)/tests/notebooks/offline STEPWISE_SOCKET_LOG=$(SOCKET_LOG) $(BIN)/pytest -p no:randomly --nbval --nbval-sanitize-with tests/notebooks/sanitize.cfg \
		--nbval-current-env --nbval-cell-timeout 1200 -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(LATEST_FIRST)
	STEPWISE_SOCKET_LOG=$(SOCKET_LOG) $(BIN)/pytest -m notebooks tests/notebooks

env: $(STAMP)  ## make the environment only

bench: $(STAMP)  ## run every benchmark and print one table
	$(BIN)/python -m tests.benchmarks

ledger: $(STAMP)  ## collect LEDGER.md from the executed notebooks
	$(BIN)/python -m helpers.page.ledger

notebooks: $(STAMP)  ## execute notebooks in place (PAGES=notebooks/01_caching_schedules.ipynb for one)
	$(BIN)/python -m helpers.page.execute execute $(if $(PAGES),$(PAGES),$(sort $(wildcard notebooks/*.ipynb)))

browser: $(STAMP)  ## open every notebook in a real JupyterLab in Chromium and move every control (ONLY=04_ for one)
	$(BIN)/pytest -m browser -n $(WORKERS) $(if $(ONLY),-k "$(ONLY)") tests/browser

model: $(STAMP)  ## train a model from nothing, resumable (NAME=toy-latte; PROCESSES=2 CPU cores or GPUs)
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(BIN)/python -m torch.distributed.run --standalone \
		--nproc-per-node $(PROCESSES) -m helpers.recipes.$(subst -,_,$(NAME)) $(ARGS)

lint: $(STAMP)  ## ruff over code and notebooks
	$(BIN)/ruff check .

$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[lab,test]"
	@touch $@
