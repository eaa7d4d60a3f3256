"""What a refusal must look like."""

import pytest

from study.errors import UserError


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    return line
