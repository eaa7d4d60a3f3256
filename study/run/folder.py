"""What a run folder says of its study: ``study.yaml``, and the table ``provenance``, which every row names."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from results.parts import read_table, write_part
from results.schemas import TableError
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.spec import StudySpec
from search_spaces.strict_yaml import parse_yaml
from study.errors import UserError
from study.storage.publish import content_hash, set_aside
from study.storage.strict_json import dumps
from study.storage.versions import versions

STUDY_FILE = "study.yaml"
_FREE = (
    "resources",
    "data.folder",
    "data.table",
    "data.max_pixels",
    "backbones.pretrained",
    "backbones.initial",
    "logging",
)
"""Keys that may change between two starts. The place of the images, the resources of a trial and logs do not change
results, and the user's own weights are known by the values of their tensors."""
_GROWING = (
    "backbones.trials",
    "backbones.epochs",
    "exits.trials",
    "exits.epochs",
    "exits.parents",
    "operating_points.trials",
    "operating_points.networks",
)
"""Numbers that may rise with ``--extend``: the results of the smaller study stay a part of the larger study."""
_SHOWN = 3


@dataclass(frozen=True)
class Difference:
    """A key on which two studies differ."""

    key: str
    stored: object
    asked: object

    @property
    def grows(self) -> bool:
        """Whether what is asked for contains what is stored."""
        old, new = self.stored, self.asked
        if self.key == "data.name":
            return isinstance(new, list) and set(old if isinstance(old, list) else [old]) < set(new)
        return self.key in _GROWING and isinstance(old, int) and isinstance(new, int) and old < new

    def __str__(self) -> str:
        return f"{self.key} is {self.stored!r} there and {self.asked!r} here"


def read_study_file(folder: Location) -> dict[str, Any] | None:
    """The content of ``study.yaml``: ``study`` and ``provenance``; None in a new folder.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / STUDY_FILE
    if not path.exists():
        return None
    try:
        if not path.is_file():  # reading a pipe could block without end
            raise ValueError
        stored = parse_yaml(path.read_bytes().decode("utf-8"))
        if isinstance(stored["study"], dict) and isinstance(stored["provenance"], dict):
            return dict(stored)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} cannot be read: the study's own `run` command sets it aside and writes it anew")


def stored_study_file(folder: Location) -> dict[str, Any]:
    """:func:`read_study_file` of a folder that must hold a study: no study is a ``UserError`` too."""
    stored = read_study_file(folder)
    if stored is None:
        raise no_run_folder(folder)
    return stored


def refuse_other_study(asked: dict[str, Any], folder: Location, *, extend: bool = False) -> list[Difference]:
    """Check that a run folder is new, or holds this very study or (``extend``) a smaller one.

    Where ``study.yaml`` is damaged or gone, the table ``provenance`` tells which study the folder holds, and from which
    studies that study has grown.

    Returns:
        The differences by which the study asked for is larger.

    Raises:
        UserError: the folder holds another study; the message names the differences.
    """
    differences = min((_differences(stored, asked) for stored in _stored_studies(folder)), key=len, default=[])
    grown = [difference for difference in differences if difference.grows]
    if not differences or (extend and len(grown) == len(differences)):
        return differences
    shown = "; ".join(map(str, differences[:_SHOWN]))
    more = f" (and {len(differences) - _SHOWN} more)" if len(differences) > _SHOWN else ""
    way_out = "run under another --name"
    if len(grown) == len(differences):
        way_out = f"--extend makes it grow, or {way_out}"
    elif extend:
        what = next(difference.key for difference in differences if not difference.grows)
        way_out = f"--extend only adds trials, epochs, parents, networks and data sets, which {what} is not: {way_out}"
    raise UserError(f"{folder / STUDY_FILE} holds another study: {shown}{more}; {way_out}")


def _stored_studies(folder: Location) -> list[dict[str, Any]]:
    try:
        stored = read_study_file(folder)
    except UserError:
        stored = None
    if stored is not None:
        return [stored["study"]]
    rows = _rows(folder, "provenance")
    studies = [] if rows is None else [json.loads(text) for text in rows["study"].drop_duplicates()]
    return [one for one in studies if not any(_grows_into(one, other) for other in studies)]


def recorded_precisions(folder: Location) -> dict[str, str]:
    """Phase -> precision of the training, of the study that a run folder holds; empty in a new folder."""
    for stored in _stored_studies(folder):
        with contextlib.suppress(KeyError, TypeError):
            return {phase: str(stored[phase]["precision"]) for phase in ("backbones", "exits")}
    return {}


def _grows_into(stored: dict[str, Any], other: dict[str, Any]) -> bool:
    found = _differences(stored, other)
    return bool(found) and all(difference.grows for difference in found)


def _rows(folder: Location, table: str) -> pd.DataFrame | None:
    """A table; None where the table is missing or cannot be read."""
    with contextlib.suppress(TableError):
        return read_table(folder / "tables", table)
    return None


def _differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[Difference]:
    return list(differences_of(without_free_keys(_with_defaults(stored)), without_free_keys(asked)))


def _with_defaults(study: dict[str, Any]) -> dict[str, Any]:
    """A stored study with the defaults of keys that the schema did not have when the study was stored."""
    try:
        return StudySpec.model_validate(study).plain()
    except ValidationError:  # the differences tell what this program does not know
        return study


def without_free_keys(study: dict[str, Any]) -> dict[str, Any]:
    """The settings of a study that decide its results."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in study.items() if key not in _FREE}
    for section, _, key in (free.partition(".") for free in _FREE if "." in free):
        if isinstance(kept.get(section), dict):
            kept[section].pop(key, None)
    return kept


