"""The short version of the fault run: one study through three kills, against one that lived."""

import random
from pathlib import Path

import pandas as pd
import pytest
from support.faults import (
    ANY,
    KEYS,
    SEARCH,
    STUDY,
    TABLES,
    TRACING,
    TRAINING,
    Kill,
    MortalStudy,
    count,
    differences,
    plan,
    strike,
)

from study.cli.main import main

SEED = 20


def test_a_study_through_three_kills_ends_as_one_that_lived(
    lived: dict[str, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed on Ray; the rest is done by this process, which leaves the same tables as Ray (``test_ray_study``)."""
    batches = STUDY["operating_points"]["trials"] // STUDY["operating_points"]["batch"]
    rng = random.Random(SEED)
    starts = [
        [Kill("machine", rng.uniform(0, 2), TRAINING), Kill("worker", rng.randint(1, 6), TRAINING)],
        [Kill("driver", rng.randint(1, 2 * batches), SEARCH)],
    ]
    told: list[str] = []
    died = MortalStudy(tmp_path / "died", STUDY)
    assert not strike(died, starts, told.append)
    assert [line.endswith(": killed") for line in told] == [True] * 3, told
    assert main(["run", str(died.file), "--storage", str(died.storage), "--local"]) == 0
    found = differences(lived, died.tables())
    assert {name: dict(+counts) for name, counts in found.items() if +counts} == {}, told
    assert not died.warnings and "warning:" not in capsys.readouterr().err, "SIGKILL damages nothing"
    assert not list(died.run_folder.rglob("*.damaged"))


def test_lost_doubled_added_and_different_rows_are_seen() -> None:
    """The judge itself."""
    tables = {name: pd.DataFrame({key: [1, 2, 3] for key in [*keys, "value"]}) for name, keys in KEYS.items()}
    for change, what in (
        (lambda t: t.iloc[1:], "lost"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "doubled"),
        (lambda t: pd.concat([t, t.iloc[:1].assign(trial_id=9)]), "added"),
        (lambda t: t.assign(value=[1, 2, 4]), "different"),
    ):
        changed = {**tables, "trials": change(tables["trials"]).reset_index(drop=True)}
        found = differences(tables, changed)
        assert found["trials"][what] == 1 and sum(sum(c.values()) for c in found.values()) == 1, what


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_covers_all_stages(seed: int) -> None:
    operations = ["study.yaml"] * 4 + ["tables/operating_points/x"] * 20 + ["tables/costs/x", "tables/front/x"] * 2
    kills = [kill for start in plan(random.Random(seed), operations) for kill in start]
    assert {kill.stage for kill in kills} == {ANY, TRAINING, TRACING, SEARCH, TABLES}
    assert {"driver", "worker"} < {kill.victim for kill in kills}
    assert all(1 <= kill.at <= count(operations, kill.stage) for kill in kills if kill.victim == "driver")
    assert plan(random.Random(seed), operations) == plan(random.Random(seed), operations)
