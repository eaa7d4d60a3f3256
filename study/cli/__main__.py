"""``python -m study.cli`` is the command ``predictive-exit``."""

import sys

from study.errors import foreign_package


def start() -> int:
    """Run the command, unless another package hides one of this program's; returns the exit code."""
    if hidden := foreign_package():
        print(f"predictive-exit: {hidden}", file=sys.stderr)
        return 2
    from study.cli.main import main

    code = main()
    connection = sys.modules.get("study.execution.ray.connection")
    if code > 128 and connection is not None:  # a signal ended the command, and Ray was used
        connection.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(start())
