# Each target works as the first command on a fresh clone: it makes the
# environment it needs. VENV= chooses where, PYTHON= with which Python,
# CONSTRAINTS= other versions than the tested ones (empty: the newest).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
DATASET ?= digits
CONSTRAINTS ?= requirements-tested.txt

BIN := $(VENV)/bin
READY := $(VENV)/.mobileone-ext-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIN := $(addprefix -c ,$(CONSTRAINTS))

.PHONY: demo test test-slow test-kernels lint check docs clean

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

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --preview --select PLW1514 \
		mmpretrain_mobileone_ext tools setup.py
	$(BIN)/mypy

check: lint test test-slow test-kernels

# A warning is an error: a link that leads nowhere, a docstring that does not parse.
docs: $(READY)
	$(PIP) install -q $(PIN) -e '.[dev,docs]'
	$(BIN)/python docs/tables.py --check
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

$(READY): setup.py $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q $(PIN) torch torchvision
	# mmcv and mmcv-lite own the same module: never put one over the other.
	$(BIN)/python -c 'import mmcv' 2>/dev/null || \
		$(PIP) install -q $(PIN) mmcv-lite
	$(PIP) install -q $(PIN) -e '.[dev]'
	touch $(READY)

clean:
	rm -rf build dist *.egg-info work_dirs/demo-*
