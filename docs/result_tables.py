"""The tables of the result pages, each a function of the studies in ``results/reference``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd

from results.parts import read_table, rows_of
from results.storage.paths import location
from study.run.reader import published_costs, stored_logits, stored_networks, stored_study
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
"""Exits whose accuracies and rankings are shown, as shares of their number: 2, 5, 8 and 12 of VGG-19's twenty."""
HEADLINE = ("static", "hierarchical", "predictive", "head_thresholds, margin", "optimal_stopping")
OWN, EACH_HEAD = "optimal_stopping", "head_thresholds"
TIE = 0.03
"""The share of the cost up to which two policies need about the same."""
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
    tests = stored_logits(folder, networks, "test")
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
            "FLOPs at equal loss, unseen (95 %)": matched(row, "flops"),
            "FLOPs at equal loss, test (95 %)": matched(row, "test_flops"),
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
            "FLOPs at equal loss, test (95 %)": matched(row, "test_flops"),
            "energy": percent(row["test_energy_share"]),
        }
        for study in studies
        for row in rows_of(rows_of_best(study, "fp32"))
        if row["drop"] == POINT and row["family"] in HEADLINE
    )


def rivals(*studies: str) -> str:
    """FLOPs at equal loss on test: optimal stopping against the engine, the best policy with one beta, and the
    thresholds of each head."""
    rows = []
    for study, drop, shares in at_equal_test_loss(*studies):
        own, one, each = shares[OWN], best(shares, fitted=False), best(shares, fitted=True)
        rows.append(
            {
                "study": study,
                "points lost on test": f"{drop * 100:g}",
                "optimal stopping": percent(own),
                "the paper's engine": against(own, shares["predictive"]),
                "best with one beta": f"{against(own, shares[one])} ({one})",
                "thresholds of each head": f"{against(own, shares[each])} ({each.partition(', ')[2]})",
            }
        )
    return markdown(rows)


def _listed(words: Sequence[str]) -> str:
    """Words as ``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def verdict(*studies: str) -> str:
    """Where optimal stopping wins at equal loss on test, and where it does not, in sentences."""
    found = list(at_equal_test_loss(*studies))
    engine = [shares[OWN] / shares["predictive"] for _, _, shares in found]
    one = [shares[OWN] / shares[best(shares, fitted=False)] for _, _, shares in found]
    kinds: dict[str, dict[str, list[str]]] = {"win": {}, "tie": {}, "lose": {}}
    nearest = 0
    for study, drop, shares in found:
        rival = min((name for name in shares if name != OWN), key=lambda name: shares[name])
        ratio = shares[OWN] / shares[rival]
        kind = "win" if ratio < 1 - TIE else "lose" if ratio > 1 + TIE else "tie"
        kinds[kind].setdefault(study, []).append(f"{drop * 100:g}")
        nearest += rival.startswith(EACH_HEAD)
    text = {
        kind: "; ".join(f"{study} at {_listed(drops)}" for study, drops in of.items()) or "none"
        for kind, of in kinds.items()
    }
    sentences = [
        "**Optimal stopping against the paper's engine:** at equal loss on test (0.5, 1 and 2 points) it needs from "
        f"{change(max(engine))} to {change(min(engine))} FLOPs, in the mean {change(mean(engine))}. Against the best "
        f"policy with one beta for all exits: from {change(max(one))} to {change(min(one))}, in the mean "
        f"{change(mean(one))}.",
        f"**Where it wins and where it does not.** The best other policy is thresholds of each head in {nearest} of "
        f"{len(found)} pairs of a network and a loss. Optimal stopping needs at least {TIE * 100:g} % fewer FLOPs than "
        f"every other policy on: {text['win']}. It is within {TIE * 100:g} % of the best other policy on: "
        f"{text['tie']}. It needs more on: {text['lose']}.",
    ]
    return "\n".join(textwrap.fill(f"- {one}", 98, subsequent_indent="  ", break_on_hyphens=False) for one in sentences)


def at_equal_test_loss(*studies: str) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Study, loss, and policy -> FLOPs at this loss on test, of the best network in fp32; the oracle is left out."""
    for study in studies:
        for drop in (0.005, POINT, 0.02):
            shares = {
                row["family"]: row["matched_test_flops_share"]
                for row in rows_of(rows_of_best(study, "fp32"))
                if row["drop"] == drop and "oracle" not in row["family"] and row["family"] != "classic"
            }
            if {OWN, "predictive"} <= shares.keys() and any(name.startswith(EACH_HEAD) for name in shares):
                yield study, drop, shares


def best(shares: Mapping[str, float], *, fitted: bool) -> str:
    """The cheapest policy with thresholds of each head, or with one beta for all exits (or none)."""
    names = (name for name in shares if name != OWN and name.startswith(EACH_HEAD) == fitted)
    return min(names, key=lambda name: shares[name])


def against(own: float, other: float) -> str:
    """The cost of another policy, and how optimal stopping compares."""
    return f"{percent(other)}: {change(own / other)}"


def change(ratio: float) -> str:
    """A ratio of costs as a change."""
    percents = round(abs(1 - ratio) * 100)
    return f"{percents} % {'fewer' if ratio < 1 else 'more'}" if percents else "as many"


def ranking(study: str, precision: str) -> str:
    """How well each confidence ranks images, at a few exits and in the mean of all."""
    table = compared(study).ranking
    own = table[(table["trial_id"] == best_network(study)) & (table["precision"] == precision)]
    names = {"margin": "margin", "max_softmax": "largest probability", "logit": "the paper's ratio"}
    rows = []
    for name, text in names.items():
        values = own[f"auroc_{name}"].to_numpy(dtype=float)
        places = [round(share * len(values)) for share in SHOWN]
        shown = {f"exit {exit}": f"{values[exit - 1]:.3f}" for exit in places}
        rows.append({"confidence": text, **shown, "mean of all exits": f"{np.nanmean(values):.3f}"})
    return markdown(rows)


def matched(row: Mapping[str, Any], cost: str) -> str:
    """A cost at equal loss with its 95 % interval; nothing where it is not known."""
    share = f"matched_{cost}_share"
    if pd.isna(row[share]):
        return ""
    return f"{percent(row[share])} ({row[f'{share}_low'] * 100:.1f} to {row[f'{share}_high'] * 100:.1f})"


def percent(share: float | None) -> str:
    """In percent, or nothing."""
    return "" if share is None or pd.isna(share) else f"{share * 100:.1f} %"


def interval(row: dict[str, Any]) -> str:
    """Points of accuracy lost, with their interval."""
    return f"{row['test_drop'] * 100:.2f} ({row['test_drop_low'] * 100:.2f} to {row['test_drop_high'] * 100:.2f})"


def markdown(rows: Iterable[Mapping[str, object]]) -> str:
    """A table."""
    rows = list(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])
