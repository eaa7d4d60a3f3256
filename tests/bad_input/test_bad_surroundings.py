"""Commands on machines that do not give what they need."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from support.corpus import EVALUATE, TRAIN, Case, Workplace, each, snapshot
from support.permissions import apart, bound_by_permissions, full_disk, largest_file
from support.shelf import STUDY

from study.cli.main import main

EXITS = f"{EVALUATE} --pretrained models/exits"


def forbidden(
    id: str, why: str, arrange: Callable[[Workplace], Sequence[Path]], mode: int, command: str, *told: str
) -> Case:
    """Files or folders that permission bits keep from the command."""
    made: list[Path] = []

    def make(place: Workplace) -> None:
        made[:] = arrange(place)

    @contextlib.contextmanager
    def around(place: Workplace) -> Iterator[None]:
        usual = [path.stat().st_mode for path in made]
        for path in made:
            path.chmod(mode)
        try:
            with bound_by_permissions():
                yield
        finally:
            for path, before in zip(made, usual, strict=True):
                path.chmod(before)

    return Case(id, why, make, command, told, around)


def within(
    id: str,
    why: str,
    arrange: Callable[[Workplace], object],
    around: Callable[[Workplace], AbstractContextManager[object]],
    command: str,
    *told: str,
) -> Case:
    return Case(id, why, arrange, command, told, around)


def a_folder(place: Workplace) -> list[Path]:
    (place / "locked").mkdir()
    return [place / "locked"]


def a_folder_beside_a_run(place: Workplace) -> list[Path]:
    place.take("run")
    return a_folder(place)


def a_study(place: Workplace) -> list[Path]:
    return [place.write("study.yaml", "name: fine\n")]


def a_run(place: Workplace) -> None:
    place.take("run")


def taken(name: str, inner: str) -> Callable[[Workplace], list[Path]]:
    return lambda place: list(place.take(name).glob(inner))


def images(place: Workplace) -> list[Path]:
    place.images("pets/cat", "pets/dog")
    return list((place / "pets/cat").iterdir())


def a_class(place: Workplace) -> list[Path]:
    place.images("pets/cat", "pets/dog")
    return [place / "pets/cat"]


def a_disk(place: Workplace) -> None:
    place.take("run")
    (place / "small").mkdir()


def with_its_study(place: Workplace) -> None:
    place.take("run", "small")
    place.write("study.yaml", yaml.safe_dump(STUDY))


@contextlib.contextmanager
def held(place: Workplace) -> Iterator[None]:
    with (place / "small/.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


PETS = f"{TRAIN} --data image_folder --image-size 32 --no-save --folder pets"
DENIED = os.strerror(errno.EACCES)
CASES = [
    forbidden(
        "study-unreadable", "a study file that may not be read", a_study, 0, "run study.yaml", "study.yaml", DENIED
    ),
    forbidden("image-unreadable", "images that may not be read", images, 0, PETS, "pets/cat/", DENIED),
    forbidden("class-unlistable", "a class that may not be listed", a_class, 0, PETS, "pets/cat", DENIED),
    forbidden(
        "weights-unreadable",
        "weights that may not be read",
        taken("models", "exits/best/weights-*"),
        0,
        EXITS,
        "weights-",
        DENIED,
    ),
    forbidden(
        "manifest-unreadable",
        "a manifest that may not be read",
        taken("models", "exits/best/manifest.json"),
        0,
        EXITS,
        "manifest.json",
        DENIED,
    ),
    forbidden(
        "table-unreadable",
        "a table that may not be read",
        taken("run", "tables/front/part-*"),
        0,
        "front run",
        "run/tables/front/part-",
        DENIED,
    ),
    forbidden(
        "trace-unreadable",
        "a trace that may not be read",
        taken("run", "traces/*validation*/trace-*.safetensors"),
        0,
        "front run --exact",
        "trace-",
        DENIED,
    ),
    forbidden(
        "run-unreadable", "a study that may not be read", taken("run", "study.yaml"), 0, "status run", "run/study.yaml"
    ),
    forbidden(
        "storage-locked",
        "a storage that may not be written",
        a_folder,
        0o500,
        "run quickstart --storage locked",
        "locked",
        "write",
    ),
    forbidden(
        "train-locked",
        "a folder that may not be written",
        a_folder,
        0o500,
        f"{TRAIN} --output locked/x",
        "locked",
        "write",
    ),
    forbidden(
        "profile-locked",
        "a folder that may not be written",
        a_folder,
        0o500,
        "profile --backbone vgg11 --device cpu --no-meter --output locked",
        "locked",
        "write",
    ),
    forbidden(
        "front-locked",
        "a folder that may not be written",
        a_folder_beside_a_run,
        0o500,
        "front run --output locked/x.csv",
        "locked",
        "write",
    ),
    forbidden(
        "figure-locked",
        "a folder that may not be written",
        a_folder_beside_a_run,
        0o500,
        "front run --exact --figure locked/new/x.png",
        "locked",
        "write",
    ),
    within(
        "held",
        "a study that another process runs",
        with_its_study,
        held,
        "run study.yaml --storage .",
        "small",
        "another process",
    ),
    within(
        "full-front",
        "no space for a table",
        a_run,
        lambda p: largest_file(100),
        "front run --output x.csv",
        "x.csv",
        os.strerror(errno.EFBIG),
    ),
    within(
        "full-exact",
        "no space for a table",
        a_run,
        lambda p: largest_file(100),
        "front run --exact --output x.parquet",
        "x.parquet",
        os.strerror(errno.EFBIG),
    ),
    within(
        "full-figure",
        "no space for a figure",
        a_run,
        lambda p: largest_file(100),
        "front run --figure x.png",
        "x.png",
        os.strerror(errno.EFBIG),
    ),
    within(
        "full-disk",
        "a full disk",
        a_disk,
        lambda p: full_disk(p / "small", "4k"),
        "front run --figure small/x.png",
        "small/x.png",
        os.strerror(errno.ENOSPC),
    ),
    Case(
        "no-such-user",
        "the home of nobody",
        lambda p: None,
        "run quickstart --storage ~nosuchuser/x",
        ("~nosuchuser", "home"),
    ),
    Case(
        "data-of-nobody",
        "the home of nobody",
        lambda p: None,
        f"{TRAIN} --data svhn --data-root ~nosuchuser/x",
        ("~nosuchuser", "home"),
    ),
    Case("front-of-nobody", "the home of nobody", lambda p: None, "front ~nosuchuser/x", ("~nosuchuser", "home")),
    Case(
        "folder-of-nobody",
        "the home of nobody",
        lambda p: p.write("study.yaml", "name: x\ndata: {name: image_folder, folder: ~nosuchuser/x}"),
        "run study.yaml",
        ("~nosuchuser", "home"),
    ),
]


@each(CASES)
def test_what_a_machine_does_not_give_is_told(
    case: Case, workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    workplace.refuse(case, capfd)


@pytest.mark.parametrize("size", [1000, 3000, 300_000])
def test_where_a_checkpoint_finds_no_space_none_is_published(
    workplace: Workplace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Work had to come first: progress, then one line; the same command goes on once there is space."""
    monkeypatch.chdir(workplace.root)
    command = [*TRAIN.split(), "--data", "digits", "--limit", "240", "--output", "model"]
    with largest_file(size):
        assert main(command) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("predictive-exit: model/") and line.endswith(os.strerror(errno.EFBIG))
    left = snapshot(workplace / "model")
    assert not [name for name in left if name.endswith("manifest.json") or "/." in name], left
    assert main(command) == 0


