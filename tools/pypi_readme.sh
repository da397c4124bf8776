#!/bin/sh
# Prints the README for PyPI, with absolute links.   tools/pypi_readme.sh TAG
set -eu
place=https://github.com/inkit-exporter/inkit-exporter
sed -E "s~(!\[[^]]*\]\()([^)h#][^)]*)~\1$place/raw/$1/\2~g
        s~(\]\()([^)h#][^)]*)~\1$place/blob/$1/\2~g" README.md
