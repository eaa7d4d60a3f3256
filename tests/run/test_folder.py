"""The run folder knows which study it holds, lets it grow, and survives the loss of its own file."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from results.parts import read_table, write_part
from search_spaces.spec import StudySpec, validate_space
from study.errors import UserError
from study.run.folder import Difference, Provenance, claim_folder, read_study_file, refuse_other_study

BASE = {
    "name": "x",
    "backbones": {"trials": 3, "epochs": 4, "width": [0.25, 0.5], "schedule": "constant"},
    "exits": {"trials": 2, "epochs": 2},
    "operating_points": {"trials": 50},
}


def study(**changes: dict[str, object]) -> StudySpec:
    merged = {key: {**BASE.get(key, {}), **value} for key, value in changes.items()}  # type: ignore[dict-item]
    return validate_space({**BASE, **merged}, "x.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    claim_folder(study().plain(), tmp_path / "run", {"digits": "d1"})
    Provenance(study().plain(), "d1").record(tmp_path / "run" / "tables")
    return tmp_path / "run"


GROWN = [
    {"backbones": {"trials": 4}},
    {"backbones": {"epochs": 8}, "exits": {"epochs": 3, "trials": 5, "parents": 2}},
    {"operating_points": {"trials": 51, "networks": 2}},
    {"data": {"name": ["digits", "fashion_mnist"]}},
]


@pytest.mark.parametrize("changes", GROWN)
def test_a_study_that_only_grows_needs_extend(folder: Path, changes: dict[str, dict[str, object]]) -> None:
    larger = study(**changes)
    with pytest.raises(UserError, match=r"there and .* here.*--extend makes it grow"):
        refuse_other_study(larger.plain(), folder)
    grown = refuse_other_study(larger.plain(), folder, extend=True)
    assert len(grown) == sum(len(keys) for keys in changes.values())
    claim_folder(larger.plain(), folder, {"digits": "d1", "fashion_mnist": "d2"}, grown)
    stored = read_study_file(folder)
    assert stored is not None and stored["study"] == larger.plain()
    assert len(stored["provenance"]["extended"][0]["changes"]) == len(grown)
    assert refuse_other_study(larger.plain(), folder) == []
    with pytest.raises(UserError, match="there and"):  # never back
        refuse_other_study(study().plain(), folder, extend=True)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"backbones": {"trials": 2}}, "backbones.trials"),
        ({"backbones": {"trials": "grid"}}, "backbones.trials"),
        ({"backbones": {"epochs": 3, "trials": 9}}, "backbones.epochs"),
        ({"backbones": {"width": [0.25, 0.5, 1.0]}}, "backbones.width"),
        ({"operating_points": {"batch": 30}}, "operating_points.batch"),
        ({"data": {"name": "fashion_mnist"}}, "data.name"),
        ({"data": {"name": ["fashion_mnist", "svhn"]}}, "data.name"),
    ],
)
def test_extend_refuses_what_is_another_study(folder: Path, changes: dict[str, dict[str, object]], key: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"--extend only adds .* which {key} is not") as error:
        refuse_other_study(study(**changes).plain(), folder, extend=True)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_many_differences_are_told_in_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"seed is 0 there and 1 here; .*and \d+ more\)") as error:
        changed = study(backbones={"optimizer": "sgd", "width": 1}, exits={"head": "conv"})
        refuse_other_study(changed.model_copy(update={"seed": 1}).plain(), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["", "study", "a: [", "\0", "study: {}", "{}"])
def test_a_damaged_study_file_is_set_aside_and_written_anew(
    folder: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = yaml.safe_load((folder / "study.yaml").read_text())["study"]
    (folder / "study.yaml").write_text(damage)
    with pytest.raises(UserError, match=r"study.yaml cannot be read"):
        read_study_file(folder)
    refuse_other_study(study().plain(), folder)
    claim_folder(study().plain(), folder, {"digits": "d1"})
    stored = read_study_file(folder)
    assert stored is not None and stored["study"] == whole
    assert (folder / "study.yaml.damaged").read_text() == damage
    assert "study.yaml.damaged" in capsys.readouterr().err


@pytest.mark.parametrize("gone", [False, True])
def test_without_its_file_the_tables_tell_which_study_a_folder_holds(folder: Path, gone: bool) -> None:
    larger = study(exits={"trials": 3})
    Provenance(larger.plain(), "d1").record(folder / "tables")  # it has grown from two trials
    (folder / "study.yaml").write_text("")
    if gone:
        (folder / "study.yaml").unlink()
    for extend in (False, True):
        with pytest.raises(UserError, match=r"exits.trials is 3 there and 2 here"):
            refuse_other_study(study().plain(), folder, extend=extend)
        with pytest.raises(UserError, match=r"seed is 0 there and 1 here"):
            refuse_other_study(larger.model_copy(update={"seed": 1}).plain(), folder, extend=extend)
    with pytest.raises(UserError, match=r"exits.trials is 3 there and 4 here; --extend"):
        refuse_other_study(study(exits={"trials": 4}).plain(), folder)
    assert refuse_other_study(larger.plain(), folder) == []
    row = {"trial_id": "a", "data": "digits", "data_digest": "d1"}
    write_part(folder / "tables", "trials", [row])
    with pytest.raises(UserError, match="those of digits have changed"):
        claim_folder(larger.plain(), folder, {"digits": "d2"})
    claim_folder(larger.plain(), folder, {"digits": "d1"})
    stored = read_study_file(folder)
    assert stored is not None and stored["study"] == larger.plain()


@given(st.integers(1, 100), st.integers(1, 100))
def test_only_larger_numbers_are_growth(old: int, new: int) -> None:
    assert Difference("exits.trials", old, new).grows == (new > old)
    assert not Difference("seed", old, new).grows


def test_provenance_names_settings_images_and_versions(tmp_path: Path) -> None:
    one = Provenance(study().plain(), "d1")
    free = Provenance(study(resources={"cpus_per_trial": 2}).plain(), "d1")
    assert one.name() == free.name(), "what a trial may use decides no result"
    others = [Provenance(study(exits={"trials": 3}).plain(), "d1").name(), Provenance(study().plain(), "d2").name()]
    older = {"predictive-exit": "0.0.1", "torch": "2.11"}
    assert len({one.name(), *others, one.name(older)}) == 4
    one.record(tmp_path, [older])
    table = read_table(tmp_path, "provenance").set_index("provenance")
    assert set(table.index) == {one.name(), one.name(older)}
    assert table.loc[one.name(older), "code_version"] == "0.0.1"
    assert len(str(table.loc[one.name(), "code_digest"])) == 12


def test_a_folder_of_before_a_key_was_known_holds_the_study_with_its_default(folder: Path) -> None:
    path = folder / "study.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["study"]["backbones"]["ema_decay"], stored["study"]["exits"]["conv_layers"]
    path.write_text(yaml.safe_dump(stored))
    assert refuse_other_study(study().plain(), folder) == []
    with pytest.raises(UserError, match=r"ema_decay is 0\.0 there and 0\.9 here"):
        refuse_other_study(study(backbones={"ema_decay": 0.9}).plain(), folder)
