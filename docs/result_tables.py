"""The tables of the result pages, each a function of the studies in ``results/reference``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from results.parts import read_table, rows_of
from results.storage.paths import location
from study.run.reader import published_costs, stored_networks, stored_study, stored_test_logits
from study.search.compare import Comparison, compare

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
RULES = (
    ("operating_points.costs", "jetson-tx2"),
    ("operating_points.quantization", "fp32"),
    ("operating_points.dvfs", ["race_to_idle", "paper", "deadline"]),
)
"""A device whose frequencies are known; it has no integer units."""
POINT = 0.01
"""The drop of accuracy at which policies are shown in detail."""
SHOWN = (0.1, 0.25, 0.4, 0.6)
"""Exits whose accuracies are shown, as shares of their number: 2, 5, 8 and 12 of VGG-19's twenty."""
HEADLINE = ("static", "hierarchical", "predictive", "placed, margin")
SETTINGS = {
    "mode": "trained",
    "kind": "heads",
    "conv_channels": "channels",
    "conv_layers": "convolutions",
    "conv_side": "side",
    "exit_loss_base": "least weight of an exit",
    "exit_gradient": "gradient",
    "distillation": "distillation",
}
"""Settings that vary in the studies of exits -> the headings of their columns."""


@cache
def compared(study: str, *, rules: bool = False) -> Comparison:
    """All policies on all networks of a study."""
    folder = location(str(REFERENCE / study))
    spec = stored_study(folder, RULES if rules else ()).operating_points
    networks = stored_networks(folder, spec)
    tests = stored_test_logits(folder, networks)
    if rules:  # frequency rules look at each image's whole walk, which takes long: of the best network alone
        networks = [one for one in networks if one.trial_id == best_network(study)]
    return compare(
        spec,
        networks,
        test_logits=lambda one: tests[one.weights, one.precision],
        published=lambda one: published_costs(folder, one),
        rules=[str(rule) for rule in spec.dvfs.values if rule != "none"],
    )


def best_network(study: str) -> str:
    """The network with the cheapest point, on validation, that loses at most one point."""
    rows = compared(study).rows
    rows = rows[(rows["drop"] == POINT) & (rows["precision"] == "fp32") & ~rows["family"].str.contains("oracle")]
    return str(rows.sort_values("flops_share")["trial_id"].iloc[0])


def rows_of_best(study: str, precision: str, *, rules: bool = False) -> pd.DataFrame:
    """What was compared on the best network."""
    rows = compared(study, rules=rules).rows
    return rows[(rows["trial_id"] == best_network(study)) & (rows["precision"] == precision)]


def trials(study: str, phase: str = "", epoch: str = "") -> str:
    """What phase 1 trained, and how good it got on validation: at its best epoch, or at one that all have reached."""
    table = read_table(REFERENCE / study / "tables", "trials")
    curves = read_table(REFERENCE / study / "tables", "epochs")
    exit_count = max((len(one) for one in curves["exit_accuracies"] if isinstance(one, Sized)), default=0)
    rows = []
    for row in rows_of(table[table["phase"] == phase] if phase else table):
        settings = json.loads(row["settings"])
        training, head = settings["training"], settings["network"]["head"]
        own = curves[curves["trial_id"] == row["trial_id"]].set_index("epoch")
        shown = own.loc[int(epoch or row["best_epoch"])]
        heads = row["head"] or ""
        if heads in ("conv", "separable"):
            heads += f" {head['conv_channels']} x {head['conv_side']} x {head['conv_side']}"
            heads += f", {head.get('conv_layers', 2)} convolutions"
        columns = {
            "trial": row["trial_id"],
            "trained": row["mode"],
            "heads": heads,
            "optimizer": f"{training['optimizer']} {training['learning_rate']:g}",
            "weight decay": f"{training['weight_decay']:g}",
        }
        if phase != "backbones":
            columns |= {
                "weight of exit l": f"{training['exit_loss_base']:g} + {training['exit_loss_slope']:g} l / E",
                "distillation": f"{training['distillation']:g}",
            }
            if not heads:
                columns |= {"weight of exit l": "", "distillation": ""}
        elif training.get("ema_decay"):
            columns["weight decay"] += f", average {training['ema_decay']:g}"
        columns |= {"epochs": epoch or row["epochs_done"], "classifier": percent(shown["classifier_accuracy"])}
        if phase != "backbones":
            columns |= some_exits(shown["exit_accuracies"] if heads else None, exit_count)
        rows.append({**columns, "minutes": f"{own.loc[: int(columns['epochs']), 'seconds'].sum() / 60:.1f}"})
    return markdown(rows)


