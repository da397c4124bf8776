"""YAML files as validated settings: what the configuration and the web configuration have in common."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import yaml
from msgspec import Struct

from inkit_exporter.errors import ConfigError

T = TypeVar("T")


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a configuration; it rejects keys that it doesn't know."""


def read_yaml(text: str) -> object:
    """YAML's safe subset, without aliases and keys given twice.

    Raises:
        ConfigError: naming the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}{error.problem or 'not valid YAML'}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"position {error.position}: a character that YAML does not allow; remove it") from None
    except (yaml.YAMLError, RecursionError, *_NOT_OF_ITS_TYPE) as error:
        raise ConfigError(f"not valid YAML ({type(error).__name__})") from None


def convert(
    document: object, kind: type[T], *, reference: str, dec_hook: Callable[[type, object], object] | None = None
) -> T:
    """A document as settings of a kind.

    Raises:
        ConfigError: naming the place, and the reference that documents the keys.
    """
    try:
        return msgspec.convert(document, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), reference)) from None


_NOT_OF_ITS_TYPE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML's constructors raise for a scalar or collection that is not what its tag says."""


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, less what surprises: a key given twice, and aliases that could unfold without end."""

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


def _explain(message: str, reference: str) -> str:
    """Put the place first: msgspec says `… - at `$.poll.interval``."""
    text, _, place = message.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if unknown := re.search(r"unknown field `(.*)`", text, re.DOTALL):
        return f"{place + '.' if place else ''}{unknown[1]}: unknown key; {reference} lists all keys"
    if missing := re.search(r"missing required field `(.*)`", text):
        return f"{place + '.' if place else ''}{missing[1]}: missing; {reference} shows it"
    return f"{place + ': ' if place else ''}{text[:1].lower()}{text[1:]}"
