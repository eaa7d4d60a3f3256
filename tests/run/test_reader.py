"""A run folder without images and weights: which networks the reader finds in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.run_folders import FOUR, ONE, files_of, names_of, profile_of, refused, run_folder, study, write_split

from results.parts import write_part
from search_spaces.spec import SpecError
from study.errors import UserError
from study.run.reader import stored_networks, stored_study
from study.search.exact_search import exact_points
from study.search.traced_network import reference_network
from study.storage.publish import set_aside


def test_networks_come_back_from_traces_and_profiles_alone(tmp_path):
    folder = run_folder(tmp_path / "run")
    found = stored_networks(folder, study().operating_points)
    assert names_of(found) == names_of(FOUR) and len(found) == 4
    for one in FOUR:
        (again,) = [other for other in found if (other.weights, other.precision) == (one.weights, one.precision)]
        for name in ("calibration", "validation"):
            np.testing.assert_array_equal(getattr(again, name).logits, getattr(one, name).logits)
            np.testing.assert_array_equal(getattr(again, name).labels, getattr(one, name).labels)
        assert again.validation.int8_execution == one.validation.int8_execution
        assert again.costs.to_json() == one.costs.to_json() and again.work is None


def test_the_exact_front_of_a_run_folder_is_that_of_its_networks(tmp_path):
    folder = run_folder(tmp_path / "run")
    chosen = stored_study(folder).operating_points
    found, values = exact_points(chosen, stored_networks(folder, chosen), reference_network(FOUR).classic_accuracy)
    expected, its_values = exact_points(chosen, FOUR, reference_network(FOUR).classic_accuracy)
    np.testing.assert_array_equal(values, its_values)
    assert len(found) == len(expected) > 5


def test_only_the_precisions_of_the_space_are_networks(tmp_path):
    folder = run_folder(tmp_path / "run")
    for text, expected in (("fp32", {"fp32"}), ("int8", {"int8"}), ("[int8, fp32]", {"fp32", "int8"})):
        found = stored_networks(folder, study(f"quantization: {text}").operating_points)
        assert {one.precision for one in found} == expected
    with pytest.raises(UserError, match="traces holds no traces of a network at bf16"):
        stored_networks(folder, study("quantization: bf16").operating_points)


def test_a_network_whose_traces_are_not_complete_is_left_out(tmp_path):
    folder = run_folder(tmp_path / "run", FOUR[:2])
    write_split(folder, FOUR[2], "validation")
    (folder / "traces" / "half").mkdir()
    (folder / "traces" / "half" / "trace.json").write_text("{}")
    (folder / "traces" / "note.txt").write_text("mine")
    found = stored_networks(folder, study().operating_points)
    assert names_of(found) == {("one", "fp32"), ("one", "int8")}


def test_of_networks_that_were_traced_earlier_those_in_the_costs_table_count(tmp_path):
    folder = run_folder(tmp_path / "run")
    write_part(folder / "tables", "costs", [{"trial_id": "two", "precision": "fp32"}])
    assert names_of(stored_networks(folder, study().operating_points)) == {("two", "fp32"), ("two", "int8")}


@pytest.mark.parametrize("damage", ["trace.safetensors", "trace.json"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_trace_that_was_set_aside_and_made_again_does_not_count(tmp_path, damage, cut):
    """A study heals itself: the damaged one stays beside the new one, under another name."""
    folder = run_folder(tmp_path / "run", ONE)
    path = write_split(folder, ONE[0], "validation")
    (file,) = path.glob(f"{damage.partition('.')[0]}-*.{damage.partition('.')[2]}")
    content = file.read_bytes()
    file.write_bytes(content[:-9] if cut else content[:-9] + b"?" * 9)
    set_aside(path, "damaged")
    write_split(folder, ONE[0], "validation")
    before = files_of(folder)
    (found,) = stored_networks(folder, study().operating_points)
    np.testing.assert_array_equal(found.validation.logits, ONE[0].validation.logits)
    assert files_of(folder) == before


def missing_profile(folder: Path) -> None:
    profile_of(folder, FOUR[1]).unlink()


def missing_calibration(folder: Path) -> None:
    for path in (folder / "traces").glob("*calibration*"):
        (path / "manifest.json").unlink()


def missing_traces(folder: Path) -> None:
    (folder / "traces").rename(folder / "elsewhere")


def cut_trace(folder: Path) -> None:
    for path in (folder / "traces").glob("*validation*/trace-*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])


def cut_profile(folder: Path) -> None:
    profile_of(folder, FOUR[1]).write_text('{"segment_flops": [')


def other_device(folder: Path) -> None:
    profile_of(folder, FOUR[1]).write_text(replace(FOUR[1].costs, device="another").to_json())


def no_study(folder: Path) -> None:
    (folder / "study.yaml").unlink()


def broken_study(folder: Path) -> None:
    (folder / "study.yaml").write_text("study: [")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_profile, "one-w-int8-batch1.json is missing: give `run` again"),
        (missing_calibration, "traces holds no traces of a network at fp32, int8"),
        (missing_traces, "traces holds no traces of a network at fp32, int8"),
        (cut_trace, "validation"),
        (cut_profile, "no cost profile"),
        (other_device, "the costs have several devices"),
        (no_study, "is no run folder: it has no study.yaml"),
        (broken_study, "study.yaml cannot be read"),
    ],
)
def test_what_a_run_folder_lacks_is_told_in_one_line(tmp_path, capsys, damage, message):
    folder = run_folder(tmp_path / "run")
    damage(folder)
    assert message in refused(f"front {folder} --exact", capsys)


def test_memory_and_frequency_rules_need_to_know_the_network(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", ONE)
    for change in ("constraints={memory:1e6}", "dvfs=paper"):
        with pytest.raises(UserError, match="does not tell what network"):
            key, _, value = change.partition("=")
            changes = [(f"operating_points.{key}", {"memory": 1e6} if key == "constraints" else value)]
            if key == "dvfs":
                changes.append(("operating_points.costs", "jetson-tx2"))
            stored_networks(folder, stored_study(folder, changes).operating_points)
    assert "does not tell" in refused(f"front {folder} --exact --set operating_points.constraints.memory=1e6", capsys)


def test_changes_make_another_space_of_the_stored_study(tmp_path):
    folder = run_folder(tmp_path / "run", ONE)
    assert stored_study(folder) == study()
    changed = stored_study(folder, [("operating_points.policy", "hierarchical"), ("operating_points.beta", [1, 2])])
    assert changed.operating_points.policy.values == ("hierarchical",)
    assert changed.operating_points.beta.values == (1.0, 2.0)
    with pytest.raises(SpecError, match=r"study.yaml: operating_points.polcy: unknown key"):
        stored_study(folder, [("operating_points.polcy", "hierarchical")])
