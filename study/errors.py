"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A user's mistake, told in one line: what was wrong, where, and what would be right.

    The command line prints the line on stderr and ends with exit code 2; anything else that is raised is a
    fault of the program and keeps its traceback.
    """


def short(value: object, most: int = 60) -> str:
    """The beginning of a value's text, in one line. (That of ``search_spaces`` would bring its schema along.)"""
    return " ".join(str(value).split())[:most]
