# Targets: demo (train, evaluate and visualize PANet on the embedded dataset), test, test-fast, install,
# lint, types, docs, format, lock. Variables: PYTHON, the interpreter to set up with; TORCH=cpu, PyTorch without
# CUDA; DETECTRON2, see tools/install.sh.

PYTHON ?= python3
DETECTRON2 ?=
TORCH ?=
BIN := .venv/bin

.PHONY: demo test test-fast install lint types docs format lock

demo:
	@start=$$(date +%s); $(MAKE) --no-print-directory install && \
		$(BIN)/panet demo --setup-seconds $$(($$(date +%s) - start))

test: install
	$(BIN)/python -m pytest -q -n auto

# Without those that run whole programs or trainings, or take long.
test-fast: install
	$(BIN)/python -m pytest -q -n auto -m "not integration and not slow"

install:
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" tools/install.sh "$(DETECTRON2)"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins the newest versions that go together, for every Python from 3.10 on.
lock:
	uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras --no-annotate \
		--no-emit-package opencv-python --no-emit-package typing \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock
