"""Certify the front of a stored study, from its traces: neither images nor weights are needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from results.intervals import mean_interval
from results.parts import of_data, read_table, rows_of
from results.schemas import SETTINGS
from results.storage.paths import Location
from search_spaces.spec import GuaranteeSpec
from study.policies.replay import tally
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.cross_fit import classic_right
from study.search.guarantee import Certification, certified_points, random_halves, right_answers
from study.search.operating_point import point_of
from study.search.traced_network import reference_network


@dataclass(frozen=True)
class StoredCertification:
    """The result of :func:`certify_stored`."""

    certification: Certification
    own_split: bool
    """Whether the study has a certification split. If not, one half of the test images certified."""
    reporting: int
    """The number of images that report: of the whole test split, or of its other half."""
    used_before: GuaranteeSpec | None
    """Another guarantee that the study itself tested on the certification split; None where there is none. What other
    commands tested on the same images is not known."""
    points: pd.DataFrame
    """The points that were tested, from safe to cheap: number, network and settings; ``validation_loss``;
    ``certifying_loss`` and its upper ``bound``; ``certified``; on the images that report ``reported_loss`` with its
    95 % interval, and ``flops_share``. Losses and shares are against the reference network."""


def certify_stored(folder: Location, guarantee: GuaranteeSpec, data: str | None = None) -> StoredCertification:
    """Certify points of the front of a study on images that did not choose them, and report on others.

    Where the study has a certification split, its images certify and the test images report. Where it has none, a
    random half of the test images certifies and the other half reports.

    Args:
        folder: run folder of a finished study, or a pack.
        guarantee: the limit and the confidence.
        data: the data set; may be left out where the study has one.

    Raises:
        UserError: a trace is missing.
        TableError: the study has no front.
    """
    spec = stored_study(folder)
    networks = stored_networks(folder, spec.operating_points, data)
    front = of_data(read_table(folder / "tables", "front"), data)
    reporting = stored_logits(folder, networks, "test")
    own_split = spec.certification > 0
    if own_split:
        certifying = stored_logits(folder, networks, "certification")
    else:
        halves = {key: random_halves(split) for key, split in reporting.items()}
        certifying = {key: first for key, (first, _) in halves.items()}
        reporting = {key: second for key, (_, second) in halves.items()}
    found = certified_points(front, networks, guarantee, lambda one: certifying[one.weights, one.precision])
    reference = reference_network(networks)
    classic = classic_right(reporting[reference.weights, reference.precision])
    classic_flops = reference.costs.classic("flops")
    rows = []
    tested = front.iloc[list(found.path[: len(found.losses)])]
    for place, stored in enumerate(rows_of(tested)):
        point = point_of(stored, networks)
        split = reporting[point.network.weights, point.network.precision]
        losses = classic - right_answers(point, split)
        low, high = mean_interval(losses[:, None])
        counted = tally(point.network.trace(point.statistic, split), point.policy)
        rows.append(
            {
                **{name: stored[name] for name in ("number", "search", "trial_id", *SETTINGS)},
                "validation_loss": reference.classic_accuracy - stored["accuracy"],
                "certifying_loss": found.losses[place],
                "bound": found.bounds[place],
                "certified": place < found.certified,
                "reported_loss": float(losses.mean()),
                "reported_loss_low": float(low[0]),
                "reported_loss_high": float(high[0]),
                "flops_share": point.network.costs_of(point.policy).mean(counted, "flops") / classic_flops,
            }
        )
    used_before = None if spec.guarantee == guarantee else spec.guarantee
    points = pd.DataFrame(rows, index=np.arange(len(rows)))
    return StoredCertification(found, own_split, len(classic), used_before, points)
