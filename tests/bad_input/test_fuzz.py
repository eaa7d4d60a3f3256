"""Readers of files, fed for some seconds with what nobody wrote; ``fuzz.py`` goes on for longer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from support.fuzz_targets import TARGETS, check
from support.laws import examples


@pytest.mark.parametrize("name", TARGETS)
@examples(60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_reader_reads_or_refuses_in_one_line(name: str, data: st.DataObject) -> None:
    check(name, data.draw(TARGETS[name].inputs))
