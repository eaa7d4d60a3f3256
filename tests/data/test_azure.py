"""Images in a container of Azure: the same as in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.refusals import one_line

from results.storage import object_store
from results.storage.paths import location
from study.data.image_folder import image_folder
from study.data.loading import load_dataset, load_test_set
from study.data.settings import DataSettings
from study.errors import UserError

pytest_plugins = ["support.azure_server"]
PLACE = "az://container/my pets"


@pytest.fixture
def pets(tmp_path: Path, blobs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images in a folder and in the container."""
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE", str(tmp_path / "cache"))
    folder, random = tmp_path / "pets", np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            path = folder / name / f"photo {number} ü.png"
            Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)
            blobs[f"my pets/{name}/{path.name}"] = path.read_bytes()
    blobs["my pets of others/1.png"] = b"not below the place"
    return folder


def asked(folder: str) -> DataSettings:
    return DataSettings(name="image_folder", folder=folder, image_size=8)


def test_a_container_holds_the_images_of_a_folder(pets: Path) -> None:
    here, there = (load_dataset(asked(place), pets, check_test=True) for place in (str(pets), PLACE))
    assert there.info.digest == here.info.digest and there.image_counts == here.image_counts
    tests = [load_test_set(asked(place), pets) for place in (str(pets), PLACE)]
    assert tests[0].digest == tests[1].digest


def test_images_are_read_once(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_dataset(asked(PLACE), pets).info.digest
    monkeypatch.setattr(object_store.RemotePath, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
    assert load_dataset(asked(PLACE), pets).info.digest == before


def test_a_table_may_lie_in_a_container(pets: Path, blobs: dict[str, bytes]) -> None:
    rows = "\n".join(f"{name.removeprefix('my pets/')},{name.split('/')[1]}" for name in blobs if "others" not in name)
    blobs["my pets/table.csv"] = f"path,label\n{rows}".encode()
    (pets / "table.csv").write_bytes(blobs["my pets/table.csv"])
    tables = [DataSettings(name="image_folder", table=f"{one}/table.csv", image_size=8) for one in (pets, PLACE)]
    assert load_dataset(tables[0], pets).info.digest == load_dataset(tables[1], pets).info.digest


@pytest.mark.parametrize(
    ("place", "changes", "told"),
    [
        ("az://container/nothing", {}, "no object lies there"),
        (PLACE, {"AZURE_STORAGE_ACCOUNT_NAME": ""}, "set AZURE_STORAGE_ACCOUNT_NAME"),
        (PLACE, {"AZURE_SKIP_SIGNATURE": "true"}, "set AZURE_STORAGE_ACCOUNT_KEY to a key that may list"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    pets: Path, monkeypatch: pytest.MonkeyPatch, place: str, changes: dict[str, str], told: str
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        image_folder(location(place))
    assert told in one_line(error)
