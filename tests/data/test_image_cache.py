"""Decoded images are kept on the machine: found again, shared, bounded, and never wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.refusals import one_line

from study.data import decoding, file_parts, image_cache
from study.data.image_cache import ImageCache
from study.data.loading import load_dataset, load_test_set
from study.data.pixels import mean_and_std
from study.data.settings import Dataset, DataSettings, ImageSet, pickled_by_value
from study.errors import UserError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twenty images that were written a while ago."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(10):
            path = tmp_path / "pets" / name / f"{number}.png"
            Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
            os.utime(path, (time.time() - 3600, time.time() - 3600))
    return tmp_path / "pets"


def asked(pets: Path, **changes: Any) -> DataSettings:
    return DataSettings(name="image_folder", folder=str(pets), **{"image_size": 8, **changes})


def loaded(pets: Path, **changes: Any) -> Dataset:
    return load_dataset(asked(pets, **changes), pets, check_test=True)


def splits(data: Dataset) -> list[ImageSet]:
    return [data.train, data.calibration, data.validation]


def same(one: Dataset, other: Dataset) -> bool:
    pairs = zip(splits(one), splits(other), strict=True)
    return one.info == other.info and all(a.digest == b.digest for a, b in pairs)


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "pixels").iterdir())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were decoded."""
    seen: list[str] = []

    def watched(paths: list[str], *rest: Any, **more: Any) -> Any:
        seen.extend(paths)
        return decoding.decode(paths, *rest, **more)

    monkeypatch.setattr(file_parts, "decode", watched)
    return seen


def test_a_second_start_reads_no_image(cache: Path, pets: Path, reads: list[str]) -> None:
    first = loaded(pets)
    assert len(reads) == 20 and len(entries(cache)) == 4
    again = loaded(pets)
    assert len(reads) == 20 and same(first, again)
    assert load_test_set(asked(pets), pets).digest == load_test_set(asked(pets), pets).digest
    assert len(reads) == 20
    assert not again.train.images.flags.writeable


