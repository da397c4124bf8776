#!/bin/sh
# Prints a bill of materials in CycloneDX format from requirements.txt: names, versions and hashes.
set -eu
project=$(mktemp)
trap 'rm -f "$project"' EXIT
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' inkit_exporter/__init__.py)
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml >"$project" # cyclonedx_py can't read the version from the code
.venv/bin/python -W ignore -m cyclonedx_py requirements --pyproject "$project" --output-reproducible requirements.txt
