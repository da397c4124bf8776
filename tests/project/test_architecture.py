"""The rooms of docs/architecture.md: what each may import, and which libraries it never loads."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "inkit_exporter"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.splitlines() if line.startswith("| `")
]


def names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",") if name.strip()]


MAY_IMPORT = {row[0].strip("`"): set(names(row[2])) for row in ROWS}
NEVER_LOADS = {row[0].strip("`"): set(names(row[3])) for row in ROWS if names(row[3])}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    """Return the room of a module name. It is empty for the package itself, which has only the version."""
    return module.removeprefix("inkit_exporter").removeprefix(".").split(".")[0]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the rooms that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("inkit_exporter") for alias in node.names), (
                "write `from ... import`, which this test reads"
            )
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            if node.module == "inkit_exporter":
                yield from (alias.name for alias in node.names if alias.name != "__version__")
            elif (node.module or "").startswith("inkit_exporter."):
                yield room_of(node.module or "")


def test_every_room_is_in_the_table() -> None:
    assert {room_of(module_name(path)) for path in MODULES} - {""} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(module_name(path))
    allowed = MAY_IMPORT.get(room, set())
    if allowed != {"all"}:
        assert set(imports(path)) <= allowed | {room}


def test_the_table_allows_no_cycle_and_no_unused_import() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in MODULES:
        if room := room_of(module_name(path)):
            used[room] |= set(imports(path)) - {room}
    assert {room: allowed for room, allowed in MAY_IMPORT.items() if allowed != {"all"}} == {
        room: rooms for room, rooms in used.items() if MAY_IMPORT[room] != {"all"}
    }
    below: set[str] = set()
    while later := {room: rooms - below for room, rooms in used.items() if room not in below}:
        free = {room for room, rooms in later.items() if not rooms}
        assert free, f"the imports of {sorted(later)} form a cycle"
        below |= free


@pytest.mark.process
@pytest.mark.parametrize("room", NEVER_LOADS)
def test_no_room_loads_a_library_that_its_row_excludes(room: str) -> None:
    modules = [module_name(path) for path in MODULES if room_of(module_name(path)) == room]
    code = f"import sys, {', '.join(modules)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not NEVER_LOADS[room] & set(loaded.stdout.split())


def test_the_init_file_of_a_room_has_only_a_docstring_that_lists_its_imports() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        room = path.parent.name
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr)
        text = ast.literal_eval(docstring.value)
        assert (
            text.splitlines()[-1] == f"May import: {', '.join(sorted(MAY_IMPORT[room], key=list(MAY_IMPORT).index))}."
        )


def test_the_window_imports_no_clock_and_no_io() -> None:
    for path in (PACKAGE / "window").glob("*.py"):
        roots = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
        }
        assert roots <= {"bisect", "collections", "functools", "inkit_exporter", "math", "msgspec", "typing"}


def test_the_core_and_each_module_are_small_enough_to_read() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert max(lines.values()) <= 300
    core = ("api", "window", "polling", "state")
    assert sum(count for path, count in lines.items() if room_of(module_name(path)) in core) < 2000


def test_files_and_names_in_the_document_exist() -> None:
    for name in re.findall(r"`([\w/]+\.(?:py|js|md|yaml))`", DOCUMENT):
        assert any((folder / name).exists() for folder in (ROOT, PACKAGE)), name
    code = "\n".join(path.read_text() for path in (*MODULES, *(ROOT / "tests" / "support").glob("*.py")))
    for name in re.findall(r"`(?:\w+\.)?([A-Za-z_]+)`", DOCUMENT.partition("## From an answer")[2]):
        assert re.search(rf"\b{name}\b", code), name
