# make demo: the main job on real engines; make test: every test. Both install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint bench bench-latency peers chaos setup system clean lock schemas
help:
	@echo "make demo   the whole job on Kafka, Redis and the ClickHouse engine, checked (KEEP=1 leaves it running)"
	@echo "make test   every test      make lint   ruff, strict types, import direction"
	@echo "make chaos  ten minutes of killed processes, judged by an oracle (SECONDS=600 SEED=7)"
	@echo "make bench-latency  case -> last exposure and late scan -> exposure under 20,000 scans/s (QUICK=1: a short run)"
	@echo "make bench  all measurements, one to two hours (QUICK=1: 3 minutes, whether they work; PARTS=throughput: only that)"
	@echo "make lock   pin the dependencies again"

setup: system .venv/.installed deploy/local/kafka/libs/.installed

system:
	@sh deploy/local/system.sh

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.11"; exit 1; }
	@echo "Installing the Python packages into .venv …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

deploy/local/kafka/libs/.installed: deploy/local/kafka/pom.xml
	@echo "Fetching Apache Kafka …"
	@cd deploy/local/kafka && rm -rf libs.new && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs.new \
		|| { rm -rf libs.new; echo "Could not fetch Apache Kafka through Maven: see above; is the network there?"; exit 1; }
	@cd deploy/local/kafka && rm -rf libs && mv libs.new libs # never the jars of two versions in one folder
	@touch $@

demo: setup
	@$(BIN)/truyvet demo $(if $(KEEP),--keep)

# two processes, each with engines of its own; the tests of a file stay together
test: setup peers lint
	@$(BIN)/pytest -n 2 --dist loadfile --durations 15

lint: .venv/.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup peers
	@$(BIN)/python -m benchmarks $(PARTS) $(if $(QUICK),--quick)

# what the benchmark compares with: packages that users never need
peers: .venv/.installed
	@sh deploy/local/system.sh peers
	@$(MAKE) --no-print-directory -j2 .venv-bench/.installed benchmarks/kafka_streams/classes/.built

# its modules are compiled when they are first imported: most of them never are
.venv-bench/.installed: requirements-bench.lock
	@echo "Installing the peers of the benchmark into .venv-bench …"
	@rm -rf .venv-bench && $(PYTHON) -m venv --without-pip .venv-bench
	@$(BIN)/python -m pip --python .venv-bench/bin/python install --quiet --disable-pip-version-check --no-compile \
		--require-hashes --no-deps -r requirements-bench.lock
	@touch $@

benchmarks/kafka_streams/libs/.installed: benchmarks/kafka_streams/pom.xml
	@echo "Fetching Kafka Streams …"
	@cd benchmarks/kafka_streams && rm -rf libs.new && mvn -q -B dependency:copy-dependencies -DoutputDirectory=libs.new \
		|| { rm -rf libs.new; echo "Could not fetch Kafka Streams through Maven: see above; is the network there?"; exit 1; }
	@cd benchmarks/kafka_streams && rm -rf libs && mv libs.new libs
	@touch $@

benchmarks/kafka_streams/classes/.built: benchmarks/kafka_streams/libs/.installed $(wildcard benchmarks/kafka_streams/src/*.java)
	@cd benchmarks/kafka_streams && rm -rf classes && javac -d classes -cp 'libs/*' src/*.java
	@touch $@

bench-latency: setup
	@$(BIN)/python -m benchmarks.latency $(if $(QUICK),--quick)

chaos: setup
	@PYTHONPATH=. $(BIN)/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(SCANS),--scans $(SCANS)) $(if $(OUT),--out $(OUT))

lock:
	uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock
	uv pip compile -q --group bench --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements-bench.lock

schemas: .venv/.installed
	@$(BIN)/truyvet schemas export docs/schemas

clean:
	rm -rf .venv .venv-bench deploy/local/kafka/libs benchmarks/kafka_streams/libs benchmarks/kafka_streams/classes
