"""``predictive-exit front --guarantee``: certify the front of a stored study."""

from __future__ import annotations

import argparse

import numpy as np

from results.parts import rows_of
from search_spaces.spec import GuaranteeSpec
from study.cli.points import COSTS, NETWORK, points_table, thinned, write_points
from study.cli.printing import console_of
from study.run.certify import StoredCertification, certify_stored
from study.run.stored_front import require_front
from study.search.guarantee import guarantee_words
from study.storage.strict_json import dumps

_WIDTH = 100
_NUMBERS = {
    **COSTS,
    "validation": ("lost,\nvalidation", ".2f"),
    "certifying": ("lost,\ncertifying", ".2f"),
    "most": ("at\nmost", ".2f"),
    "reported": ("lost,\nreporting", ".2f"),
    "half": ("± 95 %", ".2f"),
}


def show_guarantee(options: argparse.Namespace) -> None:
    """Certify the front of a study, and print, write or show as JSON the points that were tested.

    Raises:
        UserError: something stored is missing.
    """
    require_front(options.folder)
    asked = {"accuracy_drop": options.guarantee, "confidence": options.confidence}
    guarantee = GuaranteeSpec(**{name: value for name, value in asked.items() if value is not None})
    found = certify_stored(options.folder, guarantee, options.data)
    points, certification = found.points, found.certification
    if options.output:
        write_points(points, options.output)
    if options.json:
        facts = {
            **guarantee.model_dump(),
            "certified_on": "certification" if found.own_split else "half of test",
            "certifying_images": certification.samples,
            "reporting_images": found.reporting,
            "images_needed": certification.needed,
            "used_before": None if found.used_before is None else found.used_before.model_dump(),
        }
        print(dumps({**facts, "points": list(rows_of(points))}, indent=1))
        return
    console = console_of()
    if len(points):
        percent = ["validation_loss", "certifying_loss", "bound", "reported_loss"]
        printed = dict(zip(["validation", "certifying", "most", "reported"], percent, strict=True))
        half = (points["reported_loss_high"] - points["reported_loss_low"]) / 2
        shown = points.assign(**{name: points[column] * 100 for name, column in printed.items()}, half=half * 100)
        shown["mark"] = np.where(points["certified"], "*", "")
        names = {"point": "{number} {mark}", **NETWORK}
        title = "points of the front, from safe to cheap; * is certified; losses in points of accuracy"
        console.print(points_table(title, thinned(shown), names, _NUMBERS, settings=False), width=_WIDTH)
    for line in guarantee_lines(found):
        console.print(line, soft_wrap=True)


def guarantee_lines(found: StoredCertification) -> list[str]:
    """What was certified, and on which images, in sentences."""
    certification, first = found.certification, []
    if found.used_before is not None:
        first = [
            f"warning: the study itself tested another guarantee ({guarantee_words(found.used_before)}) on the same "
            "images: the confidence holds for one that is chosen before any result is seen"
        ]
    if found.own_split:
        where = f"the certification split certifies ({certification.samples} images), the test split reports "
    else:
        where = (
            "this study has no certification split: a random half of the test images certifies "
            f"({certification.samples} images), the other half reports "
        )
    lines = [*first, f"{where}({found.reporting} images)" if certification.path else "", certification.sentence()]
    if certification.certified:
        last = found.points[found.points["certified"]].iloc[-1]
        lines.append(
            f"cheapest certified: point {last['number']} with {last['flops_share']:.1%} of the classic network's "
            f"FLOPs; on the images that report it loses {last['reported_loss'] * 100:.2f} points "
            f"({last['reported_loss_low'] * 100:.2f} to {last['reported_loss_high'] * 100:.2f})"
        )
    return [line for line in lines if line]
