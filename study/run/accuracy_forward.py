"""The accuracy forward: how often the prediction engine names the right exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from results.parts import rows_of
from study.data.settings import ImageSet
from study.errors import UserError
from study.fronts.engine_accuracy import prediction_accuracies, prediction_confusion
from study.policies.policies import Predictive
from study.policies.thresholds import Statistic
from study.run.evaluate import calibrate
from study.run.loaded_network import LoadedNetwork
from study.traces.collect import trace_images
from study.traces.trace import Trace


def accuracy_forward(
    loaded: LoadedNetwork,
    images: ImageSet,
    *,
    betas: Sequence[float],
    start_layer: int,
    max_jump: int,
    statistic: Statistic,
) -> dict[str, Any]:
    """Measure how often the engine predicts the right exit on a split.

    Args:
        loaded: the network, with trained exit heads.
        images: of the split.
        betas: one or several; the images are traced once.
        start_layer, max_jump: of the engine.
        statistic: of the thresholds.

    Returns:
        ``by_start_layer``, the accuracy for each beta and start layer. With one beta also ``prediction_accuracy``,
        ``predictions`` and ``confusion`` (predicted and true distance) at ``start_layer``.

    Raises:
        UserError: the heads are not trained, or beta, start layer or jump do not fit the network.
    """
    if not loaded.heads_trained:
        raise UserError("evaluate: the accuracy forward needs trained exit heads (train --mode exits)")
    for beta in betas:
        Predictive(beta, start_layer, max_jump).first_exit(loaded.runnable.exit_count)
    split = trace_images(loaded.runnable, images, loaded.dataset.info)
    trace = Trace(split.logits, split.labels, calibrate(loaded, statistic))
    by_start_layer = list(rows_of(prediction_accuracies(trace, betas, max_jump=max_jump)))
    result: dict[str, Any] = {"samples": len(split.labels)}
    if len(betas) == 1:
        confusion = prediction_confusion(trace, betas[0], start_layer, max_jump)
        predictions = int(confusion.sum())
        distances = [*map(str, range(1, max_jump)), f"{max_jump}+"]
        result |= {
            "prediction_accuracy": float(confusion.trace() / predictions) if predictions else None,
            "predictions": predictions,
            "confusion": [
                {"predicted": name, **{f"true {true}": int(count) for true, count in zip(distances, row, strict=True)}}
                for name, row in zip(distances, confusion, strict=True)
            ],
        }
    return {**result, "by_start_layer": by_start_layer}
