#!/bin/sh
# Downloads today's Prometheus, Alertmanager and VictoriaMetrics from Debian's newest suite, and unpacks them into .compat.
# It installs nothing, and leaves the system's package lists unchanged.
set -eu
suite=${COMPAT_SUITE:-sid}
cd "$(dirname "$0")/.."
rm -rf .compat
mkdir -p .compat/lists/partial .compat/cache/archives/partial
cd .compat

# The machine's own mirror has the newest suite too.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -1)
[ -n "$mirror" ] || { echo "needs Debian, and apt-get update once" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >sources.list

apt() {
    apt-get -qq -o Dir::Etc::SourceList="$PWD/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$PWD/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$PWD/cache" \
        -o APT::Sandbox::User= "$@"
}
echo "Downloading 100 MB: Prometheus, Alertmanager and VictoriaMetrics of Debian $suite."
apt update
apt download prometheus promtool prometheus-alertmanager victoria-metrics
for package in *.deb; do
    dpkg-deb --extract "$package" root
    dpkg-deb --field "$package" Package Version | sed 's/.*: //' | paste -s -d ' '
done >versions
