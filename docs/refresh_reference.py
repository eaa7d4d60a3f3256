"""Compute phase 2 of the reference studies anew, from the traces in ``results/reference``.

    python docs/refresh_reference.py                  # minutes: every study with traces
    python docs/refresh_reference.py vgg19-cifar10

The exact front covers the policies and criteria of the bundled studies (``SPACE``). It is chosen on the stored
validation traces and evaluated on the stored test traces, as in a run. Networks, trial ids, costs and traces stay as
they are. ``study.yaml`` then holds the search space of the new tables; its entry ``searched_again`` names the versions
that computed them. The rows of the new tables name these versions in ``provenance``; the rows of phase 1 keep theirs.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import yaml

from results.parts import read_or_empty
from results.storage.atomic import write_atomic
from study.progress import Reporter
from study.run.folder import STUDY_FILE, Provenance, stored_study_file
from study.run.pack import search_again
from study.run.reader import stored_study
from study.storage.versions import versions

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
SPACE = {
    "search": "exact",
    "policy": ["predictive", "hierarchical", "static", "head_thresholds", "optimal_stopping"],
    "criterion": ["logit", "margin"],
}
"""The keys of ``operating_points`` that the bundled studies have in common."""


def refresh(folder: Path, reporter: Reporter) -> None:
    """Search the networks of a pack in ``SPACE``, and write ``study.yaml`` and the tables of phase 2."""
    stored, tables = stored_study_file(folder), folder / "tables"
    stored["study"]["operating_points"] |= SPACE
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    stored["provenance"]["searched_again"] = {"on": now, "versions": versions()}
    write_atomic(folder / STUDY_FILE, yaml.safe_dump(stored, sort_keys=False).encode())
    ((data, digest),) = stored["provenance"]["data_digest"].items()
    for part in (tables / "provenance").glob("part-*.parquet"):
        if part.stem != f"part-{data}":  # of an earlier refresh; the rows of phase 1 name the part of the data set
            part.unlink()
    provenance = Provenance(stored_study(folder).plain(), digest)
    if provenance.name() not in set(read_or_empty(tables, "provenance")["provenance"]):  # as after `pack`
        provenance.record(tables)
    search_again(folder, reporter, provenance.name())


def main() -> None:
    """Refresh the studies that are named, or all."""
    packs = sorted(path.parent.name for path in REFERENCE.glob("*/traces"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all studies with traces")
    names, reporter = parser.parse_args().names or packs, Reporter()
    if unknown := set(names) - set(packs):
        parser.error(f"no studies with traces: {', '.join(sorted(unknown))}; there are {', '.join(packs)}")
    for name in names:
        reporter.line(name)
        refresh(REFERENCE / name, reporter)


if __name__ == "__main__":
    main()