def some_exits(accuracies: Any, count: int) -> dict[str, str]:
    """The accuracies of a few exits, spread over the network; nothing of a backbone."""
    exits = [round(share * count) for share in SHOWN]
    return {f"exit {exit}": "" if accuracies is None else percent(accuracies[exit - 1]) for exit in exits}


def quality(study: str) -> str:
    """Exit heads by what varies among them: accuracies, and the FLOPs of the cheapest point at two bounds, all on
    validation. One bound is the network's own classifier, the other, common to all, the backbone trained alone."""
    table = read_table(REFERENCE / study / "tables", "trials")
    points = read_table(REFERENCE / study / "tables", "operating_points")
    curves = read_table(REFERENCE / study / "tables", "epochs")
    bar = table[table["phase"] == "backbones"]["score"].max() - POINT
    trials = list(rows_of(table[table["phase"] == "exits"]))
    settings = [json.loads(row["settings"]) for row in trials]
    flat = [{"conv_layers": 2, **one["network"]["head"], **one["training"]} for one in settings]
    varied = [name for name in SETTINGS if len({one.get(name) for one in flat}) > 1]
    rows = []
    for row, values in zip(trials, flat, strict=True):
        own = points[points["trial_id"] == row["trial_id"]]  # none of a network that was not traced
        classic = own[["classic_accuracy", "classic_flops"]].max()
        best = curves[(curves["trial_id"] == row["trial_id"]) & (curves["epoch"] == row["best_epoch"])].iloc[0]
        flops = [
            own[own["accuracy"] >= least - 1e-12]["flops"].min() / classic["classic_flops"]
            for least in (classic["classic_accuracy"] - POINT, bar)
        ]
        columns = {SETTINGS[name]: values[name] for name in varied}
        columns |= {"classifier": percent(best["classifier_accuracy"])}
        columns |= some_exits(best["exit_accuracies"], len(best["exit_accuracies"]))
        columns |= {"FLOPs, own classifier": percent(flops[0]), "FLOPs, common bound": percent(flops[1])}
        rows.append((flops[1], columns))
    return markdown(columns for _, columns in sorted(rows, key=lambda one: (pd.isna(one[0]), one[0])))


def comparison(study: str, precision: str, *points: str) -> str:
    """The policies at equal accuracy on the best network, each of which may lose so many points."""
    return markdown(
        {
            "at most": f"{row['drop'] * 100:g}",
            "policy": row["family"],
            "lost on test (95 %)": interval(row),
            "FLOPs": percent(row["test_flops_share"]),
            "FLOPs at equal loss (95 %)": matched(row),
            "published program's FLOPs": percent(row["test_flops_published_share"]),
            "energy": percent(row["test_energy_share"]),
            "heads run": f"{row['test_heads_run']:.1f}",
            "engine right": percent(row.get("test_prediction_accuracy")),
        }
        for row in rows_of(rows_of_best(study, precision))
        if f"{row['drop'] * 100:g}" in points
    )


def frequencies(study: str, precision: str) -> str:
    """Energy of an image's whole period, idle or busy, as shares of the classic network's at full speed."""
    rows = rows_of_best(study, precision, rules=True)
    shown = rows[rows["drop"].isin([0.0, POINT]) & ~rows["family"].str.contains("oracle")]
    return markdown(
        {
            "at most": f"{row['drop'] * 100:g}",
            "policy": row["family"],
            "FLOPs": percent(row["test_flops_share"]),
            "`race_to_idle`": percent(row["test_energy_share_race_to_idle"]),
            "`paper`": percent(row["test_energy_share_paper"]),
            "`deadline`": percent(row["test_energy_share_deadline"]),
        }
        for row in rows_of(shown)
    )


