#!/bin/sh
# Compiles pyproject.toml into the two hashed requirements files, for every platform and Python from 3.11 on.
set -eu
compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --custom-compile-command "make lock" --output-file "$@" pyproject.toml
}
compile requirements.txt
compile requirements-dev.txt --extra dev
compile requirements-bench.txt --extra bench
