# `make demo` tries the exporter, `make check` is quick, `make test` checks everything. Each sets up what it needs.
PYTHON ?= python3
# Each with a program of it, by which it is known to be there.
DEBIAN_PACKAGES = chromium=chromium chromium-driver=chromedriver curl=curl faketime=faketime jq=jq openssl=openssl \
    prometheus=promtool prometheus-alertmanager=amtool systemd=systemd-analyze tinyproxy-bin=tinyproxy wget=wget
BIN = .venv/bin
PARALLEL = --numprocesses=auto --dist=worksteal

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: .venv/runtime  ## export a simulated Inkit API: no key, no configuration
	@echo "Starting the exporter with a simulated Inkit API; Ctrl-C ends it."
	@$(BIN)/python exporter.py --demo

check: lint  ## in under a minute: format, lint, types, and the tests that start no process
	$(BIN)/pytest $(PARALLEL) -m "not process"

test: lint  ## every check that CI makes, in under seven minutes; prints what lines the tests run
	tools/debian_packages.sh $(DEBIAN_PACKAGES)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not alone"
	$(BIN)/pytest -m alone
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: .venv/dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-workflows: .venv/dev  ## check .github against the schemas and rules of its formats
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose*.yaml
	$(BIN)/zizmor --offline --quiet --config .github/zizmor.yml .github

sbom: .venv/dev  ## print what the exporter consists of, as CycloneDX
	@tools/sbom.sh

format: .venv/dev  ## format the code, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## pin the dependencies of pyproject.toml again, with hashes
	tools/lock.sh

chart: .venv/dev  ## write the Helm chart's README and the Kubernetes manifests again
	$(BIN)/python tools/chart.py

dashboard: .venv/dev  ## write the Grafana dashboard again from its source
	$(BIN)/python deploy/grafana/dashboard.py

screenshot: .venv/dev  ## take the README's picture of the status page again
	tools/debian_packages.sh chromium=chromium chromium-driver=chromedriver
	$(BIN)/python tools/screenshot.py

bench: .venv/dev  ## measure; prints versions and ratios
	$(BIN)/python bench/budget.py
	$(BIN)/python bench/poll.py
	$(BIN)/python bench/connections.py

bench-scrape: .venv/bench  ## measure scrapes, against other servers
	tools/debian_packages.sh wrk=wrk nginx-light=nginx prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/scrape.py

bench-footprint: .venv/dev  ## measure start, memory and size, against other exporters
	tools/debian_packages.sh prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/footprint.py

bench-freshness: .venv/dev  ## measure how soon Prometheus knows of a change
	tools/debian_packages.sh prometheus=prometheus wrk=wrk
	$(BIN)/python bench/freshness.py

bench-report: .venv/bench  ## measure all of these, and write the tables of docs/performance.md
	tools/debian_packages.sh prometheus=prometheus wrk=wrk nginx-light=nginx \
	    prometheus-node-exporter=prometheus-node-exporter
	$(BIN)/python bench/report.py

bench-soak: .venv/dev  ## an hour of simulated days with faults: is memory flat?
	$(BIN)/python bench/soak.py

compat: .venv/dev  ## does it work with today's Prometheus, Alertmanager and VictoriaMetrics? downloads 100 MB
	compat/packages.sh
	$(BIN)/python compat/check.py

mutate: .venv/dev  ## does a test fail for every small mistake in the core? takes some hours
	tools/mutate.sh $(MUTANTS)

audit: .venv/dev  ## look for known vulnerabilities of the dependencies; asks PyPI
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements.txt

clean:  ## remove what the other targets made
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
