"""YAML that a user wrote, read without trust: plain values only, in bounded time and memory.

PyYAML reads YAML 1.1, in which ``010`` is 8, ``1:30`` is 90 and ``2024_01`` is 202401. No user means these numbers, so
that such values are refused.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

from search_spaces.words import short

MAX_FILE_BYTES = 200_000
"""A hundred times the size of a study file. Without libyaml PyYAML reads about 100 kB a second."""
_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


class YamlError(ValueError):
    """The mistake in one line, with the number of the line in the file where the line is known."""


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file; ``what`` is what the reader expects, as "a study file".

    Raises:
        YamlError: the file is no regular file, too large or not UTF-8, or :func:`parse_yaml` refuses the content.
    """
    if not path.is_file():  # reading a pipe could wait for ever
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
        YamlError: the text is no YAML, or has another tag, an alias, a key that stands twice, a number in a form that
            YAML 1.1 reads in its own way, or nesting without end.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        last = max(1, len(text.splitlines()))  # the end of the text may count as a line of its own
        where = f"line {min(mark.line + 1, last)}: " if mark else ""
        raise YamlError(f"{where}{short(getattr(error, 'problem', None) or error, 160)}") from None
    except UnicodeEncodeError as error:  # of an option that is not UTF-8, or of a text from Python
        raise YamlError(f"character {error.start + 1} is half of a surrogate pair, which is no text") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


if yaml.__with_libyaml__:

    class _SafeLoader(Composer, yaml.CSafeLoader):
        """A safe loader whose scanner and parser are those of libyaml: a file is read four times as fast.

        libyaml takes a tab between two parts of a line, which Python's scanner refuses.
        """

        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            Composer.__init__(self)
else:
    _SafeLoader = yaml.SafeLoader  # type: ignore[misc, assignment]


class _StrictLoader(_SafeLoader):
    """Safe YAML without aliases, of which a few can stand for gigabytes. A key that stands twice is an error, because
    PyYAML would silently take the second one."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if isinstance(event := self.peek_event(), yaml.AliasEvent):
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed here", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Name the place of a value that cannot be read, or that YAML 1.1 reads in its own way."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            # PyYAML lets through what its constructors raise, for 2024-13-45 or !!int abc.
            raise yaml.MarkedYAMLError(
                problem=f"a value cannot be read ({short(error)})", problem_mark=node.start_mark
            ) from None
        if isinstance(node, yaml.ScalarNode) and not node.style and (problem := _trap(node.value, value)):
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
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


def _trap(text: str, value: object) -> str | None:
    """Why a value without quotes is not what its text looks like; None where the value is."""
    if _NO_BREAK_SPACE in text:
        return f"{short(text)!r} holds a no-break space: type a space in its place, or put the text in quotes"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    digits = text.lstrip("+-")
    own_form = ":" in text or "_" in text or (isinstance(value, int) and digits != "0" and digits.startswith("0"))
    if number and own_form:
        return f"YAML reads {short(text)} in a way of its own: write a plain decimal number, or put it in quotes"
    return None
