#!/bin/sh
# Installs the Debian packages that are missing, or says which.   tools/debian_packages.sh PACKAGE...
set -eu
missing=
for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    # Elsewhere than on Debian the same programs may well be there under other packages' names.
    command -v promtool >/dev/null && [ "$missing" = " prometheus" ] && exit 0
    echo "missing:$missing. Install with: sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# The packages' own services are not wanted: RUNLEVEL=1 keeps them from being started.
# shellcheck disable=SC2086
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
