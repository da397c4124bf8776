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

from inkit_exporter.errors import ConfigError

T = TypeVar("T")


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a configuration. It rejects unknown keys."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors of a file, or of reading it, into a ConfigError that begins with its path."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. Anything else raises OSError: a pipe would block until somebody writes to it."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a regular file")
        return file.read()


def read_yaml_as(kind: type[Section], text: str) -> object:
    """Read a document by the types of the settings: each scalar becomes what its setting wants.

    Text stays as written: `no`, `0123`, `1:30`. A boolean may be yes, no, on or off. A key without a value is left out,
    so its default applies. `~` means no value. So does `null`, unless text is required.

    Raises ConfigError with line and column. `convert` checks whether the values fit their types.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node and loader.value(node, inspect.type_info(kind))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}{error.problem or 'not valid YAML'}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"position {error.position}: a character that YAML does not allow; remove it") from None
    except (yaml.YAMLError, RecursionError, *_NOT_VALID) as error:
        raise ConfigError(f"not valid YAML ({type(error).__name__})") from None


def convert(document: object, kind: type[T], *, reference: str, remedies: Mapping[str, str] = {}) -> T:
    """Make settings from a document. Our own types have a method `parse`, which may raise ValueError.

    Raises ConfigError with the place. For an unknown key, it has the remedy for that key in snake_case, or else the
    reference that lists all keys.
    """
    try:
        return msgspec.convert(document, kind, dec_hook=_parse)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), reference, remedies)) from None


def _parse(kind: Any, value: object) -> object:
    return kind.parse(value)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


_ANY: Final = inspect.AnyType()
_NOT_VALID: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML raises for invalid escapes and scalars."""
_INTEGER: Final = re.compile(r"(?a)0|-?[1-9]\d{0,999}")  # bounded: Python refuses to read over 4,300 digits


class _Loader(yaml.SafeLoader):
    """Loads YAML's safe subset. A plain scalar is text or no value.

    It refuses keys given twice, half characters, and aliases, which could expand without end.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - nobody changes it
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise _misplaced("aliases (*name) are not supported", self.peek_event())  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _misplaced("half a character (a surrogate); remove it", node)
        return node

    def value(self, node: Any, kind: inspect.Type, *, required: bool = True) -> object:
        """The value of a node as its type wants it, or None. What does not fit stays as it is."""
        match node:
            case yaml.MappingNode(tag=self.DEFAULT_MAPPING_TAG):
                return self._mapping(node, kind)
            case yaml.SequenceNode(tag=self.DEFAULT_SEQUENCE_TAG):
                item_kind = kind.item_type if isinstance(kind, inspect.VarTupleType) else _ANY
                return [self.value(item, item_kind) for item in node.value]
            case yaml.ScalarNode(tag=self.DEFAULT_SCALAR_TAG):
                if isinstance(kind, inspect.BoolType):
                    return self.bool_values.get(node.value.lower(), node.value)
                is_integer = isinstance(kind, inspect.IntType) and _INTEGER.fullmatch(node.value)
                return int(node.value) if is_integer else node.value
            case yaml.ScalarNode(tag="tag:yaml.org,2002:null"):
                is_text = required and isinstance(kind, inspect.StrType) and node.value.lower() == "null"
                return node.value if is_text else None
        try:
            return self.construct_object(node, deep=True)
        except _NOT_VALID:
            raise _misplaced(f"not a valid {node.tag.rpartition(':')[2]}; quote it if it is text", node) from None

    def _mapping(self, node: yaml.MappingNode, kind: inspect.Type) -> dict[str, object]:
        fields = {field.encode_name: field for field in kind.fields} if isinstance(kind, inspect.StructType) else {}
        values: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _misplaced("a key must be text", key_node)
            if (key := key_node.value) in values:
                raise _misplaced(f"key `{key}` is given twice", key_node)
            field = fields.get(key)
            values[key] = self.value(value_node, field.type if field else _ANY, required=not field or field.required)
        return {key: value for key, value in values.items() if value is not None or key not in fields}


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
    return f"{place + ': ' if place else ''}{text[:1].lower()}{text[1:]}"
