#!/bin/sh
# Installs the Debian packages whose programs are missing, or says which.   tools/debian_packages.sh PACKAGE=PROGRAM...
set -eu
missing=
for pair in "$@"; do
    command -v "${pair#*=}" >/dev/null || missing="$missing ${pair%%=*}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing:$missing. Install with: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The packages' own services are not wanted: RUNLEVEL=1 keeps them from being started.
# shellcheck disable=SC2086
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
