"""A study in Python: its tables, its fronts, the recommended point, comparisons and traces."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from results.parts import read_or_empty, rows_of
from results.point_text import policy_text, setting_text
from results.schemas import TableError
from results.storage.object_store import RemotePath
from results.storage.paths import Location, expanded, location
from results.summary import FrontSummary, summarize_front
from search_spaces.spec import StudySpec
from search_spaces.words import printable
from study.errors import UserError
from study.policies.thresholds import Statistic
from study.progress import Reporter
from study.report.first import classic_on_test
from study.report.recommended_point import RecommendedPoint, recommend_point
from study.run.reader import stored_logits, stored_networks, stored_study
from study.run.stored_comparison import compare_stored
from study.run.stored_front import exact_stored, require_front
from study.search.cheapest import Objective
from study.search.compare import DROPS
from study.search.traced_network import TracedNetwork
from study.storage.home import user_path
from study.storage.publish import check_writable
from study.traces.trace import Trace

if TYPE_CHECKING:
    from study.report.writing import FrontPlot


class Study:
    """A study that was run: what its run folder holds, read when it is first asked for.

    A table or trace that was read is kept. Where a study still runs, open the study again to see new rows.
    """

    def __init__(self, folder: Location, spec: StudySpec) -> None:
        """Use :meth:`open`."""
        self.folder = folder
        """The run folder."""
        self.spec = spec
        """The study as the run folder records it."""
        self._summaries: dict[str | None, FrontSummary] = {}
        self._networks: dict[str | None, list[TracedNetwork]] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | RemotePath) -> Study:
        """Open a run folder, or a pack. Neither images nor weights are read, and Ray is not imported.

        Args:
            folder: a path, or the address of a folder on an object store, as ``s3://bucket/runs/quickstart``.

        Raises:
            UserError: the folder is no run folder, or its study cannot be read.
        """
        try:
            if isinstance(folder, RemotePath):
                place: Location = folder
            else:
                place = location(folder) if isinstance(folder, str) else expanded(Path(folder))
        except ValueError as error:
            raise UserError(str(error)) from None
        return cls(place, stored_study(place))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Phase 1: one row a trial. A table that the study has not written yet has no rows, here and below.

        Raises:
            TableError: a part of the table is damaged.
        """
        return self._table("trials")

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Phase 1: the learning curves, one row an epoch."""
        return self._table("epochs")

    @cached_property
    def exits(self) -> pd.DataFrame:
        """The statistics of each layer, of networks and of the points of the front."""
        return self._table("exits")

    @cached_property
    def operating_points(self) -> pd.DataFrame:
        """Phase 2: one row for each point that was searched."""
        return self._table("operating_points")

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The cost of each part of each network."""
        return self._table("costs")

    def _table(self, name: str) -> pd.DataFrame:
        return read_or_empty(self.folder / "tables", name)

    def front(
        self, data: str | None = None, *, exact: bool = False, changes: Mapping[str, object] | None = None
    ) -> pd.DataFrame:
        """The front, cheapest point first: chosen on validation, reported on test.

        Beside the columns of the table ``front`` there are ``accuracy_drop``, ``flops_share``, ``energy_share`` and
        ``latency_share`` against the classic network on validation, and ``test_accuracy_drop`` against the point's own
        network on test. ``recommended`` is true for the point that the study recommends.

        Args:
            data: the data set; may be left out where the study has one.
            exact: compute the exact front of all betas and start layers from the stored traces instead, on validation
                alone.
            changes: of the search space, for the exact front: as ``{"operating_points.policy": "hierarchical"}``.

        Raises:
            UserError: no point keeps the constraints; or the exact front of this space cannot be computed.
            TableError: the study has no front yet.
        """
        if exact:
            return exact_stored(self.folder, list((changes or {}).items()), data).points
        if changes:
            raise UserError("front: changes belong to exact=True: the front of a study is that of its own space")
        summary = self._summary(data)
        return summary.points.assign(recommended=summary.points.index == summary.recommended.name)

    def _summary(self, data: str | None) -> FrontSummary:
        if data not in self._summaries:
            self._summaries[data] = summarize_front(require_front(self.folder), data=data)
        return self._summaries[data]

    def recommend(
        self,
        max_accuracy_drop: float | None = None,
        confidence: float | None = None,
        budget: Mapping[str, float] | None = None,
        data: str | None = None,
        *,
        cost: str = "flops",
    ) -> RecommendedPoint:
        """The point of the front that a user should take. Test images choose nothing.

        The candidates are the points of the front. A ``confidence`` leaves the points that are certified, on images
        that chose nothing (:mod:`study.search.guarantee`). A ``budget`` leaves the points whose mean costs on
        validation keep every limit.

        - With a budget, the most accurate candidate on validation is recommended; of equally accurate candidates, the
          one with the fewest FLOPs. Where it loses more than ``max_accuracy_drop``, the reason says so.
        - Without a budget, the certified candidate with the least ``cost`` is recommended. Where no candidate is
          certified, the one with the least cost that loses at most ``max_accuracy_drop`` on validation. Where there is
          none, the most accurate one.

        Args:
            max_accuracy_drop: the accuracy that may be lost against the classic network, as a share of the images:
                with a confidence on new images, else on validation. None: 0.01, and every certificate of the study
                itself counts.
            confidence: that the point keeps ``max_accuracy_drop`` on new images, as 0.9.
            budget: limits of the mean costs of an image: ``energy`` (joules), ``flops``, ``bitops``, ``latency``
                (seconds; also ``latency_p50`` and ``latency_p99``), and ``memory`` (bytes).
            data: the data set; may be left out where the study has one.
            cost: ``flops``, ``energy`` or ``seconds``; seconds are measured on this machine, in some seconds.

        Raises:
            UserError: no point is certified, no point keeps the budget, a cost is not known, or a value cannot be.
            TableError: the study has no front yet.
        """
        summary = self._summary(data)
        if cost == "seconds" and budget is None:
            from study.run.machine_seconds import with_machine_seconds  # here: torch takes seconds to import

            summary = with_machine_seconds(self.folder, summary, data=data, reporter=Reporter(quiet=True))
        return recommend_point(
            self.folder,
            summary,
            max_accuracy_drop=max_accuracy_drop,
            confidence=confidence,
            budget=budget,
            data=data,
            cost=cost,
        )

    def compare(
        self,
        drops: Sequence[float] = DROPS,
        objective: Objective = "flops",
        *,
        report_test: bool = False,
        changes: Mapping[str, object] | None = None,
        data: str | None = None,
    ) -> pd.DataFrame:
        """Policies at equal accuracy: the rows of ``predictive-exit compare``.

        Args:
            drops: shares of accuracy that may be lost on validation.
            objective: the cost to minimise.
            report_test: report the chosen points on test too; without it the test traces are not opened.
            changes: of the search space, as ``{"operating_points.statistic": "mean_max"}``.
            data: the data set; may be left out where the study has one.

        Returns:
            :attr:`study.search.compare.Comparison.rows`.

        Raises:
            UserError: as :func:`study.run.stored_comparison.compare_stored`.
        """
        found = compare_stored(
            self.folder,
            list((changes or {}).items()),
            data,
            drops=drops,
            objective=objective,
            report_test=report_test,
        )
        return found.rows

    def plot_front(self, data: str | None = None) -> FrontPlot:
        """The front as the report draws it, with its controls and its table of points: a notebook shows it.

        Args:
            data: the data set; None: every data set of the study.

        Raises:
            UserError: the study has no such data set.
        """
        from study.report.writing import front_plot  # the page's parts are not loaded for tables alone

        return front_plot(self.folder, self.spec.name, data)

    def report(self, path: str | os.PathLike[str] | None = None, *, images: bool = False) -> Location:
        """Write the report of the study: one page that opens without network.

        Args:
            path: of the file; None: ``report.html`` in the run folder.
            images: show a few images that stop early and late; the file then holds images of the data set.

        Returns:
            The place of the file.

        Raises:
            UserError: the file cannot be written.
        """
        from study.report.writing import NAME, write_report

        if path is None:
            output: Location = self.folder / NAME
        else:
            output = user_path(Path(path))
            if output.suffix not in (".html", ".htm"):
                raise UserError(f"report: {output} must end in .html or .htm")
        check_writable(output.parent)
        write_report([self.folder], output, images=Path("data") if images else None)
        return output

    def trace(
        self,
        trial_id: str | None = None,
        precision: str | None = None,
        split: str = "validation",
        *,
        statistic: Statistic | None = None,
        data: str | None = None,
    ) -> Trace:
        """The logits of all exits of a network on a split, with the thresholds from the calibration split.

        Args:
            trial_id: of the trial that trained the network. None: the network and the precision of the recommended
                point, and the statistic of its thresholds.
            precision: None: fp32 where the network was traced in fp32, else its first precision.
            split: validation, calibration, test, or certification.
            statistic: of the thresholds. None: ``mean_logit`` for a network that is named.
            data: the data set; may be left out where the study has one.

        Raises:
            UserError: no such network was traced, or not on this split.
        """
        if data not in self._networks:
            self._networks[data] = stored_networks(self.folder, self.spec.operating_points, data)
        networks = self._networks[data]
        if trial_id is None:
            row = next(iter(rows_of(self._summary(data).recommended.to_frame().T)))
            trial_id, statistic = row["trial_id"], statistic or row["statistic"]
            precision = precision or row["precision"]
        own = [one for one in networks if one.trial_id == trial_id]
        wanted = precision or ("fp32" if any(one.precision == "fp32" for one in own) else None)
        network = next((one for one in own if wanted in (None, one.precision)), None)
        if network is None:
            there = ", ".join(f"{one.trial_id} {one.precision}" for one in networks)
            raise UserError(f"trace: no network {trial_id}{f' at {precision}' if precision else ''}: there are {there}")
        if split == "validation":
            return network.trace(statistic)
        if split == "calibration":
            return network.trace(statistic, network.calibration)
        return network.trace(
            statistic, stored_logits(self.folder, [network], split)[network.weights, network.precision]
        )

    def __repr__(self) -> str:
        return f"Study.open({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """The study in a notebook: the recommended point, and a short table. All texts are escaped."""
        parts = [f"<h4>{_text(self.spec.name)}</h4><p><code>{_text(self.folder)}</code></p>"]
        several = self.spec.data.names if len(self.spec.data.names) > 1 else [None]
        for data in several:
            if data is not None:
                parts.append(f"<h5>{_text(data)}</h5>")
            try:
                parts.append(_summary_html(self.folder, self._summary(data)))
            except (UserError, TableError) as error:
                parts.append(f"<p>{_text(error)}</p>")
        return "".join(parts)


def _text(value: object) -> str:
    """A text for HTML: markup and control characters of a run folder, which may come from a stranger, are inert."""
    return html.escape(printable(str(value)))


def _summary_html(folder: Location, summary: FrontSummary) -> str:
    point, row = summary.reference, next(iter(rows_of(summary.recommended.to_frame().T)))
    chosen, on_test = recommend_point(folder, summary), classic_on_test(summary)
    setting = ", ".join(part for part in (policy_text(row), setting_text(row)) if part)
    rows = [
        ("", f"point {chosen.number}", "classic network"),
        ("network", f"{row['trial_id']} {row['precision']}", f"{point.trial_id} {point.precision}"),
        ("setting", setting, ""),
        ("accuracy on validation", f"{row['accuracy']:.2%}", f"{point.accuracy:.2%}"),
        (
            "accuracy on test, 95 % interval",
            f"{row['test_accuracy']:.2%} [{row['test_accuracy_low']:.2%}, {row['test_accuracy_high']:.2%}]",
            "" if on_test is None else f"{on_test:.2%}",
        ),
        ("MFLOPs an image", f"{row['flops'] / 1e6:.4g} ({row['flops_share']:.1%})", f"{point.flops / 1e6:.4g}"),
    ]
    if summary.energy_source:
        energy = f"{row['energy_joules'] * 1e3:.4g} ({row['energy_share']:.1%})"
        label = f"energy, mJ an image ({summary.energy_source})"
        rows.append((label, energy, f"{point.energy_joules * 1e3:.4g}"))
    if summary.latency_source:
        latency = f"{row['latency_mean_seconds'] * 1e3:.4g} ({row['latency_share']:.1%})"
        rows.append((f"latency, ms ({summary.latency_source})", latency, f"{point.latency_seconds * 1e3:.4g}"))
    head, *body = rows
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = "".join(
        f"<tr><th>{_text(name)}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in rest)}</tr>" for name, *rest in body
    )
    return (
        f"<p>Recommended: point {chosen.number}, {_text(chosen.reason)}.</p>"
        f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
        f"<p>{len(summary.points)} points on the front. Evaluate it: <code>{_text(chosen.command)}</code></p>"
    )
