"""YAML is read alike with libyaml and without it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from search_spaces import strict_yaml

DEEP = 20_000


@pytest.fixture(params=[True, False], ids=["libyaml", "python"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The function that reads a text; a mistake is returned as its line."""
    if request.param and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param)
    module = runpy.run_path(str(strict_yaml.__file__))

    def reading(text: str) -> Any:
        try:
            return module["parse_yaml"](text)
        except module["YamlError"] as error:
            return f"refused: {error}"

    return reading


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 2.5, yes, null, 'x', caf\xe9]", {"a": [1, 2.5, True, None, "x", "caf\xe9"]}),
        ("a: |\n  one\n  two\nb: {c: '010'}", {"a": "one\ntwo\n", "b": {"c": "010"}}),
        ("\ufeff'a': \U0001f600", {"a": "\U0001f600"}),
    ],
)
def test_plain_values(read: Callable[[str], Any], text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: &one 1\nb: *one", "line 2: aliases (*name) are not allowed"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a: 010", "line 1: YAML reads 010 in a way of its own"),
        ("a:\n- 1:30", "line 2: YAML reads 1:30 in a way of its own"),
        ("a: 2024-13-45", "line 1: a value cannot be read"),
        ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
        ("a: !!binary x", "line 1: could not determine a constructor"),
        ("a: 1\n---\nb: 2", "line 2: "),
        ("a:\n  b: [1, ", "line 2: "),
        ("a: 'one", "line 1: "),
        ("a: \x01", "are not allowed"),
        ("a: \udcff", ""),
        ("{" * DEEP, "nested too deeply"),
        ("- " * DEEP, "nested too deeply"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(read: Callable[[str], Any], text: str, told: str) -> None:
    line = read(text)
    assert isinstance(line, str) and line.startswith("refused: ") and told in line
    assert line.isprintable() and len(line) < 250
