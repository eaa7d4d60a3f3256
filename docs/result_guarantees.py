"""Certified points of the studies in ``results/reference``, on the page of results."""

from __future__ import annotations

import textwrap
from typing import Any

from result_tables import POINT, REFERENCE, markdown, percent

from results.parts import rows_of
from results.storage.paths import location
from search_spaces.spec import GuaranteeSpec
from study.cli.points import policy_text
from study.run.certify import certify_stored

LIMITS = (0.005, POINT, 0.02)
CONFIDENCE = 0.9


def guarantees(*studies: str) -> str:
    """The cheapest certified point of each study and limit, and how it fared on the images that did not certify."""
    rows, kept, broken = [], 0, []
    for study in studies:
        for limit in LIMITS:
            guarantee = GuaranteeSpec(accuracy_drop=limit, confidence=CONFIDENCE)
            found = certify_stored(location(str(REFERENCE / study)), guarantee)
            columns = {"study": study, "limit": f"{limit * 100:g}"}
            tested = found.certification
            if not tested.certified:
                need = "" if tested.needed is None else f": about {tested.needed:,} images would do"
                columns |= {"cheapest certified point": f"none{need}", "FLOPs": ""}
                columns |= {"lost where certified (at most)": _lost(tested.losses[0], tested.bounds[0])}
                columns |= {"lost on the other half (95 %)": "", "images of each half": f"{tested.samples:,}"}
                rows.append(columns)
                continue
            last = list(rows_of(found.points[found.points["certified"]]))[-1]
            columns |= {
                "cheapest certified point": f"{policy_text(last)}, {last['precision']}",
                "FLOPs": percent(last["flops_share"]),
                "lost where certified (at most)": _lost(last["certifying_loss"], last["bound"]),
                "lost on the other half (95 %)": _interval(last),
                "images of each half": f"{tested.samples:,}",
            }
            rows.append(columns)
            if last["reported_loss"] > limit:
                broken.append(f"{study} at {limit * 100:g} (lost {_interval(last)})")
            else:
                kept += 1
    sentence = (
        f"Of {kept + len(broken)} certified points, {kept} lose at most their limit on the other half, and "
        f"{len(broken)} {'loses' if len(broken) == 1 else 'lose'} more{': ' if broken else ''}{'; '.join(broken)}."
    )
    return f"{markdown(rows)}\n\n{textwrap.fill(sentence, 98, break_on_hyphens=False)}"


def _lost(loss: float, bound: float) -> str:
    return f"{loss * 100:.2f} ({bound * 100:.2f})"


def _interval(row: dict[str, Any]) -> str:
    return (
        f"{row['reported_loss'] * 100:.2f} ({row['reported_loss_low'] * 100:.2f} to "
        f"{row['reported_loss_high'] * 100:.2f})"
    )
