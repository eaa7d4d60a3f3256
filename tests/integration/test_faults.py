"""The short version of the fault run: one study through five kills, against one that lived."""

import random
from pathlib import Path

import pandas as pd
import pytest
from faults import KEYS, STUDY, Kill, MortalStudy, campaign, differences, plan  # type: ignore[import-not-found]

SEED = 20


@pytest.mark.slow  # a minute for each kill
def test_a_study_through_five_kills_ends_as_one_that_lived(tmp_path: Path) -> None:
    lived = MortalStudy(tmp_path / "lived", STUDY)
    assert lived.run() == (True, False)
    operations = lived.operations()
    searching = [n for n, path in enumerate(operations, start=1) if path.startswith("tables/operating_points")]
    rng = random.Random(SEED)
    kills = [
        Kill("worker", rng.randint(1, 12)),  # in training: its trial goes on
        Kill("machine", rng.uniform(0, 2)),
        Kill("driver", rng.choice(searching)),
        Kill("driver", 2),  # a start that has little to write: it may come too late
        Kill("driver", len(operations) - len(searching) - 2),
    ]
    told: list[str] = []
    died = campaign(tmp_path / "died", STUDY, kills, told.append)
    assert sum(": killed" in line for line in told) >= 3, told
    found = differences(lived.tables(), died.tables())
    assert {name: dict(+counts) for name, counts in found.items() if +counts} == {}, told
    assert not died.warnings, "SIGKILL damages nothing"
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
def test_a_plan_covers_all_victims_and_stages(seed: int) -> None:
    operations = ["study.yaml"] * 4 + ["tables/operating_points/x"] * 20 + ["tables/costs/x", "tables/front/x"] * 2
    kills = plan(random.Random(seed), operations, 12)
    assert {kill.victim for kill in kills} == {"driver", "worker", "node", "machine"}
    at = [kill.at for kill in kills if kill.victim == "driver"]
    assert any(5 <= one <= 24 for one in at) and any(one >= 25 for one in at)
    assert kills == plan(random.Random(seed), operations, 12)
