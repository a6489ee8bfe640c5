PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
export MPLBACKEND := Agg
# Restylers and tests must not reach for a network at run time.
export HF_HUB_OFFLINE := 1
# Waiting threads that spin make everything several times as long beside another busy process.
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 0
endif

.PHONY: demo test nightly gpu clean

demo: $(VENV)/.ops
	$(PY) demo.py --outdir outputs/demo

test: $(VENV)/.ready-dev $(VENV)/.ops
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

# All tests with twenty kills of each kind, ten thousand damaged files, every parity number, the notebook and what else is slow.
nightly: $(VENV)/.ready-dev $(VENV)/.ops
	NIGHTLY=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

# Everything that needs a CUDA device: its tests, then one table of figures, which can be pasted into the docs.
gpu: $(VENV)/.ready-dev $(VENV)/.ops
	@if $(PY) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then $(PY) -m pytest -q -m gpu tests && $(PY) -m benchmarks.gpu; \
	else echo "no CUDA device here: nothing was run"; fi

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements-app.txt $(VENV)/.ready
	$(PY) -m pip install -q --disable-pip-version-check -r requirements-app.txt -r requirements-dev.txt
	touch $@

# Without a compiler this says so in one line, and the plain operators are used.
$(VENV)/.ops: $(wildcard op/csrc/*) op/native.py $(VENV)/.ready
	$(PY) -m op build || true
	touch $@

clean:
	rm -rf outputs
