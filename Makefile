# Two commands: `make demo` to see, `make test` to check. Both make .venv on first use. `make bench`
# and `make quality` measure; with `make peers` before, also the other trainers beside ours, with
# `make dashboard` also what else describes features.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUN ?= runs/demo
PEERS := .peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet
DASHBOARD := .dashboard
DASHBOARD_PIP := $(DASHBOARD)/bin/python -m pip install --quiet
NATIVE := $(wildcard src/panscope/kernels/native/*)
MEASURED := $(or $(wildcard $(PEERS)/.installed),$(VENV)/.installed)
MEASURE := $(dir $(MEASURED))bin/python

.PHONY: demo test lint bench peers dashboard quality pictures clean

demo: $(VENV)/.installed
	$(BIN)/panscope demo --output $(RUN) $(ARGS)

test: $(VENV)/.developed lint
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# About a quarter of an hour, and at its end what is asked beside what was reached. Some of them:
# `make bench ARGS='store serve'`.
bench: $(MEASURED)
	$(MEASURE) benchmarks/bench.py $(ARGS)

# Hours: three seeds of every trainer, resumed where it was stopped.
quality: $(MEASURED)
	$(MEASURE) benchmarks/quality.py worlds $(ARGS)
	$(MEASURE) benchmarks/quality.py sites $(ARGS)
	$(MEASURE) benchmarks/quality.py short $(ARGS)
	$(MEASURE) benchmarks/quality.py table

peers: $(PEERS)/.installed

dashboard: $(DASHBOARD)/.installed

# The pictures of README and docs, from the demo's run: labels of one Sae and a contrast are added
# to it, which takes three minutes.
pictures: $(VENV)/.developed
	$(BIN)/panscope demo --output $(RUN) --no-serve
	$(BIN)/panscope explain demo --output $(RUN) --sae 'resid_post.2/*'
	$(BIN)/panscope contrast $(RUN) --a docs/pictures/german.txt --b docs/pictures/english.txt
	$(BIN)/python docs/pictures/make.py $(RUN)

clean:
	rm -rf $(VENV) $(PEERS) $(DASHBOARD)

# torch comes first and alone, so that no other package chooses its build: a CPU build unless the
# machine has CUDA, if pip knows one; otherwise whatever build pip offers of the pinned version.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	command -v nvidia-smi >/dev/null || $(PIP) torch==2.13.0+cpu 2>/dev/null || true
	$(PIP) torch==2.13.0
	touch $@

# Again when the C++ has changed: the libraries are built by the installation.
$(VENV)/.installed: $(VENV)/.torch pyproject.toml CMakeLists.txt $(NATIVE)
	$(PIP) --editable '.[web]'
	touch $@

$(VENV)/.developed: $(VENV)/.torch pyproject.toml CMakeLists.txt $(NATIVE)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed

# The other trainers, with the same torch and panscope beside them, so that all run in one process.
# dictionary-learning names needs that its trainers do not have (nnsight, umap, wandb ...).
$(PEERS)/.others:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) torch==2.13.0+cpu 2>/dev/null || $(PEERS_PIP) torch==2.13.0
	$(PEERS_PIP) torch==2.13.0 sae-lens==6.54.12 eai-sparsify==1.3.3 einops
	$(PEERS_PIP) --no-deps dictionary-learning==0.1.0
	touch $@

$(PEERS)/.installed: $(PEERS)/.others pyproject.toml CMakeLists.txt $(NATIVE)
	$(PEERS_PIP) --editable ".[web]"
	touch $@

# By itself: it needs a transformers below 4.57. No newer pyarrow has what its datasets calls.
$(DASHBOARD)/.installed:
	$(PYTHON) -m venv $(DASHBOARD)
	$(DASHBOARD_PIP) torch==2.13.0+cpu 2>/dev/null || $(DASHBOARD_PIP) torch==2.13.0
	$(DASHBOARD_PIP) torch==2.13.0 sae-dashboard==0.8.0 'pyarrow<19'
	touch $@
