"""The blocks of README and docs, and the commands in them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from support import ROOT

_PROGRAMS = (
    "alertmanager|amtool|cd|curl|docker|gh|git|helm|htpasswd|inkit-exporter|install|journalctl|kubectl|make|openssl|"
    r"promtool|prometheus|python3?|rm|systemctl|[\w./-]*bin/[\w-]+"
)


class Block(NamedTuple):
    """An indented or fenced block of a document, without the indentation."""

    document: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its commands, each in one line without its comment; none if it is no block of commands."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if prompted := [line[2:] for line in lines if line.startswith("$ ")]:
            lines = prompted
        elif self.language or not re.match(rf"(?:[A-Z_]+=(?:\$\(.*?\)|\S+) )?(?:{_PROGRAMS})\s", self.text):
            return []
        return [re.sub(r"\s+# .*", "", line).strip() for line in lines if line.strip()]


def blocks() -> list[Block]:
    """All blocks of all documents for users and contributors."""
    paths = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
    return [block for path in paths for block in _blocks(str(path.relative_to(ROOT)), path.read_text())]


def _blocks(document: str, text: str) -> Iterator[Block]:
    fence = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
    for match in fence.finditer(text):
        yield Block(document, text.count("\n", 0, match.start()) + 1, match[1] or "text", match[2])
    text = fence.sub(lambda match: re.sub(r"[^\n]", "", match[0]), text)
    for match in re.finditer(r"(?:(?<=\n\n)|\A)(?: {4,}.*\n(?:\n(?= {4}))?)+", text):
        indent = min(len(line) - len(line.lstrip()) for line in match[0].splitlines() if line)
        lines = [line[indent:] for line in match[0].splitlines()]
        yield Block(document, text.count("\n", 0, match.start()) + 1, "", "\n".join(lines) + "\n")
