"""A small copy of a study, to share: tables, costs and traces at half precision, no weights.

A pack can be replayed, searched and compared on any machine in seconds. Logits are rounded to float16, and the rounding
moves some ratios across a beta. Hence the search and the front are computed again from the rounded logits, so that the
tables of a pack follow from its traces. Test images choose nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from results.parts import of_data, read_table, rows_of, write_part
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from study.errors import UserError
from study.progress import Reporter
from study.run.folder import STUDY_FILE, stored_study_file, without_free_keys
from study.run.reader import published_costs, stored_logits, stored_networks, stored_study
from study.run.run import search_networks, write_front
from study.search.guarantee import certified_points
from study.search.test_front import front_of
from study.storage.publish import check_writable
from study.traces.files import stored_traces, write_trace

_KEPT = ("provenance", "trials", "epochs", "costs")
"""Tables that do not follow from the traces."""


def pack(folder: Location, destination: Path, reporter: Reporter) -> None:
    """Write the pack of a finished study into a new folder.

    Raises:
        UserError: the destination exists, the study is not finished, or has several data sets.
        TableError: a table is missing or damaged.
    """
    spec = stored_study(folder)
    if destination.exists():
        raise UserError(f"{destination} exists: name a new folder")
    check_writable(destination)
    if len(spec.data.names) > 1:
        raise UserError(f"pack: {folder} has several data sets; pack studies of one")
    networks = stored_networks(folder, spec.operating_points, with_memory=True)
    for split in ("test", "certification") if spec.guarantee else ("test",):
        stored_logits(folder, networks, split)  # refuses what is missing
    searched = {(one.weights, one.precision) for one in networks}
    stored = stored_study_file(folder)
    shared = {**stored, "study": without_free_keys(stored["study"])}  # without the place of the images on this machine
    write_atomic(destination / STUDY_FILE, yaml.safe_dump(shared, sort_keys=False).encode())
    data = spec.data.names[0]
    for name in _KEPT:
        write_part(destination / "tables", name, list(rows_of(read_table(folder / "tables", name))), data)
    for path in (folder / "profiles").glob("*.json"):
        write_atomic(destination / "profiles" / path.name, path.read_bytes())
    for trace in stored_traces(folder / "traces"):
        if (trace.weights, trace.precision) in searched:
            write_trace(destination / "traces" / trace.folder.name, trace.read(), trace.description, half=True)
    search_again(destination, reporter)


def search_again(folder: Path, reporter: Reporter, provenance: str | None = None) -> None:
    """Search and evaluate the networks of a pack from its traces, and write the tables of both again.

    ``provenance``: the name that the new rows carry; by default that of the rows of ``trials``.
    """
    spec = stored_study(folder)
    networks = [
        replace(one, published=None if costs is None else costs.parts("flops")[:2])
        for one in stored_networks(folder, spec.operating_points, with_memory=True)
        for costs in [published_costs(folder, one)]
    ]
    tests = stored_logits(folder, networks, "test")
    data = spec.data.names[0]
    points, tables = spec.operating_points, folder / "tables"
    stamp = {"data": data, "provenance": provenance or str(read_table(tables, "trials")["provenance"].iloc[0])}
    for name in ("operating_points", "exits", "front"):
        for part in (tables / name).glob("part-*.parquet"):
            part.unlink()
    search_networks(spec, networks, tables, name="pack", reporter=reporter, stamp=stamp)
    front = front_of(of_data(read_table(tables, "operating_points"), data), points.objectives)
    digest = next(trace.images_digest for trace in stored_traces(folder / "traces") if trace.split == "test")
    certification = None
    if spec.guarantee:
        certifying = stored_logits(folder, networks, "certification")
        certification = certified_points(
            front, networks, spec.guarantee, lambda one: certifying[one.weights, one.precision]
        )
    write_front(tables, front, points.objectives, networks, tests, digest, stamp, certification)
