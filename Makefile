# Each target works as the first command on a fresh clone: it makes the
# environment it needs. VENV= chooses where, PYTHON= with which Python,
# CONSTRAINTS= other versions than the tested ones (empty: the newest), STACK=
# whose packages: mmcv-lite (OpenMMLab's) or onedl (its maintained fork).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DATASET ?= digits
CONSTRAINTS ?= requirements-tested.txt
STACK ?= mmcv-lite

BIN := $(VENV)/bin
READY := $(VENV)/.mobileone-ext-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIN := $(addprefix -c ,$(CONSTRAINTS))
# What touches OpenMMLab's packages most, in a few minutes.
ONEDL_TESTS := tests/test_registration.py tests/test_written_before.py \
	tests/checkpoints/test_runner_checkpoints.py \
	tests/hooks/test_ema_load_hook.py tests/hooks/test_deploy_hook.py \
	tests/hooks/test_run_checkpoints.py tests/hooks/test_coreml_export_hook.py \
	tests/commands/test_console.py tests/commands/test_mmpretrain_tools.py \
	tests/commands/test_recalibrated_file.py tests/export/test_export_command.py \
	tests/utils/test_zoo.py tests/utils/doctor

.PHONY: demo test test-slow test-kernels test-onedl run-onedl lint check docs dist clean

demo: $(READY)
	$(BIN)/python tools/demo.py --dataset $(DATASET)

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# Once more where torch and oneDNN choose other kernels, as on another CPU.
test-kernels: $(READY)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 \
		$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' \
		tests/models/online tests/export/test_export*.py \
		tests/export/test_networks.py

# With OneDL's packages, in an environment of their own.
test-onedl:
	$(MAKE) run-onedl STACK=onedl VENV=$(VENV)-onedl

run-onedl: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' $(ONEDL_TESTS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 \
		mmpretrain_mobileone_ext mobileone_ext.py tools setup.py noxfile.py
	$(BIN)/mypy

check: lint docs test test-slow test-kernels test-onedl

# Files for a package index, and whether it would take them.
dist:
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install -q build twine
	build/venv/bin/python -m build
	build/venv/bin/python -m twine check --strict dist/*

# A warning is an error: a link that leads nowhere, a docstring that does not parse.
docs: $(READY)
	$(BIN)/python docs/tables.py --check
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

$(READY): setup.py $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(PIN) torch torchvision
	# mmcv and mmcv-lite own the same module: never put one over the other.
	stack=$(STACK); \
	! $(BIN)/python -c 'import importlib.metadata as m; m.version("mmcv")' \
		2>/dev/null || stack=openmmlab; \
	$(PIP) install -q $(PIN) -e ".[$$stack,dev]"
	touch $(READY)

clean:
	rm -rf build dist *.egg-info work_dirs/demo-*
