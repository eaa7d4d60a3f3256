"""The networks of a run folder, from stored traces, profiles and tables. No image and no weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from results.parts import of_data, part_count, read_or_empty
from results.storage.paths import Location
from search_spaces.settings import MEASURED
from search_spaces.spec import OperatingPointsSpec, StudySpec, validate_space
from study.checkpoints.description import WeightsId
from study.costs.costs import Costs
from study.costs.measure.profile import read_profile
from study.errors import UserError
from study.fronts.exact import check_comparable
from study.networks.precisions import Precision
from study.run.folder import STUDY_FILE, stored_study_file
from study.search.traced_network import TracedNetwork
from study.storage.publish import safe_name
from study.traces.files import StoredTrace, stored_traces
from study.traces.trace import SplitLogits

if TYPE_CHECKING:
    from study.costs.flops import NetworkWork


def stored_study(folder: Location, changes: Sequence[tuple[str, object]] = ()) -> StudySpec:
    """The study of a run folder, with changes to its search space as ``run --set`` makes them.

    Raises:
        UserError: there is no study, it cannot be read, or a change is of something else.
        SpecError: with the changes it is none.
    """
    for key, _ in changes:
        if not key.startswith("operating_points."):
            raise UserError(f"--set {key}: the networks of {folder} are trained; change keys of operating_points only")
    stored = stored_study_file(folder)
    return validate_space(stored["study"], str(folder / STUDY_FILE), changes)


def stored_networks(
    folder: Location, points: OperatingPointsSpec, data: str | None = None, *, with_memory: bool = False
) -> list[TracedNetwork]:
    """The networks that phase 2 searched, or will search, at the precisions of a search space.

    Args:
        folder: run folder.
        points: of the folder's study, or changed; with another device table costs are modelled anew.
        data: the data set; may be left out where the study has one.
        with_memory: know the memory of each even where the space does not ask for it.

    Raises:
        UserError: there is not one, or what belongs to one is missing or damaged. (While the study still runs, networks
            that are not traced yet are left out.)
    """
    finished = bool(part_count(folder / "tables", "costs"))
    study = stored_study(folder)
    if data is None and len(study.data.names) > 1:
        raise UserError(f"{folder} has several data sets: name one of {', '.join(study.data.names)} with --data")
    if data is not None and data not in study.data.names:
        raise UserError(f"{folder} has no data set {data}: it has {', '.join(study.data.names)}")
    precisions = {*points.quantization.values} & {*get_args(Precision)}
    traces = [trace for trace in stored_traces(folder / "traces") if trace.precision in precisions]
    found = _newest(folder, traces, data)
    own = study.operating_points
    same_costs = (points.costs, points.batch_size) == (own.costs, own.batch_size)
    if points.costs == MEASURED and not same_costs:
        raise UserError("operating_points.costs: measured costs are those of a study: give `run` with another --name")
    works: dict[WeightsId, NetworkWork] = {}
    rules, limit = points.dvfs.values != ("none",), points.constraints.memory is not None
    needs_work = with_memory or rules or limit or not same_costs
    device = None
    if rules or not same_costs:  # else the table is not read: one of the user's own may be gone
        from study.costs.model.devices import load_device

        device = load_device(points.costs)
    networks = []
    for (weights, precision), splits in found.items():
        if missing := {"calibration", "validation"} - set(splits):
            if not finished:
                continue  # the study still runs, and has not traced the network yet
            raise UserError(
                f"{folder / 'traces'} holds no {' and no '.join(sorted(missing))} trace of {weights} at {precision}: "
                "give `run` again, which computes it"
            )
        if needs_work and weights not in works:
            classes = splits["validation"].read().logits.shape[2]
            from study.run.network_work import stored_work  # here: torch is imported, which takes seconds

            works[weights] = stored_work(folder, study.data, weights.trial_id, classes)
        if device is None or same_costs:
            name = f"{weights.file_stem}-{precision}-batch{points.batch_size}.json"
            costs = _stored_costs(folder / "profiles" / safe_name(name, "profile"), measured=points.costs == MEASURED)
        else:
            costs = device.costs(works[weights], precision=precision, batch_size=points.batch_size)
        calibration, validation = splits["calibration"].read(), splits["validation"].read()
        shapes = {one.logits.shape[1:] for one in (calibration, validation)}
        if len(shapes) > 1 or costs.exit_count + 1 != validation.logits.shape[1]:
            raise UserError(
                f"{splits['validation'].folder}: its exits or classes are not those of the calibration trace and of "
                "the costs: remove these traces and give `run` again"
            )
        work = works.get(weights)
        networks.append(TracedNetwork(weights, costs, calibration, validation, precision=precision, work=work))
    if not networks:
        asked = ", ".join(map(str, points.quantization.values))
        raise UserError(f"{folder / 'traces'} holds no traces of a network at {asked}")
    check_comparable([network.costs for network in networks])
    if device is None:
        return networks
    from study.search.cost_source import with_frequencies

    return with_frequencies(points, device, networks)


def _newest(
    folder: Location, traces: Sequence[StoredTrace], data: str | None
) -> dict[tuple[WeightsId, Precision], dict[str, StoredTrace]]:
    """The traces of each network and precision by split: of the weights that the study has now, the last written."""
    trials, costs = (read_or_empty(folder / "tables", name) for name in ("trials", "costs"))
    known = of_data(trials, data).dropna(subset="weights_hash")
    current, searched = set(map(WeightsId, known["trial_id"], known["weights_hash"])), set(costs["trial_id"])
    found: dict[tuple[WeightsId, Precision], dict[str, StoredTrace]] = {}
    for trace in sorted(traces, key=lambda one: one.written):
        if (trials.empty or trace.weights in current) and (costs.empty or trace.weights.trial_id in searched):
            splits = found.setdefault((trace.weights, cast(Precision, trace.precision)), {})
            splits[trace.split] = trace
    return dict(sorted(found.items()))


def _stored_costs(path: Location, *, measured: bool) -> Costs:
    if not path.is_file():
        raise UserError(f"{path} is missing: give `run` again, which writes it")
    if measured:
        return read_profile(path).costs
    try:
        return Costs.from_json(path.read_bytes())
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give `run` again, which writes it") from None


def stored_logits(
    folder: Location, networks: Sequence[TracedNetwork], split: str
) -> dict[tuple[WeightsId, Precision], SplitLogits]:
    """The traces of some networks on a split, by weights and precision; a missing one is a ``UserError``."""
    found: dict[tuple[WeightsId, Precision], SplitLogits] = {}
    wanted = {(one.weights, one.precision) for one in networks}
    for trace in sorted(stored_traces(folder / "traces"), key=lambda one: one.written):
        key = trace.weights, cast(Precision, trace.precision)
        if trace.split == split and key in wanted:
            found[key] = trace.read()
    for weights, precision in sorted(wanted - set(found)):
        raise UserError(
            f"{folder / 'traces'} holds no {split} trace of {weights} at {precision}: "
            "give `run` again, which computes it"
        )
    return found


def published_costs(folder: Location, network: TracedNetwork) -> Costs | None:
    """FLOPs of a network as the published program accounts for them; None where the table ``costs`` has none."""
    table = read_or_empty(folder / "tables", "costs").sort_values("number")
    own = table[(table["trial_id"] == network.trial_id) & (table["precision"] == network.precision)]
    segments, heads = (own.loc[own["part"] == part, "flops_published"].to_numpy() for part in ("segment", "head"))
    if len(heads) != network.exit_count or len(segments) != len(heads) + 1 or np.isnan([*segments, *heads]).any():
        return None
    return Costs(segment_flops=segments, head_flops=heads)
