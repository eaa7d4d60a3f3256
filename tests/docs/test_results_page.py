"""The pages of results hold what the reference studies hold, and a reference study is read like any study."""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from results.parts import read_table, rows_of
from search_spaces import load_space
from study.checkpoints.description import WeightsId
from study.cli.main import main
from study.progress import Reporter
from study.run.folder import stored_study_file
from study.run.reader import stored_networks, stored_study
from study.run.trials import draw_trials
from study.search.exact_search import exact_points

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
PACKS = sorted(path.parent for path in REFERENCE.glob("*/traces"))
SMALL = ("vgg19-cifar10-published", "vgg19-quarter-fashion-mnist")
"""Of the studies with traces; they draw their fronts in seconds."""
STUDIES = sorted(REFERENCE.glob("*/study.yaml"))


def script(name: str) -> ModuleType:
    """A script of the documentation."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    return script("build_results")


@pytest.fixture(scope="module")
def refresher() -> ModuleType:
    return script("refresh_reference")


def differing(builder: ModuleType, *names: str) -> list[str]:
    """The pages whose committed text is another one than the builder makes."""
    pages = builder.build(set(names) or None)
    assert pages
    return [page.name for page, text in pages.items() if page.read_text("utf-8") != text]


def test_the_page_on_training_holds_the_tables_of_the_studies(builder: ModuleType) -> None:
    assert differing(builder, "results/training.md") == []


def test_the_page_of_the_smallest_study_is_the_one_that_is_generated(builder: ModuleType) -> None:
    """The slow test builds the pages of the others."""
    assert differing(builder, "vgg19-quarter-tiny-imagenet") == []


def test_the_page_on_backbones_holds_the_table_of_their_studies(builder: ModuleType) -> None:
    assert differing(builder, "backbones.md") == []


def test_the_studies_of_backbones_are_those_of_the_script_and_their_flops_those_of_torchvision() -> None:
    studies = script("backbone_studies")
    table = pd.read_csv(studies.TABLE).set_index("network")
    assert list(table.index) == [one.model for one in studies.BACKBONES]
    for name, row in table.iterrows():
        counted, published = studies.native_gigaflops(name), studies.published_gigaflops(name)
        assert counted == pytest.approx(published, rel=0.01)
        assert (row["native_gigaflops"], row["published_gigaflops"]) == pytest.approx((counted, published), rel=1e-4)
        assert row["test_accuracy"] > 0.4, "chance is a quarter"
    # What the exported models gave on the files of the test images.
    assert table["exported_images"].tolist() == table["test_images"].tolist()
    assert table["exported_accuracy"].tolist() == pytest.approx(table["test_accuracy"].tolist(), abs=1e-3)
    assert table["exported_flops_share"].tolist() == pytest.approx(table["test_flops_share"].tolist(), rel=1e-2)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.parent.name)
def test_trials_are_named_as_their_study_names_them_today(study: Path) -> None:
    """A study that is run again finds the same names."""
    spec = load_space(str(study))
    trials = read_table(study.parent / "tables", "trials")
    digest = trials["data_digest"].iloc[0]
    drawn = draw_trials(spec)
    backbones = {plan.trial_id: plan for plan in drawn.backbones_on(digest)}
    for trial in rows_of(trials):
        if trial["phase"] == "backbones":
            assert trial["trial_id"] in backbones
        else:
            own = backbones[WeightsId.parse(trial["parent"]).trial_id]
            exits = drawn.exits_on(own, trial["parent"])
            assert trial["trial_id"] in {plan.trial_id for plan in exits}


def test_every_reference_study_is_described() -> None:
    text = (REFERENCE / "README.md").read_text("utf-8")
    named = re.findall(r"^\| `([\w*-]+)` \|", text, re.MULTILINE)
    folders = {path.name for path in REFERENCE.glob("*/")}
    assert {one for name in named for one in fnmatch.filter(folders, name)} == folders
    assert all(fnmatch.filter(folders, name) for name in named)


def dominated(pack: Path, policy: str, front: pd.DataFrame) -> bool:
    """Whether each point of a policy is no better than some point of a front, in accuracy, FLOPs and energy."""
    points = stored_study(pack, [("operating_points.policy", policy)]).operating_points
    assert points.objectives == ["accuracy", "flops", "energy"]
    _, values = exact_points(points, stored_networks(pack, points), 0.0)
    found, losses = front[["accuracy", "flops", "energy_joules"]].to_numpy(), np.array([-1, 1, 1])
    worse = [((found * losses <= own * losses + 1e-9 * own).all(axis=1)).any() for own in values]
    return len(worse) > 0 and all(worse)


@pytest.mark.parametrize("pack", PACKS, ids=lambda path: path.name)
def test_a_pack_holds_the_front_of_all_policies_and_says_what_computed_it(pack: Path, refresher: ModuleType) -> None:
    stored = stored_study_file(pack)
    assert stored["study"]["operating_points"].items() >= refresher.SPACE.items()
    table = read_table(pack / "tables", "provenance").set_index("provenance")
    front = read_table(pack / "tables", "front")
    (used,) = front["provenance"].unique()
    assert json.loads(table["versions"][used]) == stored["provenance"]["searched_again"]["versions"]
    assert used not in set(read_table(pack / "tables", "trials")["provenance"]) <= set(table.index)
    assert set(front["policy"]) <= set(refresher.SPACE["policy"]) | {"classic"}
    for policy in {"head_thresholds", "predictive"} - set(front["policy"]):
        assert dominated(pack, policy, front), f"{policy} has points that the front lacks"
    assert front["recommended"].sum() == 1


@pytest.mark.slow
def test_a_refreshed_pack_is_the_committed_one(refresher: ModuleType, tmp_path: Path) -> None:
    pack = REFERENCE / "vgg19-quarter-tiny-imagenet"
    copy = tmp_path / pack.name
    shutil.copytree(pack, copy)
    refresher.refresh(copy, Reporter(quiet=True))
    for name in ("operating_points", "front", "trials"):
        old, new = (read_table(folder / "tables", name) for folder in (pack, copy))
        for column in set(old) & {"trial_id", "policy", "accuracy", "flops", "test_accuracy", "test_flops"}:
            values = old[column].tolist()
            assert new[column].tolist() == (values if isinstance(values[0], str) else pytest.approx(values, rel=1e-9))
    assert len(read_table(copy / "tables", "provenance")) == len(read_table(pack / "tables", "provenance"))


@pytest.mark.slow
def test_every_page_is_the_one_that_is_generated(builder: ModuleType) -> None:
    assert differing(builder) == []


@pytest.mark.parametrize(
    "pack",
    [pytest.param(pack, id=pack.name, marks=[] if pack.name in SMALL else pytest.mark.slow) for pack in PACKS],
)
def test_a_reference_study_draws_its_front(
    pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["front", str(pack), "--json", "--figure", str(tmp_path / "front.png")]) == 0
    assert json.loads(capsys.readouterr().out)
    assert (tmp_path / "front.png").stat().st_size > 10_000
    # Another batch size has other costs, which follow from the network's settings alone.
    space = ["--set", "operating_points.policy=predictive", "--set", "operating_points.batch_size=2"]
    assert main(["front", str(pack), "--exact", "--json", *space]) == 0
    assert len(json.loads(capsys.readouterr().out)["front"]) > 5
