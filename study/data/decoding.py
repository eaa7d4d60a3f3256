"""Decode many images, files or objects, into one array: in threads, or in processes where there are many.

Pillow lets other threads run only while it decodes. Of small images it spends most of the time in Python, so that
processes are faster: each writes its rows into the same mapped file. A process imports neither torch nor the program of
the user.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.storage.object_store import OPTIONS
from results.storage.paths import location
from study.arrays import core_count
from study.data.image_files import UnreadableImagesError, read_with_digest, strict_decoder
from study.errors import UserError

FILES_OF_A_PROCESS = 2000
"""The smallest share of files that is worth the start of a process."""
_MOST_PROCESSES = 16
_REQUESTS = 16
"""Of each process, to an object store at once: a process waits for answers most of the time."""
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from study.data.decoding import main; main()"


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How files become pixels."""

    image_size: int
    channels: int
    white_level: int
    max_pixels: int | None


@dataclass(frozen=True, eq=False)
class DecodedFiles:
    """What was found in files beside their pixels."""

    digests: tuple[bytes, ...]
    """As :attr:`study.data.image_files.ReadImage.digest`."""
    deepest: NDArray[np.uint16]
    """``[N]``, the largest value of a grey of 16 bits."""


def decode(
    paths: Sequence[str], into: NDArray[np.uint8], how: DecodingSettings, *, mapped: Path | None
) -> DecodedFiles:
    """Decode images.

    Args:
        paths: absolute paths, or addresses of objects.
        into: ``[N, channels, image_size, image_size]``, which receives the pixels.
        how: the pixels.
        mapped: the file (npy) that ``into`` maps; None: ``into`` is memory of this process.

    Raises:
        UnreadableImagesError: it names the files that are damaged or no images.
        UserError: an object store does not answer or refuses access.
    """
    processes = min(core_count(), _MOST_PROCESSES, len(paths) // FILES_OF_A_PROCESS)
    if mapped is None or processes < 2:
        found = _in_threads(paths, into, how)
    else:
        found = _in_processes(paths, mapped, how, processes)
    if problems := sorted(one["problem"] for one in found if "problem" in one):
        raise UnreadableImagesError(problems)
    return DecodedFiles(
        tuple(bytes.fromhex(one["digest"]) for one in found), np.array([one["deepest"] for one in found], np.uint16)
    )


def _in_threads(paths: Sequence[str], into: NDArray[np.uint8], how: DecodingSettings) -> list[dict[str, Any]]:
    return _rows(paths, into, how, threads=_REQUESTS if _are_objects(paths) else min(32, os.cpu_count() or 1))


def _rows(
    paths: Sequence[str], into: NDArray[np.uint8], how: DecodingSettings, *, threads: int
) -> list[dict[str, Any]]:
    """For each image its ``digest`` and ``deepest``, or its ``problem``."""
    place = location if _are_objects(paths) else Path

    def read(row: int) -> dict[str, Any]:
        try:
            one = read_with_digest(
                place(paths[row]), image_size=how.image_size, channels=how.channels, white_level=how.white_level
            )
        except UnreadableImagesError as error:
            return {"problem": error.problems[0]}
        into[row] = one.pixels
        return {"digest": one.digest.hex(), "deepest": one.deepest}

    with strict_decoder(how.max_pixels):
        if threads == 1:
            return [read(row) for row in range(len(paths))]
        with ThreadPoolExecutor(max_workers=threads) as pool:
            return list(pool.map(read, range(len(paths))))


def _are_objects(paths: Sequence[str]) -> bool:
    """Whether the images of a data set lie in an object store: paths of files are absolute and have no scheme."""
    return bool(paths) and paths[0].startswith(tuple(f"{scheme}://" for scheme in OPTIONS))


def _in_processes(paths: Sequence[str], mapped: Path, how: DecodingSettings, processes: int) -> list[dict[str, Any]]:
    root = str(Path(__file__).parents[2])
    ends = np.linspace(0, len(paths), processes + 1).astype(int).tolist()
    children: list[subprocess.Popen[str]] = []
    try:
        with ThreadPoolExecutor(max_workers=processes) as pool:
            answers = []
            for start, end in pairwise(ends):
                child = subprocess.Popen(
                    [sys.executable, "-c", _CODE, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                children.append(child)
                asked = {"paths": paths[start:end], "start": start, "file": str(mapped), "how": asdict(how)}
                answers.append(pool.submit(child.communicate, json.dumps(asked)))
            texts = [answer.result()[0] for answer in answers]
    finally:
        for child in children:
            child.kill()
            child.wait()
    found: list[dict[str, Any]] = []
    for child, text in zip(children, texts, strict=True):
        if not text:
            raise OSError(f"a process that decodes images ended with exit code {child.returncode}")
        answer = json.loads(text)
        if isinstance(answer, str):
            raise UserError(answer)
        found += answer
    return found


def main() -> None:
    """Decode the images that stdin names, into rows of a mapped file; print what was found. One process of several."""
    asked = json.load(sys.stdin)
    whole = np.load(asked["file"], mmap_mode="r+", allow_pickle=False)
    paths = asked["paths"]
    rows = whole[asked["start"] : asked["start"] + len(paths)]
    threads = _REQUESTS if _are_objects(paths) else 1
    found: list[dict[str, Any]] | str
    try:
        found = _rows(paths, rows, DecodingSettings(**asked["how"]), threads=threads)
    except UserError as error:
        found = str(error)
    json.dump(found, sys.stdout)