def differences_of(stored: object, asked: object, key: str = "") -> Iterator[Difference]:
    """All places where two nested mappings differ."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*stored, *asked]):
            yield from differences_of(stored.get(name), asked.get(name), f"{key}.{name}" if key else str(name))
    elif stored != asked:
        yield Difference(key, stored, asked)


def refuse_other_images(folder: Location, stored: Mapping[str, Any] | None, digests: Mapping[str, str]) -> None:
    """Check that the images of a study are those of its run folder.

    ``stored`` is the content of ``study.yaml``; None: the digests come from the table ``trials``. ``digests``: data
    set -> digest of its images now.

    Raises:
        UserError: the images differ.
    """
    if stored:
        known = stored["provenance"].get("data_digest", {})
    else:
        rows = _rows(folder, "trials")
        known = {} if rows is None else dict(zip(rows["data"], rows["data_digest"], strict=True))
    for name, digest in digests.items():
        if known.get(name, digest) != digest:
            raise UserError(
                f"{folder} holds results of other images: those of {name} have changed since; run under another --name"
            )


def claim_folder(
    study: dict[str, Any], folder: Location, digests: dict[str, str], grown: Sequence[Difference] = ()
) -> None:
    """Write the resolved study with its provenance into a run folder that is new, extended, or lost its file.

    ``digests``: data set -> digest of its images. ``grown``: by what the study is larger than the stored study.

    Raises:
        UserError: the folder holds results of other images.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        stored = read_study_file(folder)
    except UserError as error:
        set_aside(folder / STUDY_FILE, str(error))
        stored = None
    provenance: dict[str, Any] = stored["provenance"] if stored else {"created": now, "versions": versions()}
    refuse_other_images(folder, stored, digests)
    if stored is None or grown:
        provenance["data_digest"] = digests
        if grown:
            provenance.setdefault("extended", []).append({"on": now, "changes": [str(one) for one in grown]})
        text = yaml.safe_dump({"study": study, "provenance": provenance}, sort_keys=False)
        write_atomic(folder / STUDY_FILE, text.encode())


def no_run_folder(folder: Location) -> UserError:
    """The error for a folder that is no run folder."""
    return UserError(f"{folder} is no run folder: it has no {STUDY_FILE} (run folders lie under runs/ by default)")


_MACHINE = ("device", "threads")
"""Columns of the table ``trials``; in the table ``provenance`` they would double the rows."""


@dataclass(frozen=True)
class Provenance:
    """The settings and images of a study, and the names of provenance that follow for some versions."""

    study: dict[str, Any]
    data_digest: str

    @cached_property
    def _study(self) -> str:
        return dumps(without_free_keys(self.study))

    def row(self, made_by: Mapping[str, str]) -> dict[str, Any]:
        """The row of the table ``provenance`` for some versions."""
        made_by = {name: value for name, value in made_by.items() if name not in _MACHINE}
        values = {
            "study": self._study,
            "seed": self.study["seed"],
            "data_digest": self.data_digest,
            "code_version": made_by["predictive-exit"],
            "code_digest": made_by.get("code"),
            "versions": dumps(dict(made_by)),
        }
        return {"provenance": content_hash(values), **values}

    def name(self, made_by: Mapping[str, str] | None = None) -> str:
        """The name that the rows of other tables carry; by default for the versions that run now."""
        return str(self.row(versions() if made_by is None else made_by)["provenance"])

    def record(self, tables: Location, all_versions: Iterable[Mapping[str, str]] = ()) -> None:
        """Write the rows of the versions that run now, and of other versions that computed trials."""
        for made_by in (versions(), *all_versions):
            row = self.row(made_by)
            write_part(tables, "provenance", [row], row["provenance"])
