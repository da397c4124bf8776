#!/bin/sh
# Prints the changelog's section for a version. Fails if it is missing or the code has another version.
#   tools/release_notes.sh VERSION
set -eu
grep -qx "__version__ = \"$1\"" inkit_exporter/__init__.py || {
    echo "inkit_exporter/__init__.py has another version than $1" >&2
    exit 1
}
awk -v heading="## [$1]" '
    index($0, heading) == 1 { within = 1; next }
    within && /^## / { exit }
    within { print; found = found || /^- / }
    END { if (!found) { print "CHANGELOG.md has no changes under " heading >"/dev/stderr"; exit 1 } }
' CHANGELOG.md | sed '/./,$!d'
