"""YAML files as validated settings: what the configuration and the web configuration have in common."""

import re
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
    """A part of a configuration. It rejects keys that it doesn't know."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes a ConfigError that begins with the path of what is wrong with a file, or with reading it."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_yaml(text: str) -> object:
    """Read a document by YAML's own rules: a plain `no` is a boolean, `0123` a number.

    Raises ConfigError with line and column.
    """
    return _load(text, _Loader)


def read_yaml_as(kind: type[Section], text: str) -> object:
    """Read a document by the types of the settings: each scalar is what its setting wants.

    Text is kept as it is written: `no`, `0123`, `1:30`. A boolean may be yes, no, on or off. A key without a value is
    left out, so that its default holds. `~` is no value, and neither is `null`, except where text is required.

    Raises ConfigError with line and column. Whether the values fit their types is left to `convert`.
    """
    return _fit(_load(text, _TextLoader), inspect.type_info(kind))


def convert(document: object, kind: type[T], *, reference: str, remedies: Mapping[str, str] = {}) -> T:
    """Make settings of a document. A type of our own reads its value with `parse`, which may raise ValueError.

    Raises ConfigError with the place. For an unknown key, it has the remedy for that key in snake_case, or else the
    reference that lists all keys.
    """
    try:
        return msgspec.convert(document, kind, dec_hook=_parse)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), reference, remedies)) from None


def _parse(kind: Any, value: object) -> object:
    return kind.parse(value)


def _load(text: str, loader: "type[_Loader]") -> object:
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}{error.problem or 'not valid YAML'}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"position {error.position}: a character that YAML does not allow; remove it") from None
    except (yaml.YAMLError, RecursionError, *_NOT_OF_ITS_TYPE) as error:
        raise ConfigError(f"not valid YAML ({type(error).__name__})") from None


_NOT_OF_ITS_TYPE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML's constructors raise for a scalar or collection that is not what its tag says."""
_INTEGER: Final = re.compile(r"(?a)0|-?[1-9]\d{0,999}")  # bounded, as Python refuses to read 4,300 digits
_NULL: Final = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """YAML's safe subset without keys given twice, and without aliases, which could expand without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As PyYAML; no aliases, and no half characters."""
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported", problem_mark=mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= character <= "\udfff" for character in node.value):
            raise yaml.MarkedYAMLError(
                problem="half a character (a surrogate); remove it", problem_mark=node.start_mark
            )
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As PyYAML, with the place of what is not of its type."""
        try:
            return super().construct_object(node, deep)
        except _NOT_OF_ITS_TYPE:
            problem = f"not a valid {node.tag.rpartition(':')[2]}; quote it if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML; no key twice."""
        seen = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        for key in (key for key, _ in pairs if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key `{key.value}` is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Null(str):
    """What YAML reads as no value, as it is written."""

    __slots__ = ()


class _TextLoader(_Loader):
    """As `_Loader`, but a plain scalar is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - nobody changes it
        first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_TextLoader.add_constructor(_NULL, lambda _, node: _Null(node.value))


def _fit(value: object, kind: inspect.Type, *, required: bool = True) -> object:
    """A value as its type wants it; None if there is none. What does not fit stays as it is."""
    match value, kind:
        case _Null(), _:
            is_text = required and isinstance(kind, inspect.StrType) and value.lower() == "null"
            return str(value) if is_text else None
        case dict(), inspect.StructType(fields=fields):
            known = {field.encode_name: field for field in fields}
            fitted = {
                key: _fit(item, known[key].type, required=known[key].required) if key in known else item
                for key, item in ((str(key), item) for key, item in value.items())
            }
            return {key: item for key, item in fitted.items() if item is not None}
        case list(), inspect.VarTupleType(item_type=item_kind):
            return [_fit(item, item_kind) for item in value]
        case str(), inspect.IntType() if _INTEGER.fullmatch(value):
            return int(value)
        case str(), inspect.BoolType():
            return _Loader.bool_values.get(value.lower(), value)
    return value


def _explain(message: str, reference: str, remedies: Mapping[str, str]) -> str:
    """Put the place first: msgspec says `… - at `$.poll.interval``."""
    text, _, place = message.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if key := re.search(r"(unknown|missing required) field `(.*)`", text, re.DOTALL):
        place = f"{place}.{key[2]}".lstrip(".")
        if key[1] == "unknown":
            text = remedies.get(key[2].lower().replace("-", "_"), f"unknown key; {reference} lists all keys")
        else:
            text = f"missing; {reference} shows it"
    return f"{place + ': ' if place else ''}{text[:1].lower()}{text[1:]}"