def stops(study: str, precision: str) -> str:
    """Where the images stop, at the points that lose at most one point."""
    rows = rows_of_best(study, precision)
    kept = list(rows_of(rows[(rows["drop"] == POINT) & (rows["family"] != "static")]))
    last = len(kept[0]["test_stopped"]) - 1
    exits = [exit for exit in range(last + 1) if any(row["test_stopped"][exit] >= 5e-4 for row in kept)]
    return markdown(
        {
            "policy": row["family"],
            **{
                "classifier" if exit == last else f"exit {exit + 1}": percent(row["test_stopped"][exit])
                for exit in exits
            },
        }
        for row in kept
    )


def predictions(study: str, precision: str) -> str:
    """How often the engine is right from each start layer, at the beta of the point that loses at most one point."""
    found = compared(study).predictions
    found = found[found["split"] == "test"]
    kept = found[
        (found["trial_id"] == best_network(study)) & (found["precision"] == precision) & (found["drop"] == POINT)
    ]
    return markdown(
        {
            "start layer": f"{row['start_layer']:.0f}",
            "right": percent(row["accuracy"]),
            "predictions": f"{row['predictions']:,.0f}",
        }
        for row in rows_of(kept)
    )


def headline(*studies: str) -> str:
    """The cheapest points that lose at most one point on validation, of the best network of each study in fp32."""
    return markdown(
        {
            "study": study,
            "policy": row["family"],
            "lost on test (95 %)": interval(row),
            "FLOPs": percent(row["test_flops_share"]),
            "FLOPs at equal loss (95 %)": matched(row),
            "energy": percent(row["test_energy_share"]),
        }
        for study in studies
        for row in rows_of(rows_of_best(study, "fp32"))
        if row["drop"] == POINT and row["family"] in HEADLINE
    )


def matched(row: Mapping[str, Any]) -> str:
    """FLOPs at equal loss on images that did not choose, with the 95 % interval; nothing where they are not known."""
    if pd.isna(row["matched_flops_share"]):
        return ""
    low, high = row["matched_flops_share_low"], row["matched_flops_share_high"]
    return f"{percent(row['matched_flops_share'])} ({low * 100:.1f} to {high * 100:.1f})"


def percent(share: float | None) -> str:
    """In percent, or nothing."""
    return "" if share is None or pd.isna(share) else f"{share * 100:.1f} %"


def seeds(*studies: str) -> str:
    """The points that lose at most one point, of studies that differ by their seed: mean, least and most."""
    tables = [pd.read_csv(REFERENCE / study / "comparison.csv") for study in studies]
    rows = pd.concat(table[table["drop"].isin([POINT]) | (table["family"] == "classic")] for table in tables)
    found = rows.groupby("family")[["test_accuracy", "test_drop", "test_flops_share", "test_energy_share"]]
    assert (found.size() == len(studies)).all(), "each policy has a point with each seed"
    least, mean, most = found.min(), found.mean(), found.max()

    def text(policy: str, column: str, form: Callable[[float], str] = percent) -> str:
        return "{} ({} to {})".format(*(form(table[column][policy]) for table in (mean, least, most)))

    return markdown(
        {
            "policy": policy,
            "accuracy on test": text(policy, "test_accuracy"),
            "lost on test": text(policy, "test_drop", lambda share: f"{share * 100:.2f}"),
            "FLOPs": text(policy, "test_flops_share"),
            "energy": text(policy, "test_energy_share"),
        }
        for policy in mean.sort_values("test_flops_share", ascending=False).index
    )


def interval(row: dict[str, Any]) -> str:
    """Points of accuracy lost, with their interval."""
    return f"{row['test_drop'] * 100:.2f} ({row['test_drop_low'] * 100:.2f} to {row['test_drop_high'] * 100:.2f})"


def markdown(rows: Iterable[Mapping[str, object]]) -> str:
    """A table."""
    rows = list(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])
