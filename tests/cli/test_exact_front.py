"""`front --exact`: what it prints, writes and refuses, and how it compares with a search."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.run_folders import FOUR, ONE, TEXT, exact_json, files_of, know_networks, refused, run_folder, study

from results.parts import read_table, write_part
from results.schemas import SCHEMAS
from search_spaces.spec import parse_change, parse_space
from study.cli.main import main
from study.progress import Reporter
from study.search.exact_search import exact_points
from study.search.hypervolume import HypervolumeIndicator
from study.search.optuna_search import list_exact_points, search
from study.search.traced_network import TracedNetwork, reference_network
from study.traces.trace import SplitLogits


@pytest.fixture
def with_networks(monkeypatch):
    """Run folders whose networks can be counted, without any."""
    know_networks(monkeypatch)
    return monkeypatch


def test_the_front_as_json_says_what_the_exact_front_says(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    before = files_of(folder)
    printed = exact_json(folder, capsys)
    found, values = exact_points(study().operating_points, FOUR, reference_network(FOUR).classic_accuracy)
    rows = [[row["accuracy"], row["flops"], row["energy_joules"]] for row in printed["front"]]
    np.testing.assert_allclose(rows, values, rtol=1e-12)
    best = max((one for one in FOUR if one.precision == "fp32"), key=lambda one: one.classic_accuracy)
    assert printed["networks"] == 2 and printed["split"] == "validation"
    assert printed["classic_accuracy"] == best.classic_accuracy
    assert printed["classic_flops"] == best.costs.classic("flops")
    assert printed["classic_energy"] == pytest.approx(best.costs.classic("energy"))
    volume = HypervolumeIndicator.of(study().operating_points.objectives, FOUR).of_values(values)
    assert printed["hypervolume"] == pytest.approx(volume)
    assert "hypervolume_ratio_of_the_search" not in printed, "there was no search"
    for row, one in zip(printed["front"], found, strict=True):
        assert row["trial_id"] == one.network.trial_id and row["precision"] == one.network.precision
        settings = one.settings()
        for name in ("policy", "criterion", "beta", "beta_low", "start_layer", "exits", "overshoot", "statistic"):
            assert row[name] == settings.get(name), name
        assert row["accuracy_drop"] == pytest.approx(best.classic_accuracy - row["accuracy"])
        assert row["flops_share"] == pytest.approx(row["flops"] / best.costs.classic("flops"))
        assert row["latency_mean_share"] == pytest.approx(row["latency_mean_seconds"] / best.costs.classic("seconds"))
    assert files_of(folder) == before, "nothing was written"


def test_the_front_is_printed_written_and_drawn(tmp_path, capsys):
    folder, out = run_folder(tmp_path / "run"), tmp_path / "new" / "folder"
    rows = exact_json(folder, capsys)["front"]
    for suffix, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        outputs = f"--output {out / 'front'}.{suffix} --figure {out / suffix}.png"
        assert main(["front", str(folder), "--exact", *outputs.split()]) == 0
        printed = capsys.readouterr().out
        assert f"{len(rows)} points in" in printed and "shares are of the classic network" in printed
        assert all(f"{row['accuracy']:.2%}" in printed for row in rows)
        table = read(out / f"front.{suffix}")
        assert table["accuracy"].tolist() == [row["accuracy"] for row in rows]
        assert table["flops"].tolist() == pytest.approx([row["flops"] for row in rows])
        assert table["policy"].tolist() == [row["policy"] for row in rows]
        known = [name for name in SCHEMAS["front"].names if name in table]
        assert known == [name for name in table if name in SCHEMAS["front"].names], "in the order of the tables"
        assert (out / f"{suffix}.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_that_is_written_names_its_split(tmp_path):
    """As every row of the tables with a metric does."""
    folder = run_folder(tmp_path / "run", ONE)
    assert main(["front", str(folder), "--exact", "--output", str(tmp_path / "front.csv")]) == 0
    assert set(pd.read_csv(tmp_path / "front.csv")["split"]) == {"validation"}


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_figures_of_lines_can_be_had(tmp_path, suffix):
    folder = run_folder(tmp_path / "run", ONE)
    path = tmp_path / f"front.{suffix}"
    assert main(["front", str(folder), "--exact", "--figure", str(path)]) == 0
    assert path.read_bytes()[:5] in (b"<?xml", b"%PDF-")


SPACES = [
    ("policy=hierarchical", "criterion=[logit,margin]"),
    ("policy=[static,classic]",),
    ("policy=predictive", "objectives=[accuracy,latency_mean]", "start_layer=[1,2]"),
    ("policy=placed", "placements=[[1],[1,3]]", "beta={low: 1, high: 3}"),
    ("quantization=int8", "constraints={accuracy_drop: 0.3}"),
]


@pytest.mark.parametrize("changes", SPACES, ids=lambda changes: changes[0])
def test_another_space_of_the_same_networks_needs_no_other_study(tmp_path, capsys, changes):
    folder = run_folder(tmp_path / "run")
    options = [option for change in changes for option in ("--set", f"operating_points.{change}")]
    printed = exact_json(folder, capsys, *options)
    changed = [parse_change(f"operating_points.{change}") for change in changes]
    chosen = parse_space(f"name: tiny\noperating_points: {{{TEXT}}}", "test", changed).operating_points
    networks = [one for one in FOUR if one.precision in chosen.quantization.values]
    _, values = exact_points(chosen, networks, reference_network(networks).classic_accuracy)
    columns = {"flops": "flops", "latency_mean": "latency_mean_seconds", "energy": "energy_joules"}
    names = [columns.get(name, name) for name in chosen.objectives]
    np.testing.assert_allclose([[row[name] for name in names] for row in printed["front"]], values, rtol=1e-12)
    assert printed["networks"] == len({one.trial_id for one in networks})


REFUSED = [
    ("--set operating_points.beta=per_exit", "beta: per_exit has one dimension for each exit"),
    ("--set operating_points.policy=placed --set operating_points.placements=auto", "placements: auto has two to"),
    ("--set operating_points.objectives=[accuracy,latency_p99]", "latency_p99 is not a mean over images"),
    ("--set operating_points.constraints.energy=1e-9", "no point of this space keeps the constraints"),
    ("--set data.name=cifar10", "change keys of operating_points only"),
    ("--set operating_points.beta=0", "beta must be above 0"),
    ("--set operating_points.beta", "expected KEY=VALUE"),
    ("--figure front.jpg", "must end in .png, .svg or .pdf"),
    ("--output front.xlsx", "must end in .csv or .parquet"),
    ("--set operating_points.objectives=[accuracy,bitops] --set operating_points.policy=static", "no bitops"),
    ("--set operating_points.policy=psychic", "psychic"),
    ("--set operating_points.criterion=hunch --set operating_points.policy=hierarchical", "hunch"),
    ("--set operating_points.statistic=median", "median"),
    ("--set operating_points.overshoot=far", "far"),
    ("--set operating_points.dvfs=turbo", "turbo"),
    ("--set operating_points.dvfs=paper", "no frequency levels"),
    ("--set operating_points.costs=no-such-device", "no-such-device"),
    ("--set operating_points.policy=[static,psychic]", "psychic"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_a_space_that_cannot_be_is_refused_in_one_line(tmp_path, capsys, with_networks, options, message):
    folder = run_folder(tmp_path / "run", [replace(one, costs=without_bitops(one)) for one in ONE])
    with_networks.chdir(tmp_path)
    before = files_of(tmp_path)
    assert message in refused(f"front {folder} --exact {options}", capsys)
    assert files_of(tmp_path) == before


def without_bitops(one: TracedNetwork):
    return replace(one.costs, segment_bitops=None, head_bitops=None)


@pytest.mark.usefixtures("with_networks")
@pytest.mark.parametrize("change", ["costs=jetson-tx2", "costs=measured", "costs=jetson-tx2 dvfs=paper"])
def test_costs_that_are_not_stored_are_not_passed_off_as_those_asked_for(tmp_path, capsys, change):
    """The profiles hold the study's own costs: another device's are priced anew, or refused."""
    folder = run_folder(tmp_path / "run", ONE)
    options = [option for one in change.split() for option in ("--set", f"operating_points.{one}")]
    capsys.readouterr()
    code = main(["front", str(folder), "--exact", "--json", *options])
    captured = capsys.readouterr()
    assert code in (0, 2) and captured.err.count("\n") == (code == 2)
    if code == 0:
        rows = json.loads(captured.out)["front"]
        assert {row["energy_source"] for row in rows} == {"modelled:jetson-tx2"}
        assert {row["device"] for row in rows} == {"jetson-tx2"}


def test_another_space_is_for_the_exact_front_alone(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", ONE)
    error = refused(f"front {folder} --set operating_points.policy=static", capsys)
    assert "--set belongs to --exact" in error


@pytest.mark.usefixtures("with_networks")
def test_a_limit_on_memory_is_kept_where_the_networks_are_known(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", ONE)
    limit = "--set operating_points.constraints.memory=4600"
    printed = exact_json(folder, capsys, *limit.split())
    free = exact_json(folder, capsys, "--set", "operating_points.constraints.memory=1e12")
    assert printed["front"] and printed["front"] != free["front"]
    assert all(row["memory_bytes"] <= 4600 for row in printed["front"])
    assert any(row["memory_bytes"] > 4600 for row in free["front"])


# --- beside the study's own search -----------------------------------------------------------------------------------


def test_held_against_itself_the_front_has_all_of_its_hypervolume(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    list_exact_points(study().operating_points, FOUR, folder / "tables", name="x", reporter=Reporter(quiet=True))
    printed = exact_json(folder, capsys)
    assert printed["hypervolume_ratio_of_the_search"] == pytest.approx(1, abs=1e-12)
    assert printed["dominated_by_the_search"] == 0


def test_a_search_of_the_same_space_has_less(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    chosen = study(f"{TEXT}, trials: 20, sampler: random").operating_points
    search(chosen, FOUR, folder / "tables", seed=0, name="x", reporter=Reporter(quiet=True))
    printed = exact_json(folder, capsys)
    last = read_table(folder / "tables", "operating_points").iloc[-1]
    assert printed["hypervolume_ratio_of_the_search"] == pytest.approx(last["hypervolume_ratio"], rel=1e-9)
    assert printed["hypervolume_ratio_of_the_search"] < 1 and printed["dominated_by_the_search"] == 0
    assert main(["front", str(folder), "--exact"]) == 0
    share = f"{printed['hypervolume_ratio_of_the_search']:.2%} of this hypervolume"
    assert share in capsys.readouterr().out


def test_a_search_of_a_larger_space_may_dominate(tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    list_exact_points(study().operating_points, FOUR, folder / "tables", name="x", reporter=Reporter(quiet=True))
    small = exact_json(folder, capsys, "--set", "operating_points.policy=static")
    assert small["hypervolume_ratio_of_the_search"] > 1
    found = read_table(folder / "tables", "operating_points")[["accuracy", "flops", "energy_joules"]].to_numpy()
    signs = np.array([-1, 1, 1])
    beaten = 0
    for row in small["front"]:
        own = np.array([row["accuracy"], row["flops"], row["energy_joules"]])
        beaten += any((other * signs <= own * signs).all() and (other != own).any() for other in found)
    assert 0 < beaten < len(small["front"])
    assert small["dominated_by_the_search"] == pytest.approx(beaten / len(small["front"]))


@pytest.mark.usefixtures("with_networks")
def test_points_that_break_a_constraint_and_other_networks_are_no_part_of_the_search(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", ONE)
    point = {"state": "COMPLETE", "accuracy": 1.0, "flops": 0.0, "energy_joules": 0.0}
    rows = [
        {**point, "trial_id": "one", "feasible": True, "memory_bytes": 1e9},
        {**point, "trial_id": "elsewhere", "feasible": True},
        {"state": "FAIL", "trial_id": "one"},
    ]
    write_part(folder / "tables", "operating_points", rows)
    printed = exact_json(folder, capsys, "--set", "operating_points.constraints.memory=1e6")
    assert (printed["hypervolume_ratio_of_the_search"], printed["dominated_by_the_search"]) == (0, 0)


def test_a_front_that_is_no_better_than_guessing_is_still_json(tmp_path, capsys):
    """It has no hypervolume that a search could have a share of."""
    wrong = {}
    for name in ("calibration", "validation"):
        split = getattr(ONE[0], name)
        logits = np.repeat(split.logits[:, -1:], 5, axis=1)
        wrong[name] = SplitLogits(logits, (logits[:, 0].argmax(axis=1) + 1) % 4)
    folder = run_folder(tmp_path / "run", [replace(ONE[0], **wrong)])
    write_part(folder / "tables", "operating_points", [{"state": "FAIL", "trial_id": "one"}])
    printed = exact_json(folder, capsys)
    assert printed["hypervolume"] == 0 and printed["hypervolume_ratio_of_the_search"] is None
    assert main(["front", str(folder), "--exact"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_a_checkpoint_that_is_not_whole_does_not_matter_where_no_weights_are_needed(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", ONE)
    expected = exact_json(folder, capsys)["front"]
    (folder / "checkpoints" / "one" / "last").mkdir(parents=True)
    assert exact_json(folder, capsys)["front"] == expected
