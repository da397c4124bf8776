# `make demo` tries the exporter, `make check` is quick, `make test` checks everything. Each sets up what it needs.
PYTHON ?= python3
# Each with one of its programs, which shows that the package is installed.
DEBIAN_PACKAGES = chromium=chromium chromium-driver=chromedriver curl=curl faketime=faketime jq=jq openssl=openssl \
    prometheus=promtool prometheus-alertmanager=amtool systemd=systemd-analyze tinyproxy-bin=tinyproxy wget=wget
BIN = .venv/bin
PARALLEL = --numprocesses=auto --dist=worksteal

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: .venv/runtime  ## export a simulated Inkit API: no key, no configuration
	@echo "Starting the exporter with a simulated Inkit API; Ctrl-C ends it."
	@$(BIN)/python exporter.py --demo

check: lint  ## check format, lint, types, and run the tests that start no process, in under a minute
	$(BIN)/pytest $(PARALLEL) -m "not process"

test: lint  ## run every check that CI runs, in about six minutes; prints the lines that no test runs, apart from random input
	tools/debian_packages.sh $(DEBIAN_PACKAGES)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not alone"
	$(BIN)/pytest --numprocesses=2 --dist=load --maxschedchunk=1 -m alone
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: .venv/dev  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-workflows: .venv/dev  ## check the files of .github against their schemas, and for insecure workflows
	$(BIN)/python tools/check_schemas.py
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github

sbom: .venv/dev  ## print the bill of materials, in CycloneDX format
	@tools/sbom.sh

format: .venv/dev  ## format the code, and apply the linter's fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## pin the dependencies of pyproject.toml, with hashes
	tools/lock.sh

chart: .venv/dev  ## generate the Helm chart's README and the Kubernetes manifests
	$(BIN)/python tools/chart.py

dashboard: .venv/dev  ## generate the Grafana dashboard from its source
	$(BIN)/python deploy/grafana/dashboard.py

screenshot: .venv/dev  ## take the README's picture of the status page
	tools/debian_packages.sh chromium=chromium chromium-driver=chromedriver
	$(BIN)/python tools/screenshot.py

bench: .venv/dev  ## measure polls and memory; prints versions and ratios
	$(BIN)/python bench/budget.py
	$(BIN)/python bench/poll.py
	$(BIN)/python bench/connections.py

bench-scrape: .venv/bench  ## measure scrapes, compared with other servers
	tools/debian_packages.sh wrk=wrk nginx-light=nginx prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/scrape.py

bench-footprint: .venv/dev  ## measure start, memory and size, compared with other exporters
	tools/debian_packages.sh prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/footprint.py

bench-freshness: .venv/dev  ## measure how soon a change reaches Prometheus
	tools/debian_packages.sh prometheus=prometheus wrk=wrk
	$(BIN)/python bench/freshness.py

bench-report: .venv/bench  ## run the benchmarks of docs/performance.md, and update its tables
	tools/debian_packages.sh prometheus=prometheus wrk=wrk nginx-light=nginx \
	    prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/report.py

bench-soak: .venv/dev  ## run an hour of simulated days with faults, and print whether memory stays flat
	$(BIN)/python bench/soak.py

compat: .venv/dev  ## run the exporter with today's Prometheus, Alertmanager and VictoriaMetrics; downloads 100 MB
	compat/packages.sh
	$(BIN)/python compat/check.py

mutate: .venv/dev  ## check that a test fails for every small mistake in the core; takes some hours
	tools/mutate.sh $(MUTANTS)

audit: .venv/dev  ## look up known vulnerabilities of the dependencies on PyPI
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.txt

clean:  ## remove the files that the other targets created
	rm -rf .venv .compat mutants .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build *.egg-info

.venv/runtime: requirements.txt
	@PYTHON=$(PYTHON) tools/venv.sh requirements.txt
	@touch $@

.venv/dev: requirements-dev.txt
	@PYTHON=$(PYTHON) tools/venv.sh requirements-dev.txt
	@touch $@ .venv/runtime

.venv/bench: requirements-bench.txt .venv/dev
	@PYTHON=$(PYTHON) tools/venv.sh requirements-bench.txt
	@touch $@

.PHONY: help demo check test lint check-workflows sbom format lock chart dashboard screenshot bench \
    bench-scrape bench-footprint bench-freshness bench-report bench-soak compat mutate audit clean
