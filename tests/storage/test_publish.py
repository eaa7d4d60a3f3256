"""Storage: folders that are published whole or not at all, names that stay in their folder, atomic writes."""

import errno
import hashlib
import json
import os
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.laws import examples

from results.storage.atomic import write_atomic
from study.errors import UserError
from study.storage.publish import DamagedError, content_hash, publish, read_published, safe_name, set_aside, sweep

OLD = {"weights.bin": b"old weights", "notes.json": b'{"epoch": 1}', "same.txt": b"never changes"}
NEW = {"weights.bin": b"new weights, longer", "notes.json": b'{"epoch": 2}', "same.txt": b"never changes", "more": b""}


class Killed(BaseException):
    """What no program catches."""


@contextmanager
def killed_at(step: int):
    """Die at the given file operation, before or after it took place; nothing that would follow happens any more."""
    operations = [
        (Path, "open"),
        (os, "fsync"),
        (Path, "replace"),
        (Path, "unlink"),
    ]
    done = 0

    def mortal(real):
        def operate(*args, **kwargs):
            nonlocal done
            done += 2
            if done > step + 1:
                raise Killed
            result = real(*args, **kwargs)
            if done > step:
                raise Killed
            return result

        return operate

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in operations:
            patch.setattr(owner, name, mortal(getattr(owner, name)))
        yield


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_published_is_read(tmp_path):
    folder = tmp_path / "deep" / "folder"
    assert read_published(folder) is None
    for files in (OLD, NEW, OLD):
        publish(folder, files)
        found = read_published(folder)
        assert found is not None and found.files == files
        assert len(names(folder)) == len(files) + 1, "nothing of the other generation stays"
    assert len(found.digests["weights.bin"]) == 64


def test_only_the_files_asked_for_are_read(tmp_path):
    publish(tmp_path, OLD)
    found = read_published(tmp_path, names={"notes.json"})
    assert found is not None and set(found.files) == {"notes.json"} and set(found.digests) == set(OLD)
    weights = next(tmp_path.glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"weights-.*does not match"):
        read_published(tmp_path, names={"notes.json"})


def test_a_writer_that_dies_anywhere_leaves_the_old_or_the_new_content(tmp_path):
    seen = []
    for step in range(200):
        folder = tmp_path / str(step)
        publish(folder, OLD)
        try:
            with killed_at(step):
                publish(folder, NEW)
        except Killed:
            found = read_published(folder)
            assert found is not None and found.files in (OLD, NEW)
            seen.append(found.files == NEW)
        else:
            break
        publish(folder, NEW)
        after = read_published(folder)
        assert after is not None and after.files == NEW
        sweep(folder)
        assert len(names(folder)) == len(NEW) + 1, "what the dead writer left is gone"
    assert len(seen) > 20 and seen == sorted(seen), "first always the old content, then always the new"
    assert True in seen and False in seen


def test_a_first_writer_that_dies_leaves_nothing_or_all(tmp_path):
    for step in range(200):
        folder = tmp_path / str(step)
        try:
            with killed_at(step):
                publish(folder, NEW)
        except Killed:
            found = read_published(folder)
            assert found is None or found.files == NEW
        else:
            break
    assert step > 10


@contextmanager
def disk_that_loses_names(folder: Path):
    """A disk whose folders reach it only by fsync: yields the renames that a power failure would undo, oldest first.

    The files themselves are flushed by their own fsync before the rename.
    """
    unsynced: list[tuple[Path, bytes | None]] = []
    real_replace, real_fsync = Path.replace, os.fsync

    def replace(source: Path, target: Path) -> Path:
        unsynced.append((target, target.read_bytes() if target.exists() else None))
        return real_replace(source, target)

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            assert os.path.samestat(os.fstat(descriptor), folder.stat())
            unsynced.clear()
        real_fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(os, "fsync", fsync)
        yield unsynced


def undo(renames: list[tuple[Path, bytes | None]]) -> None:
    for target, before in reversed(renames):
        if before is None:
            target.unlink()
        else:
            target.write_bytes(before)


def test_what_was_published_survives_a_power_failure(tmp_path):
    publish(tmp_path, OLD)
    with disk_that_loses_names(tmp_path) as unsynced:
        publish(tmp_path, NEW)
        undo(unsynced)
    found = read_published(tmp_path)
    assert found is not None and found.files == NEW


