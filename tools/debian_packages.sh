#!/bin/sh
# Installs the Debian packages whose programs are missing. Without root, it only names them.
#   tools/debian_packages.sh PACKAGE=PROGRAM...
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
# Packages such as prometheus start a server when they are installed, which a check must not do. Debian asks policy-rc.d
# before it starts a service, with and without systemd, and 101 means no. (RUNLEVEL=1 works only without systemd.) This
# script puts its policy-rc.d there while apt-get runs. It moves an existing one aside and restores it.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
own=$policy.before-inkit-exporter

restore() {
    rm -f "$policy"
    if [ -e "$own" ] || [ -L "$own" ]; then mv "$own" "$policy"; fi
}

if grep -qs "made by tools/debian_packages.sh" "$policy"; then restore; fi # a killed run left it
if [ -e "$policy" ] || [ -L "$policy" ]; then mv "$policy" "$own"; fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' HUP TERM
printf '#!/bin/sh\n# made by tools/debian_packages.sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
echo "installed:$missing. Their services are not started, but systemd starts them at the next boot: systemctl disable …" >&2
