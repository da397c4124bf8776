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
# Packages such as prometheus start a server when they are installed; a check must not. Debian asks policy-rc.d before
# it starts one, with systemd and without, and takes 101 for no. (An environment variable such as RUNLEVEL=1 is only
# heeded without systemd.) Ours is there only while apt-get runs; one of the machine's own is moved aside and put back.
policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
own=$policy.before-inkit-exporter

restore() {
    rm -f "$policy"
    if [ -e "$own" ] || [ -L "$own" ]; then mv "$own" "$policy"; fi
}

if grep -qs "made by tools/debian_packages.sh" "$policy"; then restore; fi # left by a run that was killed
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
echo "installed:$missing. Not started, but where systemd runs they start with the next boot: systemctl disable …" >&2
