"""Reads YAML files into validated settings, for the configuration and the web configuration."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml
from msgspec import Struct, inspect

from inkit_exporter.errors import ConfigError, reason_of

T = TypeVar("T")


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a configuration. It rejects unknown keys."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors of a file, or of reading it, into a ConfigError that begins with its path."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {reason_of(error)}") from None
    except UnicodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_file(path: Path, most_bytes: int = 2**24) -> bytes:
    """The bytes of a regular file. Anything else raises OSError: a pipe would block until somebody writes to it."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        if len(content := file.read(most_bytes + 1)) > most_bytes:
            raise OSError(0, f"larger than {most_bytes} bytes")
        return content


def read_settings(text: str, kind: type[T], *, reference: str, remedies: Mapping[str, str] = {}) -> tuple[T, Any]:
    """Read YAML as settings. Returns them, and the values that the text gives, without defaults.

    Each scalar becomes what its setting wants. Text stays as written: `no`, `0123`, `1:30`. A boolean may be yes, no,
    on or off. A key without a value is left out, so its default applies. `~` means no value. So does `null`, unless
    text is required. Our own types have a method `parse`, which may raise ValueError.

    Raises ConfigError with the place. For an unknown key, it has the remedy for that key in snake_case, or else the
    reference that lists all keys.
    """
    given = _read(text, inspect.type_info(kind))
    try:
        return msgspec.convert(given, kind, strict=False, dec_hook=_parse), given
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), reference, remedies)) from None


def _read(text: str, kind: inspect.Type) -> object:
    try:
        node = _Composer(text).get_single_node()
        value = _value(node, kind) if node else None
        return {} if value is None else value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}{error.problem or 'not valid YAML'}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"position {error.position}: a character that YAML does not allow; remove it") from None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # the last two for invalid escapes
        raise ConfigError(f"not valid YAML ({type(error).__name__})") from None


def _parse(kind: Any, value: object) -> object:
    return kind.parse(value)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class _Composer(yaml.BaseLoader):
    """Reads YAML without tags, characters that no file's name may have, and aliases, which could expand without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.tag:
            raise _misplaced("aliases (*name) and tags (!name) are not supported", event)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and _UNUSABLE.search(node.value):
            raise _misplaced("a NUL or half a character (a surrogate); remove it", node)
        return node


def _value(node: yaml.Node, kind: inspect.Type) -> object:
    """The value of a node: text, unless its type is a boolean, or None."""
    match node:
        case yaml.MappingNode():
            return _mapping(node, kind)
        case yaml.SequenceNode():
            item_kind = kind.item_type if isinstance(kind, inspect.VarTupleType) else _ANY
            return [_value(item, item_kind) for item in node.value]
        case yaml.ScalarNode(style=None, value="" | "~" | "null" | "Null" | "NULL"):
            return None
        case _ if isinstance(kind, inspect.BoolType):
            return yaml.SafeLoader.bool_values.get(node.value.lower(), node.value)
    return node.value


def _mapping(node: yaml.MappingNode, kind: inspect.Type) -> dict[str, object]:
    fields = {field.encode_name: field for field in kind.fields} if isinstance(kind, inspect.StructType) else {}
    values: dict[str, object] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _misplaced("a key must be text", key_node)
        if (key := key_node.value) in values:
            raise _misplaced(f"key `{key}` is given twice", key_node)
        field = fields.get(key)
        values[key] = _value(value_node, field.type if field else _ANY)
        is_text_required = field is not None and field.required and isinstance(field.type, inspect.StrType)
        if values[key] is None and is_text_required and value_node.value.lower() == "null":
            values[key] = value_node.value
    return {key: value for key, value in values.items() if value is not None or key not in fields}


_ANY: Final = inspect.AnyType()
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
_KINDS: Final = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "null": "nothing",
}
"""In plain words, what msgspec calls by the names of types."""


def _misplaced(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _explain(message: str, reference: str, remedies: Mapping[str, str]) -> str:
    """Move the place to the front. msgspec says `… - at `$.poll.interval``."""
    text, _, place = message.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if key := re.search(r"(unknown|missing required) field `(.*)`", text, re.DOTALL):
        place = f"{place}.{key[2]}".lstrip(".")
        if key[1] == "unknown":
            text = remedies.get(key[2].lower().replace("-", "_"), f"unknown key; {reference} lists all keys")
        else:
            text = f"missing; {reference} shows it"
    elif text.startswith("Invalid enum value"):
        text = f"{text.removeprefix('Invalid enum value ')} is not one of its values; {reference} lists them"
    elif text.startswith("Expected"):
        text = re.sub(r"`(\w+)( \| null)?`", lambda kind: _KINDS[kind[1]], text) + f"; see {reference}"
    return f"{place + ': ' if place else ''}{text[:1].lower()}{text[1:]}"
