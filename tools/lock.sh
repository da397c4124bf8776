#!/bin/sh
# Pins the dependencies of pyproject.toml with hashes, for every platform and Python 3.11 or newer.
set -eu
compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --custom-compile-command "make lock" --output-file "$@" pyproject.toml
}
compile requirements.txt
compile requirements-dev.txt --extra dev
compile requirements-bench.txt --extra bench
