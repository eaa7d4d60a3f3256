"""The networks without exits of a run folder, which phase 1 trained, and what they cost."""

from __future__ import annotations

import pandas as pd

from results.parts import of_data, read_or_empty, rows_of
from results.storage.atomic import write_atomic
from results.storage.paths import Location
from search_spaces.settings import MEASURED
from search_spaces.spec import DataSpec, OperatingPointsSpec
from study.costs.costs import Costs
from study.errors import UserError
from study.run.reader import stored_study
from study.search.smaller import Backbone
from study.storage.publish import safe_name
from study.traces.files import stored_traces


def stored_backbones(folder: Location, points: OperatingPointsSpec, data: str | None = None) -> list[Backbone]:
    """The networks without exits that phase 1 trained, the most accurate of each architecture and width.

    Their costs are counted, and modelled where the costs of the study are modelled. Where :func:`write_backbone_costs`
    wrote the costs, the costs are read; counting imports torch, which takes seconds. The list is empty where all
    networks have the same architecture and width: then none is smaller than another.

    Raises:
        UserError: the settings of a network are of no network known here.
    """
    trials, study = of_data(read_or_empty(folder / "tables", "trials"), data), stored_study(folder)
    best, names = _best(trials), network_names(folder)
    own = study.operating_points
    same_costs = (points.costs, points.batch_size) == (own.costs, own.batch_size)
    found, classes = [], 0
    for row in rows_of(best):
        costs = _read_costs(_costs_file(folder, row["trial_id"], points)) if same_costs else None
        if costs is None:
            classes = classes or _class_count(folder, set(trials["trial_id"]))
            if not classes:
                return []
            costs = _counted(folder, study.data, points, row["trial_id"], classes)
        stopped = f", stopped after {row['epochs_done']:.0f} epochs" if row["status"].startswith("stopped") else ""
        name = names[row["trial_id"]] + stopped
        found.append(Backbone(row["trial_id"], name, row["classifier_accuracy"], costs))
    return found


def write_backbone_costs(
    folder: Location, spec: DataSpec, points: OperatingPointsSpec, data: str, classes: int
) -> None:
    """Write what the networks of :func:`stored_backbones` cost, for readers without torch.

    Args:
        folder: run folder, with the table ``trials``.
        spec, points: of the folder's study.
        data: the data set.
        classes: of the data set.
    """
    for trial_id in _best(of_data(read_or_empty(folder / "tables", "trials"), data))["trial_id"]:
        costs = _counted(folder, spec, points, trial_id, classes)
        write_atomic(_costs_file(folder, trial_id, points), costs.to_json().encode())


def network_names(folder: Location) -> dict[str, str]:
    """Trial -> architecture and width of its network, as ``vgg19 x 0.25``."""
    trials = read_or_empty(folder / "tables", "trials").dropna(subset=["backbone", "width"])
    return {row["trial_id"]: f"{row['backbone']} x {row['width']:g}" for row in rows_of(trials)}


def _best(trials: pd.DataFrame) -> pd.DataFrame:
    """The most accurate backbone of each architecture and width; none where there is one architecture and width."""
    trained = trials[(trials["phase"] == "backbones") & trials["classifier_accuracy"].notna()]
    best = trained.sort_values("classifier_accuracy", ascending=False).drop_duplicates(["backbone", "width"])
    return best if len(best) > 1 else best.head(0)


def _class_count(folder: Location, trials: set[str]) -> int:
    """The number of classes, of which a trace of one of some trials tells; 0 without a trace."""
    trace = next((one for one in stored_traces(folder / "traces") if one.weights.trial_id in trials), None)
    return 0 if trace is None else trace.read().logits.shape[2]


def _counted(folder: Location, spec: DataSpec, points: OperatingPointsSpec, trial_id: str, classes: int) -> Costs:
    from study.costs.model.devices import load_device
    from study.run.network_work import stored_work

    work = stored_work(folder, spec, trial_id, classes)
    if points.costs != MEASURED:
        device = load_device(points.costs)
        try:
            return device.costs(work, precision="fp32", batch_size=points.batch_size)
        except UserError:
            pass  # the device has no fp32
    return work.flop_costs()


def _costs_file(folder: Location, trial_id: str, points: OperatingPointsSpec) -> Location:
    return folder / "profiles" / safe_name(f"{trial_id}-without-exits-batch{points.batch_size}.json", "profile")


def _read_costs(file: Location) -> Costs | None:
    """Costs that were written; None where there are none, or none that can be read."""
    try:
        return Costs.from_json(file.read_bytes()) if file.is_file() else None
    except (UserError, UnicodeDecodeError, OSError):
        return None
