#!/bin/sh
# Prints the changelog's section of a version, and fails if there is none or the code has another.   tools/release_notes.sh VERSION
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
