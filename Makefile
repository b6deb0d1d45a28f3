# The two commands of the README are `make run` and `make test`; each sets up whatever it needs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: run test test-ceph lint types imports audit lock docs bench bench-s3 tools clean

run: $(VENV)/run.ok
	@$(BIN)/mirror serve $(ARGS)

test: $(VENV)/dev.ok
	@$(BIN)/python -m pytest -m "not ceph" $(ARGS)

# The tests against Ceph's S3 gateway; as root it installs that first (Debian's packages, about 64 MB).
test-ceph: $(VENV)/dev.ok
	@sh tests/install_tools.sh ceph
	@$(BIN)/python -m pytest -m ceph $(ARGS)

# What the tests need besides Python packages (strace, a file system to break, …); without root it says what is missing.
tools:
	@sh tests/install_tools.sh

lint: $(VENV)/dev.ok
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/dev.ok
	@$(BIN)/mypy

imports: $(VENV)/dev.ok
	@$(BIN)/lint-imports

audit: $(VENV)/dev.ok
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip -r requirements.txt

bench: $(VENV)/dev.ok
	@$(BIN)/python -m benchmarks.cold $(ARGS)

bench-s3: $(VENV)/dev.ok
	@$(BIN)/python -m benchmarks.s3 $(ARGS)

# After a change of dependencies. The files hold hashes and no addresses.
COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11

lock: $(VENV)/dev.ok
	@$(COMPILE) --all-extras pyproject.toml -o requirements.txt
	@$(COMPILE) --all-extras --group dev pyproject.toml -c requirements.txt -o requirements-dev.txt
	@$(COMPILE) --no-annotate tests/support/s3/moto.in -o tests/support/s3/moto.txt

docs: $(VENV)/dev.ok
	@$(BIN)/mirror config --markdown > docs/reference/settings.md

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .work

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/run.ok: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/dev.ok: requirements-dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) …"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/run.ok