def test_a_run_folder_that_may_not_be_written_can_be_looked_at(
    workplace: Workplace, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = workplace.take("run")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    before = snapshot(folder)
    with bound_by_permissions():
        for command in ("status", "front", "front --exact"):
            name, *options = command.split()
            assert main([name, str(folder), *options]) == 0, capfd.readouterr().err
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    assert capfd.readouterr().err == "" and set(before) == set(snapshot(folder))


@pytest.mark.parametrize(
    ("redirect", "code", "told"),
    [
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("> >(:); sleep 0", 0, ""),
        ("> /dev/full", 2, os.strerror(errno.ENOSPC)),
    ],
    ids=["closed", "all-closed", "pipe-without-reader", "full"],
)
def test_a_stream_that_takes_nothing_leaves_no_traceback(
    workplace: Workplace, redirect: str, code: int, told: str
) -> None:
    done = apart(["status", "run", "--json"], workplace.take("run").parent, redirect=redirect)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.returncode == code and told in done.stderr and done.stderr.count("\n") == (1 if told else 0)


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": None, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "TERM": "dumb", "COLUMNS": "1"},
    ],
    ids=["no-home-ascii", "home-missing-dumb"],
)
def test_an_odd_environment_does_not_matter(workplace: Workplace, variables: dict[str, str | None]) -> None:
    done = apart(["front", "run", "--figure", "x.png"], workplace.take("run").parent, variables=variables)
    assert (done.returncode, done.stderr) == (0, "") and "classic network" in done.stdout
    assert (workplace / "x.png").read_bytes().startswith(b"\x89PNG")


def test_on_a_terminal_a_mistake_is_one_line_too(workplace: Workplace) -> None:
    ours, theirs = pty.openpty()
    done = apart(["status", "nowhere"], workplace.root, redirect=f">{os.ttyname(theirs)} 2>&1")
    assert done.returncode == 2
    assert os.read(ours, 4096).decode().splitlines() == [
        "predictive-exit: nowhere is no run folder: it has no study.yaml (run folders lie under runs/ by default)"
    ]
    os.close(ours), os.close(theirs)
