# make demo   from photographs to an evaluated backbone, with a report      (10 minutes on 2 cores)
# make test   installs what it needs and runs every test                    (20 minutes on 2 cores)
# make check  lint, types and the fast tests, while you work                (4 minutes)
# make soak PART=NAME   the long drills, a part at a time
# make test-cluster     viewmill launch on hosts that are namespaces of this machine: root, and what apt brings

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The constraints are those of Python 3.11; another Python resolves the ranges of pyproject.toml itself.
LOCKED := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info[:2] == (3, 11)))')
DEMO ?= demo
PART ?= all
# The tests run in as many processes as there are cores, each with one thread: `make check JOBS=0` for one process.
JOBS ?= logical
TESTS = OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --maxprocesses=8 --durations=20
# Threads that wait sleep: spinning halves the speed of a machine that does anything else.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= passive

.PHONY: install check test test-cluster lint types soak demo clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),1)
	$(BIN)/pip install -q --no-compile --require-hashes -r constraints.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
else
	$(BIN)/pip install -q -e '.[dev]'
endif
	touch $@

# FFCV is built from source, so it needs libraries that pip does not bring; without them its tests are skipped.
$(VENV)/.ffcv: $(STAMP) constraints-ffcv.txt
	@if ! pkg-config --exists opencv4 libturbojpeg; then \
	    echo "no FFCV: apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++"; exit 0; \
	elif [ $(LOCKED) = 1 ]; then \
	    $(BIN)/pip install -q --no-compile --no-build-isolation --require-hashes -r constraints-ffcv.txt; \
	else \
	    $(BIN)/pip install -q --no-build-isolation ffcv; \
	fi && touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types
	$(TESTS) -m 'not slow and not soak'

test: lint types $(VENV)/.ffcv
	$(TESTS) -m 'not soak'

soak: install $(VENV)/.ffcv
	$(BIN)/pytest -q -m soak --durations=20 -k '$(if $(filter all,$(PART)),,$(PART))'

CLUSTER_PACKAGES = openssh-server openssh-client pdsh iproute2 openmpi-bin slurmctld slurmd slurm-client munge

test-cluster: install
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    command -v pdsh >/dev/null && command -v mpirun >/dev/null && [ -x /usr/sbin/sshd ] && command -v ip >/dev/null \
	    && command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v sbatch >/dev/null \
	    || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	         --no-install-recommends $(CLUSTER_PACKAGES) >/dev/null; }; \
	fi
	$(BIN)/pytest -q -ra --durations=20 -m 'soak or not soak' tests/drills/cluster

demo: install
	$(BIN)/viewmill sample-data $(DEMO)/photographs --test-tiles 120
	$(BIN)/viewmill convert $(DEMO)/photographs/train $(DEMO)/train
	$(BIN)/viewmill convert $(DEMO)/photographs/test $(DEMO)/test
	$(BIN)/viewmill train demo --data $(DEMO)/train --out $(DEMO)/run
	$(BIN)/viewmill evaluate $(DEMO)/run --train $(DEMO)/train --on $(DEMO)/test --tasks knn,linear
	$(BIN)/viewmill report $(DEMO)/run --data $(DEMO)/train

clean:
	rm -rf build dist $(DEMO) .pytest_cache .mypy_cache .ruff_cache *.egg-info
