"""Study files: those that come with the program, and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from search_spaces.spec import SpecError, StudySpec, parse_space, validate_space
from search_spaces.strict_yaml import YamlError, read_yaml


def load_space(name_or_path: str, changes: Sequence[tuple[str, object]] = ()) -> StudySpec:
    """A study from a file, or a bundled study by its bare name; ``changes`` as in :func:`parse_space`.

    The ``study.yaml`` of a run folder or of a pack is a study file too; the provenance in the file is passed over.

    Raises:
        SpecError: there is no such file or bundled study, the file cannot be read, or :func:`parse_space` refuses it.
    """
    if name_or_path in bundled():
        text = resources.files("search_spaces").joinpath(f"{name_or_path}.yaml").read_text("utf-8")
        return parse_space(text, f"{name_or_path}.yaml", changes)
    try:
        path = Path(name_or_path).expanduser()
    except RuntimeError as error:
        raise SpecError(f"{name_or_path}: {error}") from None
    if not (name_or_path and path.exists()):
        known = ", ".join(bundled())
        raise SpecError(f"{name_or_path}: no such study file, and no bundled study of that name (there are {known})")
    try:
        return validate_space(read_yaml(path, "a study file"), str(path), changes)
    except YamlError as error:
        raise SpecError(f"{path}: {error}") from None


def bundled() -> list[str]:
    """Names of the studies that come with the program."""
    files = resources.files("search_spaces").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
