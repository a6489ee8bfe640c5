PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
export MPLBACKEND := Agg
# Restylers and tests must not reach for a network at run time.
export HF_HUB_OFFLINE := 1

.PHONY: demo test clean

demo: $(VENV)/.ready
	$(PY) demo.py --outdir outputs/demo

test: $(VENV)/.ready-dev
	$(PY) -m pytest -q tests

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf outputs
