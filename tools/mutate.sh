#!/bin/sh
# Makes small mistakes in the core, one at a time, and prints those that no test notices; see docs/mutation.md.
#   tools/mutate.sh [--max-children N] [PATTERN...], such as "inkit_exporter.window.*"
set -eu

mutmut() {
    .venv/bin/uvx --quiet --python .venv/bin/python --with-requirements requirements-dev.txt mutmut==3.8.1 "$@"
}
rm -rf mutants
mutmut run "$@"
mutmut results | grep -v 'not checked$' || true
mutmut results --all true | awk -F '[.:] *' '
    $NF == "not checked" { next }
    $NF == "killed" || $NF == "timeout" { noticed[$2]++ }
    { made[$2]++ }
    END { for (module in made) print module, noticed[module] " of " made[module] }
' | sort
