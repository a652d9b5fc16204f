# Two commands: `make demo` to see, `make test` to check. Both make .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
RUN ?= runs/demo

.PHONY: demo test lint screenshot clean

demo: $(VENV)/.installed
	$(BIN)/panscope demo --output $(RUN) $(ARGS)

test: $(VENV)/.developed lint
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

lint: $(VENV)/.developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The README's picture, made by the browser test: of a fixture, or of a page of a running server,
# `make screenshot PAGE='http://127.0.0.1:8000/sae/resid_post.2/w1024_l0_20_s0/7?text=Once upon'`.
screenshot: $(VENV)/.developed
	PANSCOPE_SCREENSHOT=docs/screenshot.png $(if $(PAGE),PANSCOPE_PAGE='$(PAGE)') \
	  $(BIN)/pytest tests/browser -k screenshot

clean:
	rm -rf $(VENV)

# torch comes first and alone, so that no other package chooses its build: a CPU build unless the
# machine has CUDA, if pip knows one; otherwise whatever build pip offers of the pinned version.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	command -v nvidia-smi >/dev/null || $(PIP) torch==2.13.0+cpu 2>/dev/null || true
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[web]'
	touch $@

$(VENV)/.developed: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.installed