@pytest.mark.parametrize("lost", ["all", "all but the last", "the first"])
def test_a_power_failure_while_publishing_leaves_the_old_or_the_new_content(tmp_path, lost):
    for step in range(0, 200, 2):
        folder = tmp_path / str(step)
        publish(folder, OLD)
        try:
            with disk_that_loses_names(folder) as unsynced, killed_at(step):
                publish(folder, NEW)
        except Killed:
            undo({"all": unsynced, "all but the last": unsynced[:-1], "the first": unsynced[:1]}[lost])
            found = read_published(folder)
            assert found is not None and found.files in (OLD, NEW)
        else:
            break
    assert step > 20


def test_a_single_file_survives_a_power_failure(tmp_path):
    write_atomic(tmp_path / "file", b"old")
    with disk_that_loses_names(tmp_path) as unsynced:
        write_atomic(tmp_path / "file", b"new")
        undo(unsynced)
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_file_system_that_flushes_no_folders_is_used_as_it_is(tmp_path, monkeypatch):
    real = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomic(tmp_path / "new" / "file", b"x")
    assert (tmp_path / "new" / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", sorted(OLD))
@pytest.mark.parametrize("damage", ["truncate", "flip", "extend", "remove"])
def test_a_damaged_file_is_told_by_name(tmp_path, name, damage):
    publish(tmp_path, OLD)
    path = next(tmp_path.glob(f"{name.partition('.')[0]}-*"))
    data = bytearray(path.read_bytes())
    data[3] ^= 4
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"truncate": data[:-2], "flip": data, "extend": path.read_bytes() + b"x"}[damage])
    with pytest.raises(DamagedError, match=path.name) as error:
        read_published(tmp_path)
    assert "\n" not in str(error.value)


def test_any_flipped_bit_of_the_manifest_is_noticed_or_harmless(tmp_path):
    """Names included: a file must not come back under another name."""
    files = {"a.bin": b"old weights"}
    publish(tmp_path, files)
    manifest = tmp_path / "manifest.json"
    whole = manifest.read_bytes()
    wrong = set()
    for position in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            manifest.write_bytes(data)
            try:
                found = read_published(tmp_path)
            except DamagedError:
                continue
            except Exception as error:
                wrong.add(type(error).__name__)
                continue
            if found is None or found.files != files:
                wrong.add(f"read as {sorted(found.files) if found else None}")
    assert not wrong


@examples(60)
@given(cut=st.integers(0, 10_000))
def test_a_cut_manifest_is_damage(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    publish(folder, OLD)
    whole = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(whole[: cut % len(whole)])
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        read_published(folder)


@pytest.mark.parametrize("text", ["[]", "null", '{"a": 1}', '{"a": {}}', '{"a": {"file": 7}}', "\u00e9"])
def test_a_manifest_of_another_shape_is_damage(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError, match="cannot be read"):
        read_published(tmp_path)


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    entry = {"file": "../secret", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    manifest = {"files": {"a": entry}, "sha256": content_hash({"a": entry}, 64)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="secret"):
        read_published(folder)


def test_set_aside_keeps_the_last_damaged_folder(tmp_path, capsys):
    for content in (b"first", b"second"):
        publish(tmp_path / "trial", {"a": content})
        set_aside(tmp_path / "trial", "a does not match")
        assert not (tmp_path / "trial").exists()
    found = read_published(tmp_path / "trial.damaged")
    assert found is not None and found.files == {"a": b"second"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("a does not match" in line and "trial.damaged" in line for line in lines)


@pytest.mark.parametrize("name", ["a", "0f3a", "vgg19_w0.25", "x.y-z", "A" * 100])
def test_safe_names_pass(name):
    assert safe_name(name, "name") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "a\\b", "/a", ".a", "a\n", "a b", "~", "a\0", "é", "A" * 101]
)
def test_names_that_leave_their_folder_are_refused_in_one_line(name):
    with pytest.raises(UserError, match="the study's name") as error:
        safe_name(name, "the study's name")
    assert "\n" not in str(error.value)


@examples(200)
@given(st.text(max_size=12))
def test_a_name_that_passes_stays_in_its_folder(name):
    try:
        safe_name(name, "name")
    except UserError:
        return
    inside = Path("/some/folder") / name
    assert Path(os.path.normpath(inside)) == inside and inside.parent == Path("/some/folder")


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, broken):
    write_atomic(tmp_path / "file", b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(*((os, "fsync") if broken == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "file", b"new")
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_bytes() == b"old"


def test_content_hash_knows_values_not_their_order():
    assert content_hash({"a": 1, "b": [2.5, None]}) == content_hash({"b": [2.5, None], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2}) and len(content_hash({}, 20)) == 20
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash({"a": float("nan")})
