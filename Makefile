# Two commands do all: `make demo` and `make test`. Each sets up its own virtual environment first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TYPING := $(VENV)/typing

.PHONY: demo test lint types check clean

demo: $(READY)
	@$(BIN)/meshlore demo $(ARGS)

test: $(READY)
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) $(TYPING)/meshlore
	MYPYPATH=$(TYPING) $(BIN)/mypy -p meshlore.node -p meshlore.mesh -p meshlore.knowledge -p meshlore.security

check: lint types test

$(READY): pyproject.toml constraints.txt setup.sh
	@PYTHON=$(PYTHON) sh setup.sh $(VENV)

# mypy finds the package under its name, whatever the checkout folder is called
$(TYPING)/meshlore:
	mkdir -p $(TYPING)
	ln -sfn ../.. $(TYPING)/meshlore

clean:
	rm -rf $(VENV) build *.egg-info runs
