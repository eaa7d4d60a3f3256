"""YAML that somebody wrote, read without trust: plain values only, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_FILE_BYTES = 200_000
"""A hundred times what a study file has. PyYAML reads some 100 kB a second."""
_MOST_BITS = 4096
"""Of a whole number: printing a longer one takes time that grows with the square of its length."""


class YamlError(ValueError):
    """What is wrong, in one line that names the line of the file where there is one."""


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file.

    Args:
        path: of the file.
        what: it is meant to be, as "a study file".

    Raises:
        YamlError: it is no regular file, too large, not UTF-8, or :func:`parse_yaml` refuses it.
    """
    if not path.is_file():  # a pipe could be waited for without end
        raise YamlError(f"this is {'a folder' if path.is_dir() else 'no regular file'}, not {what}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise YamlError(f"cannot be read as UTF-8 text ({error})") from None
    if len(content) > MAX_FILE_BYTES:
        raise YamlError(f"more than {MAX_FILE_BYTES} bytes are too many for {what}")
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Plain values: mappings, lists, texts, numbers, dates, truth values and nothing.

    Raises:
        YamlError: no YAML, a tag of something else, an alias, a key that stands twice, or nesting without end.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise YamlError(f"{where}{short(getattr(error, 'problem', None) or error, 160)}") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few of them can stand for gigabytes), in which a key that stands twice is an error
    (the second would silently win)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Name the place of a value that cannot be read."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            # PyYAML lets through what its constructors raise, for 2024-13-45 or !!int abc.
            raise yaml.MarkedYAMLError(
                problem=f"a value cannot be read ({short(error)})", problem_mark=node.start_mark
            ) from None
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise yaml.MarkedYAMLError(problem="a number has too many digits", problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice."""
        seen = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {short(key)!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or not tag.endswith((":binary", ":set", ":omap", ":pairs"))
}


def short(value: object, most: int = 60) -> str:
    """The beginning of a value's text, in one line."""
    return " ".join(str(value).split())[:most]
