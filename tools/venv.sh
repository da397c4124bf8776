#!/bin/sh
# Creates .venv if it is missing, and installs a hashed requirements file into it.   tools/venv.sh FILE
set -eu
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is older or missing. Choose another: make PYTHON=python3.13" >&2
    exit 1
}
if ! [ -x .venv/bin/pip ]; then
    # On Debian, venv needs another package.
    "$python" -c 'import ensurepip' 2>/dev/null || "$(dirname "$0")/debian_packages.sh" python3-venv=ensurepip
    echo "Creating the Python environment .venv; nothing is installed elsewhere."
    "$python" -m venv --clear .venv
fi
echo "Installing $(grep -c '==' "$1") packages from $1. The first time takes up to a minute."
install() { .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r "$1"; }
if grep -q '^uv==' "$1"; then
    # uv installs the rest in 5 seconds, where pip takes 30. It knows no settings of pip's: if it fails, pip tries too.
    sed -n '/^uv==/,/[^\\]$/p' "$1" >.venv/uv.txt
    install .venv/uv.txt
    .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r "$1" || install "$1"
else
    install "$1"
fi
