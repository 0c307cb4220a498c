# Every target installs first if need be; PYTHON names the interpreter to build the environment from.
.POSIX:

PYTHON ?= python3

.PHONY: install demo test test-all check up clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e ".[demo,dev]"
	touch .venv/installed

demo: .venv/installed
	.venv/bin/flywheel demo

test: .venv/installed
	.venv/bin/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder -m "not stack"

# Beside these, what drives a standing stack: browsers, kills, schedules.
test-all: .venv/installed
	.venv/bin/python -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

up: .venv/installed
	.venv/bin/flywheel up

# What projects wrote (var/) is nobody's to delete but its owner's.
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info build dist
