"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A user's mistake, told in one line: what was wrong, where, and what would be right.

    The command line prints the line on stderr and ends with exit code 2; anything else that is raised is a
    fault of the program and keeps its traceback.
    """


def short(value: object, most: int = 60) -> str:
    """The beginning of a value's text, in one line. (That of ``search_spaces`` would bring its schema along.)"""
    return " ".join(str(value).split())[:most]


def is_lack_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Torch has a type of its own for a full GPU, and none for a full main memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # by name, so that torch need not be imported for it
        or "DefaultCPUAllocator: " in str(error)
    )
