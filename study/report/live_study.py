"""The page of a running study and its state, made anew when the run folder has changed and somebody asks."""

from __future__ import annotations

import datetime
import hashlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from results.parts import part_count
from results.schemas import SCHEMAS
from results.storage.paths import Location, is_no_file
from study.errors import UserError
from study.report.blocks import ReportContent
from study.report.content import report_content
from study.report.live_state import LiveState, live_state
from study.report.page import report_page
from study.report.source import EXPECTED
from study.run.folder import STUDY_FILE
from study.storage.locks import is_held

LOOK_SECONDS = 1.0
"""The run folder is looked at no more often than this; an object store, ten times less often."""
STALE_SECONDS = 10.0
"""The state is read again after this time even where no file has changed: the locks of trials are not looked at."""
REST = 5.0
"""After a page that took a second of computing, the next one is made so many seconds later, while the study runs: the
processor is the study's."""
CURVES_SECONDS = 10.0
"""Learning curves of a stage that trains are read anew no more often than this: a page at each epoch would flicker."""
RETRY_SECONDS = 10.0
"""A page that could not be made is tried again after this time."""

Marks: TypeAlias = Mapping[str, tuple[object, ...]]
"""File -> what changes when the file is replaced."""


class LiveStudy:
    """A run folder that other processes write, move or damage meanwhile. Nothing is written into the folder.

    Methods may be called from several threads.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._period = LOOK_SECONDS if isinstance(folder, Path) else LOOK_SECONDS * 10
        self._looking, self._building = threading.Lock(), threading.Lock()
        self._looked = self._read = self._rest_until = -math.inf
        self._marks: Marks = {}
        self._digests: dict[str, tuple[object, str]] = {}
        self._epochs, self._epochs_at = "", -math.inf
        """The digest of the checkpoints on which the learning curves rest, and when it was taken."""
        self._state = LiveState(now="")
        self._version = ""
        self._page: tuple[str, bytes] | None = None
        self._trouble = ""
        """Why the last page could not be made."""
        self._troubles = 0

    def state(self) -> dict[str, Any]:
        """The fields of :class:`LiveState`, and ``version``, which changes when another page can be had."""
        with self._looking:
            if time.monotonic() - self._looked >= self._period:
                self._look()
                self._looked = time.monotonic()
            state = replace(self._state, problem=self._state.problem or self._trouble)
            return {"version": self._version, **state.plain()}

    def page(self) -> bytes:
        """The page of the version that :meth:`state` names. Where that cannot be made: the page before."""
        with self._building:
            version = self.state()["version"]
            if self._page is None or self._page[0] != version:
                began = time.thread_time()
                content = self._content()
                if content is None and self._page is not None:
                    self._page = (version, self._page[1])
                else:
                    self._page = (version, report_page(content or self._nothing_yet(), version=version))
                rest = REST * (time.thread_time() - began)
                self._rest_until = time.monotonic() + (max(rest, RETRY_SECONDS) if self._trouble else rest)
            return self._page[1]

    def _look(self) -> None:
        """Learn what has changed. Whatever is wrong with the folder now, a later look may find it mended."""
        now = time.monotonic()
        try:
            marks = marks_of(self._folder)
            rests = self._trouble or marks["running"] == (True,)
            if not rests or now >= self._rest_until:
                if self._trouble:
                    self._trouble, self._troubles = "", self._troubles + 1
                self._version = f"{self._digest(marks)}-{self._troubles}"
        except Exception as error:
            self._marks, self._state = {}, _unreadable(self._state, error)
            return
        if marks == self._marks and now - self._read < STALE_SECONDS:
            return
        self._marks, self._read = marks, now
        try:
            self._state = live_state(self._folder)
        except Exception as error:
            self._state = _unreadable(self._state, error)

    def _digest(self, marks: Marks) -> str:
        """The digest of what the page is made of. Only files that were replaced are read."""
        whole = hashlib.sha256()
        for name, mark in marks.items():
            if name.startswith(("tables/", STUDY_FILE)):
                if self._digests.get(name, ((), ""))[0] != mark:
                    self._digests[name] = (mark, hashlib.sha256((self._folder / name).read_bytes()).hexdigest())
                whole.update(f"{name} {self._digests[name][1]}\n".encode())
            elif name.startswith("traces/"):
                whole.update(f"{name}\n".encode())
        if not any(name.startswith("tables/front/") for name in marks):
            whole.update(self._epochs_of(marks).encode())
        return whole.hexdigest()[:16]

    def _epochs_of(self, marks: Marks) -> str:
        """What changes with the epochs of trials that train, at most every :data:`CURVES_SECONDS`."""
        if time.monotonic() - self._epochs_at >= CURVES_SECONDS:
            own = [
                f"{name} {mark}" for name, mark in marks.items() if name.startswith("checkpoints/") and "last" in name
            ]
            self._epochs, self._epochs_at = "\n".join(own), time.monotonic()
        return self._epochs

    def _content(self) -> ReportContent | None:
        """What the page says; None where nothing can be read."""
        try:
            tables = self._folder / "tables"
            has_epochs = any(name.startswith("checkpoints/") for name in self._marks)
            if not has_epochs and not any(part_count(tables, name) for name in SCHEMAS if name != "provenance"):
                return self._nothing_yet()
            return report_content([self._folder])
        except Exception as error:
            self._trouble = _line(error)
            return None

    def _nothing_yet(self) -> ReportContent:
        now = datetime.datetime.now(datetime.UTC)
        return ReportContent(title=self._folder.name, made=f"made at {now:%H:%M} UTC", studies=(), together=None)


def marks_of(folder: Location) -> Marks:
    """The files of which a page and its state are made: names below the folder, in a fixed order.

    Raises:
        UserError: the folder, or its study file, is not there.
        OSError: the folder cannot be read.
    """
    if not (folder / STUDY_FILE).exists():
        gone = folder / STUDY_FILE if folder.exists() else folder
        raise UserError(f"{gone} is not there: it was moved or removed, or its disk is away")
    marks: dict[str, tuple[object, ...]] = {}
    for name, file in _files(folder):
        mark = _mark(file)
        if mark is not None:
            marks[name] = mark
    marks["traces/"] = ()
    for place in _sorted(folder / "traces", "*"):
        marks[f"traces/{place.name}"] = ()
    marks["running"] = (is_held(folder / ".lock"),)
    return marks


def _files(folder: Location) -> Iterator[tuple[str, Location]]:
    for name in (STUDY_FILE, "failures.json"):
        yield name, folder / name
    for table in SCHEMAS:
        for part in _sorted(folder / "tables" / table, "part-*.parquet"):
            yield f"tables/{table}/{part.name}", part
    for trial in _sorted(folder / "checkpoints", "*"):
        for state in ("last", "best"):
            yield f"checkpoints/{trial.name}/{state}", trial / state / "manifest.json"


def _sorted(folder: Location, pattern: str) -> list[Location]:
    found: list[Location] = sorted(folder.glob(pattern), key=str)
    return found


def _mark(file: Location) -> tuple[object, ...] | None:
    """What changes when the file is replaced; None where there is no file."""
    try:
        if is_no_file(file):
            return None
        if not isinstance(file, Path):
            return (file.version(),)
        stat = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _unreadable(before: LiveState, error: Exception) -> LiveState:
    """The state while the folder cannot be read: the numbers that were read last."""
    now = "The study cannot be read now."
    return replace(before, now=f"{now} These numbers are the last ones read." if before.facts else now,
                   problem=_line(error))  # fmt: skip


def _line(error: Exception) -> str:
    """An error in one line; with its kind, where the error is none that a study in progress explains."""
    text = str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:1000]