def test_the_cache_changes_no_pixel_and_no_digest(cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = loaded(pets), loaded(pets)
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", "0")
    assert same(first, plain := loaded(pets)) and same(second, plain)
    assert plain.train.origin is None


def test_other_settings_have_other_entries(cache: Path, pets: Path, reads: list[str]) -> None:
    sizes = [loaded(pets, image_size=size).train.images.shape[2] for size in (8, 9, 8, 9)]
    assert sizes == [8, 9, 8, 9] and len(reads) == 40
    assert loaded(pets, channels=1).train.images.shape[1] == 1
    before = len(reads)
    loaded(pets, seed=1)
    assert before < len(reads) <= before + 13, "other splits; the test part is the same"


def test_changed_images_are_read_anew(cache: Path, pets: Path, reads: list[str]) -> None:
    first = loaded(pets)
    path = pets / "cat" / "3.png"
    Image.new("RGB", (9, 9), (9, 8, 7)).save(path)
    changed = loaded(pets)
    assert str(path) in reads[20:] and changed.info.digest != first.info.digest
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as large, and old again
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    before = len(reads)
    loaded(pets)
    assert len(reads) > before


def test_an_image_that_has_just_changed_is_not_trusted(cache: Path, pets: Path, reads: list[str]) -> None:
    for path in pets.rglob("*.png"):
        os.utime(path)
    loaded(pets)
    loaded(pets)
    assert len(reads) == 40


def test_a_damaged_image_leaves_nothing_behind(cache: Path, pets: Path) -> None:
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read 10 images"):
        loaded(pets)
    assert not [entry for entry in entries(cache) if entry.name.startswith(".")]


@pytest.mark.parametrize("damage", ["gone", "no index", "truncated", "other", "facts", "index"])
def test_the_cache_may_be_damaged_or_deleted_at_any_time(cache: Path, pets: Path, damage: str) -> None:
    first = loaded(pets)
    assert same(first, first)  # digests are kept: a truncated file takes its mapped pages along
    for entry in entries(cache):
        if damage == "truncated":
            os.truncate(entry / "images.npy", 150)
        elif damage == "other":
            np.save(entry / "images.npy", np.zeros((3, 3)))
        elif damage == "facts":
            (entry / "facts.json").write_text("{")
    if damage == "gone":
        shutil.rmtree(cache)
    elif damage == "no index":
        shutil.rmtree(cache / "index")
    elif damage == "index":
        for path in (cache / "index").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    assert same(first, loaded(pets))
    assert same(first, loaded(pets))


def test_a_cache_that_cannot_be_written_saves_nothing(cache: Path, pets: Path) -> None:
    cache.write_text("a file")
    first = loaded(pets)
    assert first.train.origin is None and same(first, loaded(pets))


def test_a_process_that_finds_no_entry_removes_none(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_process(place: Path, **_: object) -> None:
        raise AssertionError(f"{place} is removed: another process may just have published it")

    monkeypatch.setattr(image_cache.shutil, "rmtree", other_process)
    assert ImageCache(cache, 10**9).find("missing", (1, 1, 8, 8)) is None


def test_pixels_are_on_the_disk_before_an_entry_has_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, flush, written = ImageCache(cache, 10**9), np.memmap.flush, list[bool]()

    def seen(images: np.memmap[Any, Any]) -> None:
        flush(images)
        written.append(folder.find("entry", (1, 1, 8, 8)) is None)

    monkeypatch.setattr(np.memmap, "flush", seen)
    draft = folder.draft((1, 1, 8, 8))
    assert draft is not None
    folder.publish(draft, "entry")
    assert written == [True], "a power cut would leave an entry whose pixels are zeros"


def test_the_oldest_entries_make_room(cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = loaded(pets)
    used = sum((entry / "images.npy").stat().st_size for entry in entries(cache))
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", str((used + 10) / 1e9))
    for entry in entries(cache):
        os.utime(entry / "facts.json", (1, 1))
    (cache / "pixels" / ".draft-of-a-killed-process").mkdir()
    os.utime(cache / "pixels" / ".draft-of-a-killed-process", (1, 1))
    loaded(pets, channels=1)
    sizes = sum((entry / "images.npy").stat().st_size for entry in entries(cache))
    assert sizes <= used + 10 and not any(entry.name.startswith(".") for entry in entries(cache))
    assert same(first, loaded(pets))
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", "1e-9")
    assert loaded(pets, image_size=9).train.origin is None, "an entry that is larger than the cache"


@pytest.mark.parametrize("text", ["much", "-1", "nan", "1e300"])
def test_a_size_that_is_none_is_refused(cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", text)
    with pytest.raises(UserError) as error:
        loaded(pets)
    assert "PREDICTIVE_EXIT_CACHE_GB" in one_line(error)


def test_processes_decode_what_threads_decode(cache: Path, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_threads = loaded(pets)
    shutil.rmtree(cache)
    monkeypatch.setattr(decoding, "FILES_OF_A_PROCESS", 2)
    monkeypatch.setattr(decoding, "core_count", lambda: 2)
    assert same(in_threads, loaded(pets))
    shutil.rmtree(cache)
    (pets / "cat" / "3.png").write_bytes(b"damaged")
    (pets / "dog" / "4.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot read 2 images"):
        loaded(pets)


def test_mapped_images_are_pickled_as_their_place(cache: Path, pets: Path) -> None:
    data = loaded(pets, image_size=64)
    content = pickle.dumps(data, protocol=5)
    assert len(content) < 20_000 < data.train.images.nbytes
    copy = pickle.loads(content)
    assert same(data, copy) and copy.train.origin == data.train.origin
    shutil.rmtree(cache)
    assert same(data, pickle.loads(content)), "decoded anew"
    token = pickled_by_value.set(True)
    try:
        whole = pickle.dumps(data, protocol=5)
    finally:
        pickled_by_value.reset(token)
    assert len(whole) > data.train.images.nbytes and same(data, pickle.loads(whole))


def test_another_machine_decodes_once_for_all_its_processes(
    cache: Path, pets: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps(loaded(pets))
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE", str(cache.with_name("other")))
    reads.clear()
    with ThreadPoolExecutor(4) as workers:
        copies = list(workers.map(pickle.loads, [content] * 4))
    assert len(reads) == len(set(reads)) == 13, "each image but those of the test part"
    assert all(same(one, copies[0]) for one in copies) and same(copies[0], loaded(pets))


@pytest.mark.parametrize("gigabytes", ["50", "0"])
def test_a_machine_with_other_images_at_this_place_is_refused(
    cache: Path, pets: Path, gigabytes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps(loaded(pets))
    shutil.rmtree(cache)
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", gigabytes)
    for path in pets.rglob("*.png"):
        Image.new("RGB", (9, 9), (9, 8, 7)).save(path)
    with pytest.raises(UserError, match="this machine finds other images there"):
        pickle.loads(content)


def test_the_machine_has_a_cache_unless_it_wants_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PREDICTIVE_EXIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = ImageCache.of_machine()
    assert found == ImageCache(tmp_path / "predictive-exit" / "images", 50 * 10**9)
    monkeypatch.setenv("PREDICTIVE_EXIT_CACHE_GB", "0")
    assert ImageCache.of_machine() is None


def test_mean_and_deviation_of_large_images_take_little_memory() -> None:
    images = np.zeros((64, 3, 512, 512), np.uint8)
    images[:, 1] = 255
    tracemalloc.start()
    try:
        mean, std = mean_and_std(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mean == (0.0, 1.0, 0.0) and len(std) == 3
    assert peak < 64 * 2**20, "eight bytes a pixel: 134 MB for all images of a channel at once"
