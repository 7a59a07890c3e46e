# A thin front: one virtual environment, then kvlab and pytest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test bench compiled lint format clean

demo: $(INSTALLED)
	$(BIN)/kvlab compare kvlab/studies/demo.toml --out demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto

# Of the compiled kvlab, where it has been made.
bench: $(INSTALLED)
	$(or $(wildcard .venv-compiled/bin/kvlab),$(BIN)/kvlab) bench

# kvlab with what every event goes through compiled by mypyc, in an environment of its own, to be
# made anew when the code changes. Built from an archive, so that no libraries lie beside the sources.
compiled:
	rm -rf build/compiled
	$(PYTHON) -m venv .venv-compiled
	.venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check hatchling
	.venv-compiled/bin/python -m hatchling build --target sdist --directory build/compiled
	HATCH_BUILD_HOOKS_ENABLE=1 .venv-compiled/bin/python -m pip install --quiet \
	  --disable-pip-version-check --force-reinstall build/compiled/*.tar.gz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kvlab needs Python 3.11 or newer; set PYTHON=/path/to/it" >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python -e '.[dev,conformance]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,conformance]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) .venv-compiled build *.egg-info demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
