"""The front of a run folder: the stored one, and the exact front of a search space, from traces and tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, cast

from results.parts import part_count, read_or_empty
from results.storage.paths import Location
from results.summary import FrontSummary, recommended_by, summarize_front
from search_spaces.spec import OperatingPointsSpec, StudySpec
from study.errors import UserError
from study.policies.criteria import CRITERIA
from study.progress import Reporter
from study.run.folder import STUDY_FILE, no_run_folder
from study.run.reader import stored_networks, stored_study
from study.search.exact_report import ExactReport, exact_report
from study.search.exact_search import uncovered
from study.search.space import check_depth, check_names
from study.search.test_front import why_no_front


def require_front(folder: Location) -> Location:
    """The tables of a run folder.

    Raises:
        UserError: the folder is no run folder, or the study is finished and no point keeps the constraints. A study of
            which a point keeps the constraints has a front, so that the table is missing for another reason.
    """
    if not (folder / STUDY_FILE).is_file():
        raise no_run_folder(folder)
    tables = folder / "tables"
    finished = part_count(tables, "costs") > 0
    if finished and not part_count(tables, "front"):
        points = read_or_empty(tables, "operating_points")
        if not points["feasible"].eq(True).any():
            raise UserError(f"{folder}: {why_no_front(points)}")
    return tables


def stored_summary(folder: Location, *, data: str | None = None, cost: str = "flops") -> FrontSummary:
    """The summary of the front of a run folder, whose recommended point costs least.

    Args:
        folder: run folder, or a pack.
        data: the data set; may be left out where the study has one.
        cost: ``flops``, ``energy`` or ``seconds``; seconds are those of this machine, which is measured.

    Raises:
        UserError: the folder is no run folder, or its points run at frequencies that are only simulated.
        TableError: the study has no front, or no such costs.
    """
    summary = summarize_front(require_front(folder), data=data)
    if cost == "seconds":
        from study.run.machine_seconds import with_machine_seconds

        summary = with_machine_seconds(folder, summary, data=data, reporter=Reporter())
    return recommended_by(summary, cost)


def stored_space(folder: Location, changes: Sequence[tuple[str, object]]) -> OperatingPointsSpec:
    """The search space of a stored study with changes.

    Raises:
        UserError: a name is unknown, or changed costs lack what the space needs.
    """
    space = stored_study(folder, changes).operating_points
    check_names(space, criteria=CRITERIA)
    own = stored_study(folder).operating_points if changes else space  # what is stored was checked before it ran
    if (space.costs, space.dvfs, space.quantization) != (own.costs, own.dvfs, own.quantization):
        import torch  # here, because most readers of a front need no torch, whose import takes seconds

        from study.search.cost_source import check_costs

        check_costs(space, cast(Any, space.quantization.values), torch.device("cpu"), stored_will_do=True)
    return space


def exact_stored(folder: Location, changes: Sequence[tuple[str, object]] = (), data: str | None = None) -> ExactReport:
    """Compute the exact front of a stored study on the validation split. Neither images nor weights are needed.

    Args:
        folder: run folder, or a pack.
        changes: of the search space, as ``("operating_points.policy", "hierarchical")``.
        data: the data set; may be left out where the study has one.

    Raises:
        UserError: the front of this space cannot be computed exactly, or something stored is missing.
    """
    space = stored_space(folder, changes)
    reason = uncovered(space)
    if reason:
        raise UserError(f"front --exact does not cover this space: {reason}; --set {reason.remedy}")
    networks = stored_networks(folder, space, data)
    check_depth(space, min(network.exit_count for network in networks))
    return exact_report(space, networks, read_or_empty(folder / "tables", "operating_points"))


def evaluate_command(folder: Location, number: object) -> str:
    """The command that evaluates a point of the front of a run folder live."""
    words = ["predictive-exit", "evaluate", "--point", str(folder), str(number)]
    return shlex.join([*words, *code_option(stored_study(folder))])


def code_option(spec: StudySpec) -> tuple[str, ...]:
    """The option that names the folder of the user's own backbones, in a study that has such."""
    return ("--code", "DIR") if spec.backbones.code else ()
