"""How sure the recommended point of a study of few images is, in sentences."""

from __future__ import annotations

import numpy as np

from results.parts import rows_of
from results.storage.paths import Location
from results.summary import FrontSummary
from search_spaces.spec import GuaranteeSpec
from study.errors import UserError
from study.run.reader import stored_logits, stored_networks, stored_study
from study.search.betting_bound import drop_bound, images_needed
from study.search.cross_fit import classic_right
from study.search.guarantee import guarantee_words, right_answers
from study.search.operating_point import point_of
from study.search.traced_network import reference_network

FEW = 1000
"""Images of the validation or of the test split below which a study says how sure its point is: one image is more than
a tenth of a point."""
_CONFIDENCE = 0.95


def few_images_lines(folder: Location, summary: FrontSummary, data: str | None = None) -> list[str]:
    """How fine the choice was, what the point may lose on new images, and how many images a guarantee needs.

    Empty in a study of many images. The bound on the loss is the one of the guarantee, on the test images, which chose
    nothing (:mod:`study.search.betting_bound`). A study whose traces are not there tells the choice alone.

    Args:
        folder: run folder, or a pack.
        summary: of the front.
        data: the data set; may be left out where the study has one.
    """
    row = next(iter(rows_of(summary.recommended.to_frame().T)))
    chosen, tested = int(row["samples"]), int(row["test_samples"])
    if min(chosen, tested) >= FEW:
        return []
    lines = [f"few images: {chosen} validation images chose the point; one of them is {100 / chosen:.2g} points"]
    try:
        networks = stored_networks(folder, stored_study(folder).operating_points, data)
        tests = stored_logits(folder, networks, "test")
        point, reference = point_of(row, networks), reference_network(networks)
        right = right_answers(point, tests[point.network.weights, point.network.precision])
        losses = classic_right(tests[reference.weights, reference.precision]) - right
    except UserError:
        return lines
    lost, most = float(losses.mean()) * 100, float(drop_bound(losses, _CONFIDENCE)) * 100
    against = f"{abs(lost):.2f} points {'below' if lost >= 0 else 'above'} the classic network"
    lines.append(
        f"on the {tested} test images the point is {against}; with {_CONFIDENCE * 100:g} % confidence it loses at most "
        f"{most:.1f} points on new images"
    )
    if row["certified_drop"] is None:
        asked = GuaranteeSpec()
        least = images_needed(np.zeros(2), asked.accuracy_drop, asked.confidence)
        lines.append(
            f"a guarantee ({guarantee_words(asked)}) needs about {least} images that choose nothing if the point "
            "changes no answer, and more if it does; a larger loss needs fewer"
        )
    return lines
