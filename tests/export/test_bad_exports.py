"""Damaged, foreign and hostile exports: each is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors

from results.parts import read_table
from study import EarlyExit, UserError
from study.cli.main import main
from study.storage.publish import content_hash


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def resealed(folder: Path) -> None:
    """Give the manifest the hashes of what lies there, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest["sha256"] = content_hash(manifest["files"], 64)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit(name: str, change: Callable[[Any], object], *, seal: bool = True) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))
        if seal:
            resealed(folder)

    return damage


def weights(content: Callable[[Path], bytes], *, seal: bool) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "weights.safetensors").write_bytes(content(folder))
        if seal:
            resealed(folder)

    return damage


def other_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        tensors = safetensors.load_file(folder / "weights.safetensors")
        change(tensors)
        return safetensors.save(tensors)

    return content


def cut(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()[:-100]


def flipped(folder: Path) -> bytes:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-7] ^= 1
    return bytes(content)


def renamed(name: str) -> Callable[[Any], None]:
    def change(manifest: Any) -> None:
        manifest["files"][name] = manifest["files"].pop("graphs.json")
        manifest["sha256"] = content_hash(manifest["files"], 64)

    return change


def first_step(change: Callable[[list[Any]], object]) -> Callable[[Any], object]:
    return lambda graphs: change(graphs["parts"][0]["steps"][0])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut-weights": (weights(cut, seal=False), "does not match its manifest"),
    "cut-and-sealed": (weights(cut, seal=True), "holds no safetensors"),
    "one-bit": (weights(flipped, seal=False), "does not match its manifest"),
    "pickle": (weights(lambda f: pickle.dumps(Trap(f / "trap")), seal=True), "holds no safetensors"),
    "no-weights": (lambda f: (f / "weights.safetensors").unlink(), "is missing"),
    "a-tensor-lacks": (weights(other_tensors(lambda t: t.popitem()), seal=True), "cannot|can run"),
    "another-shape": (
        weights(other_tensors(lambda t: t.update({k: v[:1].clone() for k, v in t.items() if v.dim() > 1})), seal=True),
        "cannot run together",
    ),
    "foreign-json": (edit("model.json", lambda v: v.clear()), "holds no model that this program can run"),
    "no-json": (lambda f: ((f / "model.json").write_text("{]"), resealed(f)), "is no JSON"),
    "nan": (lambda f: ((f / "model.json").write_text('{"rule": NaN}'), resealed(f)), "is no JSON"),
    "deep": (lambda f: ((f / "graphs.json").write_text("[" * 10**5), resealed(f)), "is no JSON"),
    "no-manifest": (lambda f: (f / "manifest.json").unlink(), "holds no exported model"),
    "foreign-manifest": (edit("manifest.json", lambda v: v.update(format="other"), seal=False), "of no exported model"),
    "newer": (edit("manifest.json", lambda v: v.update(format_version=9), seal=False), "export format 9"),
    "wrong-hash": (
        edit("manifest.json", lambda v: v["files"]["model.json"].update(sha256="0" * 64), seal=False),
        "does not match its own hash",
    ),
    "traversal": (edit("manifest.json", renamed("../graphs.json"), seal=False), "cannot be a folder name"),
    "absolute": (edit("manifest.json", renamed("/etc/passwd"), seal=False), "cannot be a folder name"),
    "folder-for-file": (lambda f: ((f / "model.json").unlink(), (f / "model.json").mkdir()), "is no file"),
    "operation": (edit("graphs.json", first_step(lambda s: s.__setitem__(1, "from_file.default"))), "is unknown"),
    "builtin": (edit("graphs.json", first_step(lambda s: s.__setitem__(1, "__class__.x"))), "is unknown"),
    "text-argument": (edit("graphs.json", first_step(lambda s: s[2].append("rm"))), "is none"),
    "later-value": (edit("graphs.json", first_step(lambda s: s[2].append({"value": "later"}))), "is none"),
    "head-lacks": (edit("graphs.json", lambda v: v["heads"].popitem()), "do not fit together"),
    "part-lacks": (edit("graphs.json", lambda v: v["parts"].pop()), "do not fit together"),
    "negative-exit": (edit("model.json", lambda v: v["rule"].update(first=-1)), "exit -1 has no rule"),
    "huge-image": (edit("model.json", lambda v: v["preprocessing"].update(image_size=10**9)), "pixels are none"),
    "axis": (
        edit("graphs.json", first_step(lambda s: s.__setitem__(slice(1, 4), ["unsqueeze.default", [s[2][0], 99], {}]))),
        "cannot run together",
    ),
    "few-names": (edit("model.json", lambda v: v["class_names"].pop()), "for two images of 9 classes"),
    "two-inputs": (edit("graphs.json", lambda v: next(iter(v["heads"].values()))["inputs"].append("x")), "cannot run"),
    "costs": (edit("model.json", lambda v: v["costs"]["flops"].update(engine_step="1")), "the costs are no numbers"),
    "precision": (edit("model.json", lambda v: v.update(precision="fp4")), "precision"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_export_is_refused_in_a_line(name: str, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    damage, told = DAMAGE[name]
    damage(folder)
    with pytest.raises(UserError, match=told) as error:
        EarlyExit.load(folder, device="cpu")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert not (folder / "trap").exists()


def test_only_an_export_is_replaced_and_no_draft_stays(
    study_of_exits: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    number = str(read_table(study_of_exits / "tables", "front")["number"].iloc[0])
    command = ["export", str(study_of_exits), "--point", number]
    assert main([*command, "--output", str(other)]) == 2
    assert "is no export that could be replaced" in capsys.readouterr().err
    assert (other / "thesis.txt").read_text() == "years of work"
    again = tmp_path / "again"
    shutil.copytree(exported, again)
    assert (again / "part-1.onnx").exists()
    card = (again / "README.md").read_bytes()
    for name, told in (("README.md", "README.md does not match its manifest"), ("mine.txt", "also holds mine.txt")):
        (again / name).write_text("a licence that somebody filled in")
        assert main([*command, "--output", str(again)]) == 2
        assert told in capsys.readouterr().err
        (again / "README.md").write_bytes(card)
    (again / "mine.txt").unlink()
    assert main([*command, "--output", str(again)]) == 0
    assert EarlyExit.load(again, device="cpu").facts["point"]["number"] == int(number)
    assert not (again / "part-1.onnx").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "mine"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--point", "100000"], "has no point 100000"),
        (["--data", "cifar10"], "cifar10"),
    ],
)
def test_a_point_that_is_not_there(
    arguments: list[str], told: str, study_of_exits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(study_of_exits), *arguments, "--output", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cost", ["flops", "seconds"])
def test_a_pack_holds_no_weights(cost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = Path(__file__).parents[2] / "results" / "reference" / "vgg19-cifar10"
    assert main(["export", str(reference), "--cost", cost, "--output", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "a copy of a study has no weights" in error and error.count("\n") == 1, "nothing is measured before"
