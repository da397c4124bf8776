"""The part of YAML that configurations may use."""

from typing import Any, Final

import yaml

NOT_OF_ITS_TYPE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What PyYAML's constructors raise for a scalar or collection that is not what its tag says."""


class Loader(yaml.SafeLoader):
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
        except NOT_OF_ITS_TYPE:
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
