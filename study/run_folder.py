"""The run folder's own file, ``study.yaml``: which study it holds, and where that came from."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from results.files import write_atomic
from search_spaces.spec import SpecError, StudySpec, validate_space
from search_spaces.strict_yaml import YamlError, read_yaml
from study.errors import UserError
from study.storage import safe_name
from study.versions import versions

STUDY_FILE = "study.yaml"
_FREE = ("resources", "data.folder", "backbones.pretrained")
"""Keys that may change between two starts: where images lie and what a trial may use do not change its result, and the
user's own weights are known by their values."""


def run_folder(storage: str, name: str) -> Path:
    """``<storage>/<name>``."""
    return Path(storage).expanduser() / safe_name(name, "the study's name")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run folder alone; the lock ends with the process, however it ends.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process works on this study; wait for it, or end it") from None
        yield


def read_study_file(folder: Path) -> dict[str, Any] | None:
    """The content of ``study.yaml``: ``study`` and ``provenance``; None in a new folder.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / STUDY_FILE
    if not path.exists():
        return None
    try:
        stored = read_yaml(path, "a study")
        if isinstance(stored["study"], dict) and isinstance(stored["provenance"], dict):
            return dict(stored)
    except (YamlError, KeyError, TypeError):
        pass
    raise UserError(f"{path} cannot be read: restore it, or run under another --name")


def refuse_other_study(spec: StudySpec, folder: Path) -> None:
    """Check that a run folder is new or holds this very study.

    Raises:
        UserError: it holds another study; the first difference is named.
    """
    stored = read_study_file(folder)
    difference = first_difference(_completed(stored["study"]), spec.plain()) if stored else None
    if difference:
        raise UserError(f"{folder / STUDY_FILE} holds another study: {difference}; run under another --name")


def _completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored study with the defaults of keys that its version did not know: they say what that version did."""
    try:
        return validate_space(stored, STUDY_FILE).plain()
    except SpecError:
        return stored


def claim_folder(spec: StudySpec, folder: Path, data_digest: str) -> None:
    """Write the resolved study with its provenance into a new run folder.

    Raises:
        UserError: the folder is not new, and its results are of other images.
    """
    stored = read_study_file(folder)
    if stored is None:
        provenance = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "data_digest": data_digest,
        }
        text = yaml.safe_dump({"study": spec.plain(), "provenance": provenance}, sort_keys=False)
        write_atomic(folder / STUDY_FILE, text.encode())
    elif stored["provenance"].get("data_digest") != data_digest:
        raise UserError(f"{folder} holds results of other images: these have changed since; run under another --name")


def first_difference(stored: object, asked: object, key: str = "") -> str | None:
    """The first place where two nested mappings differ, in words; None where they agree in all that matters."""
    if key in _FREE:
        return None
    if isinstance(stored, dict) and isinstance(asked, dict):
        for name in [*stored, *(name for name in asked if name not in stored)]:
            inner = first_difference(stored.get(name), asked.get(name), f"{key}.{name}" if key else str(name))
            if inner:
                return inner
        return None
    return None if stored == asked else f"{key} is {stored!r} there and {asked!r} here"
