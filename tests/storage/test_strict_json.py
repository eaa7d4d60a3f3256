"""JSON: what is written holds no number that JSON does not know, and what is read is not trusted."""

import json
import math

import numpy as np
import pytest

from study.storage.strict_json import dumps, parse_json


def test_a_number_that_is_not_finite_is_written_as_null():
    value = {"a": math.inf, "b": [1.5, -math.inf, (math.nan, "NaN")], "c": {"d": np.float32("nan")}}
    assert json.loads(dumps(value)) == {"a": None, "b": [1.5, None, [None, "NaN"]], "c": {"d": None}}


def test_numpy_numbers_and_arrays_are_written_as_plain_ones():
    value = {"count": np.int64(3), "share": np.float64(0.1), "kept": np.bool_(True), "row": np.array([1.0, np.inf])}
    assert json.loads(dumps(value, indent=1)) == {"count": 3, "share": 0.1, "kept": True, "row": [1.0, None]}


def test_what_has_no_form_in_json_is_a_fault_of_the_caller():
    with pytest.raises(TypeError):
        dumps({"a": object()})


@pytest.mark.parametrize("text", ["NaN", "[1e999]", '{"a": -Infinity}', "[" * 100_000, "{", b"\xff"])
def test_what_is_no_strict_json_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


def test_what_was_written_is_read():
    value = {"a": [1, 0.1, None, True, "é"], "b": {}}
    assert parse_json(dumps(value)) == value
