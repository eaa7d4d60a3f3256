"""Recipes of training: what is trained, what a row holds, and the table of the rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
TINY = [
    "--images",
    "240",
    "--epochs",
    "1",
    "1",
    "--set",
    "backbones.backbone=vgg11",
    "--set",
    "backbones.batch_size=32",
]


@pytest.fixture(scope="module")
def scripts() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The script, and the module of its table."""
    sys.path.insert(0, str(DOCS))
    import ablation
    import result_ablation

    yield ablation, result_ablation
    sys.path.remove(str(DOCS))


def test_every_recipe_is_a_study_and_no_two_are_the_same(scripts: tuple[ModuleType, ModuleType]) -> None:
    script, _ = scripts
    options = script.parsed([])
    keys = {name: script.make_run(name, 0, options).key("images") for name in script.chosen_recipes(options)}
    assert len(set(keys.values())) == len(keys) and {"base", "mixed"} <= set(keys)
    assert keys["base"] != script.make_run("base", 1, options).key("images")
    width = script.make_run("wider", 0, script.parsed(["--width", "0.5"])).spec.backbones.width
    assert width.values == (0.5625,), "a recipe that asks for a wider network changes the width of the command line"


def test_the_flops_of_a_wider_network_are_shares_of_the_base(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    script, _ = scripts
    file = tmp_path / "recipes.yaml"
    recipes = yaml.safe_load((script.FOLDER / "recipes.yaml").read_text("utf-8"))
    file.write_text(yaml.safe_dump({"base": recipes["base"], "recipes": {"base": {}, "wider": {"wider": 2.0}}}))
    arguments = [*TINY, "--file", str(file), "--storage", str(tmp_path), "--rows"]
    assert script.main([*arguments, str(tmp_path / "one.csv"), "--width", "0.125", "--recipes", "wider"]) == 0
    assert script.main([*arguments, str(tmp_path / "other.csv"), "--width", "0.25", "--recipes", "base"]) == 0
    (wider,), (base,) = (list(csv.DictReader((tmp_path / name).open())) for name in ("one.csv", "other.csv"))
    assert (wider["width"], base["width"]) == ("0.125", "0.25") and wider["accuracy"] == base["accuracy"]
    own, whole = (np.array(row["stopping_curve"].split(), dtype=float) for row in (wider, base))
    factor = own[0] / whole[0]
    assert 3 < factor < 4, "nearly all FLOPs of twice the channels are four times those of the base"
    np.testing.assert_allclose(own, whole * factor, atol=5e-4)


def test_a_network_is_trained_once_and_recipes_share_its_backbone(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, _ = scripts
    rows, storage = tmp_path / "rows.csv", tmp_path / "storage"
    arguments = [*TINY, "--rows", str(rows), "--storage", str(storage), "--recipes"]
    assert script.main([*arguments, "base"]) == 0
    assert script.main([*arguments, "base", "shallow_deep"]) == 0
    assert "base, seed 0: has its row" in capsys.readouterr().err
    assert len(list((storage / "checkpoints").iterdir())) == 3  # one backbone, heads of two kinds
    first, second = csv.DictReader(rows.read_text("utf-8").splitlines())
    assert (first["recipe"], second["recipe"]) == ("base", "shallow_deep")
    assert first["epochs"] == "1+1" and len(first["exit_accuracies"].split()) == 12
    curve = np.array(first["stopping_curve"].split(), dtype=float)
    assert len(curve) == len(script.LOSSES) and (np.diff(curve) <= 0).all() and (curve <= 1).all()
    assert float(first["stopping_one_point"]) == curve[script.LOSSES.index(0.01)]
    draws = np.array([draw.split() for draw in first["stopping_draws"].split(";")], dtype=float)
    assert draws.shape == (script.DRAWS, len(script.DRAWN_LOSSES)) and (np.diff(draws) <= 0).all()
    assert np.ptp(np.array(first["accuracy_draws"].split(), dtype=float)) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "fog"], "--recipes: 'fog' is unknown"),
        (["--set", "exits.fog=1"], "recipe base: exits.fog: unknown key"),
        (["--data", "fog"], "data set 'fog'"),
    ],
)
def test_mistakes_are_told_before_any_training(
    scripts: tuple[ModuleType, ModuleType], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scripts[0].main(arguments) == 2
    assert message in capsys.readouterr().err


def row(script: ModuleType, recipe: str, seed: int, accuracy: float, curve: list[float]) -> dict[str, object]:
    values = dict.fromkeys(script.COLUMNS, "0.5")
    values |= {"data": "cifar10", "recipe": recipe, "changes": "", "images": "100", "test_images": "50"}
    one = curve[script.LOSSES.index(0.01)]
    draws = ";".join(" ".join(str(factor * cost) for cost in curve[::2]) for factor in (1, 1.1))
    of_family = {"one_point": one, "curve": " ".join(map(str, curve)), "draws": draws}
    values |= {"accuracy_draws": f"{accuracy} {accuracy}"}
    families = {f"{name}_{what}": value for name in script.FAMILIES for what, value in of_family.items()}
    return {**values, "seed": seed, "epochs": "1+1", "accuracy": accuracy, **families}


def test_the_common_bound_counts_from_the_last_exit_of_the_base(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tables = scripts
    falling = np.interp(script.LOSSES, [0, 0.05], [1, 0.5]).tolist()  # 10 % of the FLOPs for each point
    assert tables.cost_below(row(script, "base", 0, 0.8, falling), 0.8, 0.01) == pytest.approx(0.9)
    assert tables.cost_below(row(script, "other", 0, 0.82, falling), 0.8, 0.01) == pytest.approx(0.7)
    assert tables.cost_below(row(script, "weak", 0, 0.77, falling), 0.8, 0.01) == 1
    monkeypatch.setattr(tables, "ROWS", tmp_path / "rows.csv")
    assert tables.ablation("cifar10") == tables.NO_ROWS
    for seed in (0, 1):
        for recipe, accuracy in (("base", 0.8 + seed / 100), ("better_one", 0.82 + seed / 100)):
            script.add_row(tables.ROWS, row(script, recipe, seed, accuracy, falling))
    text = tables.ablation("cifar10")
    means, shares = text.split("As shares of the base with the same seeds:")
    *_, first, second = means.strip().splitlines()
    own, common = "| 100 % (100 to 100; 100 to 100) |", "| 78 % (78 to 78; 78 to 78) |"
    assert shares.splitlines()[-1].startswith(f"| better one | 2 {own}{common[1:]}")
    assert first.startswith("| better one | 2 | 82.5 % (") and "| 70.0 % (70.0 to 70.0) |" in first
    assert second.startswith("| base | 2 | 80.5 % (") and "| 90.0 % (90.0 to 90.0) |" in second
    assert "50 test images, 1+1 epochs:" in text and tables.ablation("digits") == tables.NO_ROWS


def test_a_training_of_fewer_epochs_stands_beside_the_base_of_the_same_images(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tables = scripts
    monkeypatch.setattr(tables, "ROWS", tmp_path / "rows.csv")
    falling = np.interp(script.LOSSES, [0, 0.05], [1, 0.5]).tolist()
    short = {"epochs": "1+0"}
    for change in ({"recipe": "base"}, {"recipe": "base", "images": "7"}, short, short | {"images": "9"}):
        script.add_row(tables.ROWS, row(script, "one", 0, 0.8, falling) | change)
    found = [table.splitlines() for table in tables.ablation("cifar10").split("0.5 x 0.5, ")[1:]]
    assert [lines[0].split(" ")[0] for lines in found] == ["100", "7", "9"]
    assert [len(lines) for lines in found] == [len(found[1]) + 1, len(found[1]), len(found[1]) - 1]
    assert any(line.startswith("| one, 1+0 epochs | 1 |") for line in found[0])


def test_shares_of_the_base_are_geometric_means_with_intervals_over_seeds_and_images(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    script, tables = scripts

    def pair(ratio: float, seed: int) -> tuple[dict[str, object], dict[str, object]]:
        base = row(script, "base", seed, 0.8, [0.4] * len(script.LOSSES))
        other = row(script, "other", seed, 0.8, [0.4 * ratio] * len(script.LOSSES))
        return {**other, "margin_draws": ";".join([other["margin_draws"].split(";")[0]] * 2)}, base

    for common in (False, True):  # equal last exits: one bound
        share, seeds, images = tables.ratio_to_base([pair(0.5, 0), pair(0.8, 1)], "margin", common=common)
        assert share == pytest.approx(np.sqrt(0.5 * 0.8)) and seeds[0] < 0.5 < 0.8 < seeds[1]
        assert images[0] == pytest.approx(share / 1.1, rel=0.01) and images[1] == pytest.approx(share, rel=0.01)
