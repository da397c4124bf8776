"""Run the benchmarks of docs/performance.md, and write their output into it.

Each block of the page begins with a comment that names its command, `<!-- python bench/poll.py -->`, and ends with
`<!-- end -->`.

    make bench-report        all, half an hour on a quiet machine; python bench/report.py poll scrape: only those
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"<!-- python (?P<command>bench/(?P<name>\w+)\.py.*?) -->\n.*?<!-- end -->", flags=re.DOTALL)


def renew(block: re.Match[str]) -> str:
    """The block with the new output of its command."""
    command = block["command"]
    print(command, flush=True)
    run = subprocess.run([sys.executable, *command.split()], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return f"<!-- python {command} -->\n{run.stdout.strip()}\n<!-- end -->"


def main() -> None:
    """Renew the blocks of these names, or all. Writes the page after each block."""
    names = set(sys.argv[1:])
    for block in list(BLOCK.finditer(PAGE.read_text())):
        if not names or block["name"] in names:
            renewed = renew(block)  # this takes minutes, and somebody may edit the page meanwhile
            PAGE.write_text(PAGE.read_text().replace(block[0], renewed))


if __name__ == "__main__":
    main()
