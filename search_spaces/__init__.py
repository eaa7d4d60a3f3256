"""What is searched: the schema of a study file, and the study files that come with the program."""

from search_spaces.choices import Choice
from search_spaces.spec import SpecError, StudySpec
from search_spaces.study_files import bundled, load_space

__all__ = ["Choice", "SpecError", "StudySpec", "bundled", "load_space"]
