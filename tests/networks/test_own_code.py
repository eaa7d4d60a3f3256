"""The user's own backbone: found where the user says, held against its digest, and checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.own_backbone import OWN_MODULE, write_own_backbone

from study.data.settings import DataSettings
from study.errors import UserError
from study.networks import own_code
from study.networks.construction import check_network
from study.networks.own_code import add_sources, digest_of, is_own, known_sources, trust
from study.networks.registry import Segmented, build_backbone
from study.networks.settings import HeadSettings, NetworkSettings

SIZES = {"classes": 5, "image_size": 8, "channels": 1, "width": 1.0}


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, empty in (("_folders", []), ("_sources", {}), ("_modules", {})):
        monkeypatch.setattr(own_code, name, empty)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_own_backbone(tmp_path)
    trust(tmp_path)
    return tmp_path


def build(function: str, **asked: object) -> Segmented:
    return build_backbone(f"{OWN_MODULE}:{function}", **{**SIZES, **asked})


@pytest.mark.parametrize(
    ("function", "asked", "exits"),
    [
        ("build", {}, ["0", "1", "2"]),
        ("build", {"exits_at": ["0.1", "2"]}, ["0.1", "2"]),
        ("bare", {"exits_at": ["1"]}, ["1"]),
        ("segments", {}, ["block2", "block3"]),
        ("segments", {"exits_at": ["block3"]}, ["block3"]),
    ],
)
@torch.no_grad()
def test_it_returns_segments_or_a_module_with_places(
    folder: Path, function: str, asked: dict[str, object], exits: list[str]
) -> None:
    made = build(function, **asked)
    assert [point.name for point in made.exits] == exits
    made.model.eval()
    images = torch.rand(2, 1, 8, 8)
    state = (images,)
    for segment in made.segments:
        state = segment(state)
    assert torch.equal(made.classifier(state), made.model(images))


def test_a_worker_builds_from_the_drivers_source_and_has_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = digest_of(f"{OWN_MODULE}:build")
    sent = known_sources()
    monkeypatch.setattr(own_code, "_folders", [])
    monkeypatch.setattr(own_code, "_sources", {})
    with pytest.raises(UserError, match=r"there is no mine\.py in any folder that you named: .* --code DIR"):
        build("build", code=code)
    add_sources(sent)
    assert len(build("build", code=code).exits) == 3


def test_another_file_of_the_name_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = digest_of(f"{OWN_MODULE}:build")
    monkeypatch.setattr(own_code, "_sources", {})
    write_own_backbone(folder, more="# another\n")
    with pytest.raises(UserError, match=r"mine\.py has changed since the network was made: its digest is .*expected"):
        build("build", code=code)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("fails", "failed: KeyError: 'no such layer' (mine.py, line "),
        ("number", "returns int, not segments or a torch module"),
        ("bare", "returns a module without places of exits: set exits_at"),
        ("missing", "mine.py has no function 'missing'"),
        ("a_number", "mine.py has no function 'a_number'"),
        ("wrong", "the segments give another answer than the module"),
    ],
)
def test_what_a_function_does_wrong_is_told_in_one_line(folder: Path, function: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        build(function)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_changed_file_is_another_network(folder: Path) -> None:
    settings = NetworkSettings(backbone=f"{OWN_MODULE}:build", head=HeadSettings(kind="linear"))
    data = DataSettings(name="digits", image_size=8, channels=1)
    assert check_network(settings, data) == 3
    more = '\n\ndef build(**sizes):\n    return bare(**sizes), ["0"]\n'
    write_own_backbone(folder, more)
    assert check_network(settings, data) == 1


def test_names_of_libraries_and_paths_are_none_of_the_users_own() -> None:
    assert is_own("mine:build")
    for name in (
        "vgg19",
        "torchvision:resnet50",
        "timm:resnet50",
        "../mine:build",
        "a.b:build",
        "mine:",
        "m:b:c",
        "m/x:b",
    ):
        assert not is_own(name)


def test_no_module_of_python_is_loaded_by_its_name(folder: Path) -> None:
    with pytest.raises(UserError, match=r"there is no os\.py in"):
        build_backbone("os:system", **SIZES)
