#!/bin/sh
# Prints what the exporter consists of, as CycloneDX, from the lock: names, versions and hashes.   tools/sbom.sh
set -eu
project=$(mktemp)
trap 'rm -f "$project"' EXIT
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' inkit_exporter/__init__.py)
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml >"$project" # the tool reads no version from code
.venv/bin/python -W ignore -m cyclonedx_py requirements --pyproject "$project" --output-reproducible requirements.txt
