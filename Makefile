# `make` lists the targets. Every target makes .venv when it is missing, and brings it up to date when its pins changed.
# The folder's path may hold spaces: recipes use paths relative to it, and quote "$$PWD" where a whole path is needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/stamp# written last: it names the folder that the environment was made in
NAME := toy-latte# of the command line alone: some systems (WSL) keep the machine's own name in the environment as NAME
WORKERS ?= 2
PROCESSES ?= 2

# One thread a process: two threads on a busy two-core machine can be ten times slower than one.
export OMP_NUM_THREADS = 1
export MKL_NUM_THREADS = 1
export TOKENIZERS_PARALLELISM = false
test browser notebooks bench: export HF_HUB_OFFLINE = 1

LATEST_FIRST = $(shell ls -r notebooks/*.ipynb)# the later pages take longest: begun first, they leave no worker idle at the end
SOCKET_LOG := .pytest_cache/sockets.log
NBVAL = PYTHONPATH="$$PWD/tests/notebooks/offline$${PYTHONPATH:+:$$PYTHONPATH}" STEPWISE_SOCKET_LOG="$$PWD/$(SOCKET_LOG)" $(BIN)/pytest -p no:randomly --nbval \
	--nbval-sanitize-with tests/notebooks/sanitize.cfg --nbval-current-env --nbval-cell-timeout 1200

# make test ONLY=08_: the page, its name, and what carries that name
PAGE = $(wildcard notebooks/$(ONLY)*.ipynb)
STEM = $(basename $(notdir $(PAGE)))
TOPIC = $(shell echo "$(STEM)" | cut -d_ -f2-)
UNITS = $(wildcard tests/methods/test_$(TOPIC).py tests/methods/$(TOPIC) tests/studies/test_$(TOPIC).py)

# An environment is used again when it was finished, was not moved (its commands would call the old place), its Python works and PYTHON, when given, is of
# the same version. An empty stamp, of an older Makefile, names no folder.
VERSION := import sys; print(sys.version_info[:2])
CHECK := import sys; (3, 11) <= sys.version_info[:2] < (3, 15) or sys.exit("Stepwise makes its %s with Python 3.11 to 3.14, and %s is Python %s: name another \
	one, as in make env PYTHON=python3.12" % (sys.argv[1], sys.argv[2], sys.version.split()[0]))
MISSING := There is no $(PYTHON) here: install Python 3.11 to 3.14, or name one, as in make env PYTHON=python3.12
ASKED := $(if $(filter file,$(origin PYTHON)),,&& [ "$$("$(PYTHON)" -c '$(VERSION)' .venv)" = "$$($(BIN)/python -c '$(VERSION)')" ])
USABLE := [ -e $(STAMP) ] && { [ ! -s $(STAMP) ] || [ "$$(cat $(STAMP))" = "$$(pwd -P)" ]; } && $(BIN)/python -c "import pip" >/dev/null 2>&1 $(ASKED)

.DEFAULT_GOAL := help
.PHONY: help lab author fresh test env bench html handout ledger notebooks map method browser model study lint anew

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

lab: $(STAMP)  ## open JupyterLab on your own copy of the pages, in my_notebooks/ (ARGS="--no-browser --port 8899" without a screen)
	$(BIN)/python -m helpers.page.lab open $(ARGS)

fresh: $(STAMP)  ## start your copies over; what you wrote moves to my_notebooks/old/ (PAGES=02_motion_regularization for one)
	$(BIN)/python -m helpers.page.lab fresh $(PAGES)

author: $(STAMP)  ## open JupyterLab on the pages themselves, to change them (ARGS as for lab)
	$(BIN)/python -m helpers.page.lab author $(ARGS)

test: $(STAMP)  ## unit tests, every notebook run again and compared, then the guards over the pages (ONLY=08_: one page and all that has its name)
ifdef ONLY
	@[ "$(words $(PAGE))" = 1 ] || { echo "ONLY must name one page, as in ONLY=08_; ONLY=$(ONLY) names: $(or $(PAGE),none)" >&2; exit 1; }
	$(if $(wildcard helpers/methods/$(TOPIC) helpers/methods/$(TOPIC).py),$(BIN)/pytest tests/test_arrows.py -k "$(TOPIC)")
	$(if $(UNITS),$(BIN)/pytest $(UNITS))
	$(if $(wildcard helpers/studies/$(TOPIC).py),$(BIN)/pytest tests/studies/test_studies.py -k "$(TOPIC)")
	@mkdir -p $(dir $(SOCKET_LOG)) && rm -f $(SOCKET_LOG)
	$(NBVAL) $(PAGE)
	STEPWISE_SOCKET_LOG="$$PWD/$(SOCKET_LOG)" $(BIN)/pytest -m notebooks tests/notebooks -k "$(STEM) or collection or asked_for"
	$(BIN)/python -m helpers.page.ledger --check
else
	$(BIN)/pytest -n $(WORKERS) tests
	@mkdir -p $(dir $(SOCKET_LOG)) && rm -f $(SOCKET_LOG)
	$(NBVAL) -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(LATEST_FIRST)
	STEPWISE_SOCKET_LOG="$$PWD/$(SOCKET_LOG)" $(BIN)/pytest -m notebooks tests/notebooks
endif

env: $(STAMP)  ## make the environment only

html: $(STAMP)  ## write the pages as a folder of HTML that needs no network, html/
	$(BIN)/python -m helpers.page.export $(PAGES)

handout: $(STAMP)  ## write an exercise sheet without solutions, in handouts/ (NB=04_)
	$(BIN)/python -m helpers.page.handout "$(NB)"

bench: $(STAMP)  ## run every benchmark and print one table
	$(BIN)/python -m tests.benchmarks

ledger: $(STAMP)  ## collect LEDGER.md from the executed notebooks
	$(BIN)/python -m helpers.page.ledger

notebooks: $(STAMP)  ## execute notebooks in place (PAGES=notebooks/01_caching_schedules.ipynb for one)
	$(BIN)/python -m helpers.page.execute execute $(if $(PAGES),$(PAGES),$(sort $(wildcard notebooks/*.ipynb)))
	$(BIN)/python -m helpers.page.collection

map: $(STAMP)  ## page 00's map and README's minutes, from what the pages store (the end of make notebooks)
	$(BIN)/python -m helpers.page.collection

method: $(STAMP)  ## start a method: stubs of all files of its name, which fail until they are filled in (NAME=mixup)
	$(BIN)/python -m helpers.page.new_method "$(if $(filter-out file,$(origin NAME)),$(NAME))"

browser: $(STAMP)  ## open every notebook in a real JupyterLab in Chromium and move every control (ONLY=04_ for one)
	$(BIN)/pytest -m browser -n $(WORKERS) $(if $(ONLY),-k "$(ONLY)") tests/browser

model: $(STAMP)  ## train a model from nothing, resumable (NAME=toy-latte; PROCESSES=2 CPU cores or GPUs)
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 $(BIN)/python -m torch.distributed.run --standalone \
		--nproc-per-node $(PROCESSES) -m helpers.recipes.$(subst -,_,$(NAME)) $(ARGS)

study: export HF_HUB_OFFLINE = 1
study: $(STAMP)  ## measure a study's missing cases, resumable (NAME=caching_schedules; ACCEPT=20, RECHECK=all, DASK=tcp://host:port); no NAME: list them
	$(BIN)/python -m helpers.studies $(if $(filter-out file,$(origin NAME)),$(NAME)) $(if $(ACCEPT),--accept $(ACCEPT)) $(if $(RECHECK),--recheck $(RECHECK)) \
		$(if $(DASK),--dask $(DASK)) --processes $(PROCESSES)

lint: $(STAMP)  ## ruff over code and notebooks: faults, and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# While pip changes an environment it has no stamp: killed then, it is made anew the next time. When pip itself gives up (no network, say), nothing has
# changed, and the stamp comes back with its age.
$(STAMP): pyproject.toml constraints.txt $(shell $(USABLE) || echo anew)
	@$(USABLE) || { command -v "$(PYTHON)" >/dev/null || { echo '$(MISSING)' >&2; exit 1; }; }
	@$(USABLE) || { "$(PYTHON)" -c '$(CHECK)' .venv "$(PYTHON)" && rm -rf .venv && "$(PYTHON)" -m venv .venv; }
	@[ ! -e $(STAMP) ] || mv $(STAMP) .venv/before
	@echo "pip installs into .venv what constraints.txt pins: some minutes the first time, and 2 to 6 GB (README says how to take the small build of torch)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[lab,test]" || \
		{ [ ! -e .venv/before ] || mv .venv/before $(STAMP); exit 1; }
	@rm -f .venv/before && pwd -P > $(STAMP)
