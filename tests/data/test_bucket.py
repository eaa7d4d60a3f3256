"""Images in an object store: the same as in a folder, listed at each start, read once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from results.storage import object_store
from results.storage.paths import location
from study.cli.main import main
from study.data import decoding
from study.data.image_folder import image_folder
from study.data.loading import load_dataset, load_test_set
from study.data.settings import Dataset, DataSettings
from study.errors import UserError

if TYPE_CHECKING:
    from support.s3_server import FaultyEndpoint, S3Server

pytest_plugins = ["support.s3_server"]

NOWHERE = Path("nowhere")
LAYOUTS = {
    "classes": [""],
    "train and test": ["train/", "test/"],
    "train, val and test": ["train/", "val/", "test/"],
    "train and val": ["train/", "val/"],
}


def made(folder: Path, parts: list[str]) -> Path:
    """Images of two classes, with what other programs leave behind."""
    random = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            (folder / part / name / "deeper").mkdir(parents=True)
            for number in range(10):
                pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                below = "deeper/" if number % 3 == 0 else ""
                Image.fromarray(pixels).save(folder / part / name / f"{below}photo {number} ü.png")
            (folder / part / name / ".thumbs").mkdir()
            for left in (".thumbs/1.png", ".thumbs/2.png", "notes.txt", "Thumbs.db", "._photo.png"):
                (folder / part / name / left).write_bytes(b"left behind")
        (folder / part / "beside.png").write_bytes(b"beside")
        (folder / part / "__MACOSX").mkdir()
        (folder / part / "__MACOSX" / "1.png").write_bytes(b"left behind")
    return folder


def uploaded(folder: Path, address: str) -> str:
    """Copy a folder to an address, with the empty objects that consoles write in place of folders."""
    target = location(address)
    for path in folder.rglob("*"):
        below = path.relative_to(folder).as_posix()
        (target / below).write_bytes(path.read_bytes() if path.is_file() else b"")
    return address


@pytest.fixture
def line(s3: S3Server) -> Iterator[FaultyEndpoint]:
    with s3.faulty({}) as endpoint:
        yield endpoint


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return made(tmp_path / "pets", [""])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def asked(place: object, **changes: object) -> DataSettings:
    return DataSettings(**{"name": "image_folder", "folder": str(place), "image_size": 8, **changes})  # type: ignore[arg-type]


def facts(data: Dataset) -> tuple[object, ...]:
    splits = (data.train, data.calibration, data.validation)
    return data.info.digest, data.info.mean, data.info.class_names, [split.digest for split in splits]


def read_objects(line: FaultyEndpoint) -> list[str]:
    """The requests that were no listing."""
    return [request for request in line.requests if "list-type" not in request]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bucket_holds_the_images_of_a_folder(s3: S3Server, cache: Path, tmp_path: Path, layout: str) -> None:
    folder = made(tmp_path / "pets", LAYOUTS[layout])
    place = uploaded(folder, s3.uri(f"{uuid.uuid4().hex}/my pets"))
    here, there = load_dataset(asked(folder), NOWHERE), load_dataset(asked(place), NOWHERE)
    assert facts(here) == facts(there) and here.test_images == there.test_images
    assert sorted(here.notes) == sorted(there.notes) and any("passed over" in note for note in there.notes)
    assert load_test_set(asked(folder), NOWHERE).digest == load_test_set(asked(place), NOWHERE).digest


def test_a_second_start_lists_the_bucket_and_reads_no_object(line: FaultyEndpoint, cache: Path, pets: Path) -> None:
    place = uploaded(pets, line.uri(uuid.uuid4().hex))
    line.requests.clear()
    first = load_dataset(asked(place), NOWHERE, check_test=True)
    assert len(read_objects(line)) == 20
    line.requests.clear()
    assert facts(load_dataset(asked(place), NOWHERE, check_test=True)) == facts(first)
    assert line.requests and not read_objects(line)
    assert first.train.origin is not None and not first.train.images.flags.writeable


def test_an_object_that_changed_is_read_anew(line: FaultyEndpoint, cache: Path, pets: Path) -> None:
    place = uploaded(pets, line.uri(uuid.uuid4().hex))
    first = load_dataset(asked(place), NOWHERE)
    changed = image_folder(location(place)).parts["train"].files[0]
    (location(place) / changed).write_bytes((pets / "dog" / "photo 1 ü.png").read_bytes())
    (pets / changed).write_bytes((pets / "dog" / "photo 1 ü.png").read_bytes())
    again = load_dataset(asked(place), NOWHERE)
    assert facts(again) == facts(load_dataset(asked(pets), NOWHERE)) != facts(first)


def test_processes_read_what_threads_read(
    s3: S3Server, cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = uploaded(pets, s3.uri(uuid.uuid4().hex))
    monkeypatch.setattr(decoding, "FILES_OF_A_PROCESS", 2)
    monkeypatch.setattr(decoding, "core_count", lambda: 2)
    assert facts(load_dataset(asked(place), NOWHERE)) == facts(load_dataset(asked(pets), NOWHERE))


def test_a_store_that_is_lost_while_processes_read_is_told_in_one_line(
    line: FaultyEndpoint, cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = uploaded(pets, line.uri(uuid.uuid4().hex))
    monkeypatch.setattr(decoding, "FILES_OF_A_PROCESS", 2)
    monkeypatch.setattr(decoding, "core_count", lambda: 2)
    line.faults, line.only = {"403": 1.0}, r"^GET .*\.png"
    with pytest.raises(UserError, match=r"^cannot read image s3://study/[^?]*: injected \(AccessDenied\): start again"):
        load_dataset(asked(place), NOWHERE)
    assert not list((cache / "pixels").iterdir()), "no draft is left"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_in_a_bucket_names_images(s3: S3Server, cache: Path, pets: Path, ending: str) -> None:
    import pandas as pd

    paths = [path.relative_to(pets).as_posix() for path in pets.glob("*/photo*.png")]
    rows = pd.DataFrame({"path": paths, "label": [path[:3] for path in paths]})
    getattr(rows, f"to_{ending}")(pets / f"all.{ending}", index=False)
    place = uploaded(pets, s3.uri(uuid.uuid4().hex)).replace("?", f"/all.{ending}?")
    here = load_dataset(asked(None, folder=None, table=str(pets / f"all.{ending}")), NOWHERE)
    assert facts(load_dataset(asked(None, folder=None, table=place), NOWHERE)) == facts(here)
    (location(place).parent / paths[0]).unlink()
    with pytest.raises(UserError, match=r"1 of 12 images are not in s3://study/\w+: "):
        load_dataset(asked(None, folder=None, table=place), NOWHERE)


def test_other_stores_than_those_of_the_program_are_refused() -> None:
    with pytest.raises(UserError, match="ftp:// is no storage that can be used"):
        load_dataset(asked("ftp://host/photos"), NOWHERE)


WRONG: dict[str, tuple[Callable[[FaultyEndpoint, pytest.MonkeyPatch], str], str]] = {}


def wrong(told: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
    def enter(function: Callable[..., str]) -> Callable[..., str]:
        WRONG[function.__name__] = (function, told)
        return function

    return enter


@wrong("image folder s3://study/pets cannot be listed: there are no credentials: set AWS_ACCESS_KEY_ID")
def no_credentials(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    return line.uri("pets").replace("us-east-1", "eu-north-1")  # another connection than that with keys


@wrong("image folder s3://study/pets cannot be listed: injected (AccessDenied): set AWS_ACCESS_KEY_ID")
def keys_that_may_not(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    line.faults = {"403": 1.0}
    return line.uri("pets")


@wrong("image folder s3://elsewhere/pets cannot be listed: The specified bucket does not exist")
def no_bucket(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    return line.uri("pets", bucket="elsewhere")


@wrong("image folder s3://study/cats: no object lies there")
def empty_prefix(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    return line.uri("cats")


@wrong("image folder s3://study/pets/dog has no class folders")
def no_classes(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    return line.uri("pets/dog")


@wrong("cannot read image s3://study/pets/dog/0.png (")
def damaged_object(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    (location(line.uri("pets")) / "dog" / "0.png").write_bytes(b"damaged")
    return line.uri("pets")


@wrong("image folder s3://study/pets cannot be listed: ")
def no_network(line: FaultyEndpoint, patch: pytest.MonkeyPatch) -> str:
    return "s3://study/pets?endpoint_override=http://127.0.0.1:9&region=us-east-1"


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_ends_in_one_line_before_any_work(
    line: FaultyEndpoint,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mistake: str,
) -> None:
    monkeypatch.setitem(object_store.CLIENT["retry_config"], "retry_timeout", timedelta(seconds=0.2))
    pets = location(line.uri("pets"))
    for name in ("cat", "dog"):
        for number in range(12):
            with (tmp_path / "one.png").open("wb") as file:
                Image.new("RGB", (9, 9), (number, 0, len(name))).save(file)
            (pets / name / f"{number}.png").write_bytes((tmp_path / "one.png").read_bytes())
    make, told = WRONG[mistake]
    place = make(line, monkeypatch)
    assert main(["run", "own_images", "--folder", place, "--storage", str(tmp_path / "runs"), "--local"]) == 2
    written = capsys.readouterr()
    assert written.err.startswith("predictive-exit: ") and told in written.err and written.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
