"""The reference network: the network without exits that shares of costs and losses of accuracy are counted from."""

from __future__ import annotations

from collections.abc import Sequence


def reference_position(precisions: Sequence[str], accuracies: Sequence[float], flops: Sequence[float]) -> int:
    """The position of the reference network among networks without exits.

    The reference network is the most accurate network on validation; of equally accurate networks, the first with the
    fewest FLOPs. Networks in fp32 come before all others: a quantized network is a result of the study, and
    results are held against the reference.

    Args:
        precisions: of each network.
        accuracies: of each network's own classifier, on validation.
        flops: of each network without exits.
    """
    positions = [place for place, precision in enumerate(precisions) if precision == "fp32"]
    return min(positions or range(len(precisions)), key=lambda place: (-accuracies[place], flops[place]))
