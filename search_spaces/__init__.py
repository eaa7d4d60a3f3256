"""What is searched: the schema of a study file, and the study files that come with the program.

Names are imported when they are first used: ``search_spaces.settings`` needs no library beside Python's own.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search_spaces.choices import Choice
    from search_spaces.spec import SpecError, StudySpec
    from search_spaces.study_files import bundled, load_space

__all__ = ["Choice", "SpecError", "StudySpec", "bundled", "load_space"]
_HOME = {
    "Choice": "choices",
    "SpecError": "spec",
    "StudySpec": "spec",
    "bundled": "study_files",
    "load_space": "study_files",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'search_spaces' has no attribute {name!r}")
    value = getattr(import_module(f"search_spaces.{_HOME[name]}"), name)
    globals()[name] = value
    return value
