"""Locations: one contract for local paths and object stores; what ``location()`` makes and refuses."""

import errno
import mmap
import os
import pickle
import threading
import time
import uuid
from pathlib import Path

import pytest

from results.storage.atomic import write_atomic
from results.storage.paths import as_local_file, location, set_aside

pytest_plugins = ["support.s3_server"]

BAD_LINE = {"500": 0.05, "503": 0.05, "lost request": 0.05, "lost answer": 0.05}
ODD_NAMES = [
    "a b",
    "é—ü",
    "a+b",
    "50%",
    "%41",
    "a#b",
    "what?",
    "a&b=c",
    "x.gz",
    "it's",
    "(1)",
    "~x",
    "a:b",
    ".hidden",
    "@",
]


@pytest.fixture(scope="module")
def bad_line(s3):
    with s3.faulty(BAD_LINE, seed=5) as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3", "s3 over a bad line"])
def folder(request, tmp_path):
    """An empty folder of every kind."""
    if request.param == "local":
        return tmp_path
    endpoint = request.getfixturevalue("s3" if request.param == "s3" else "bad_line")
    return location(endpoint.uri(f"{uuid.uuid4().hex}/run"))


def names(paths) -> list[str]:
    return sorted(path.name for path in paths)


def test_what_is_written_is_read_and_replaced(folder):
    file = folder / "deep" / "file.bin"
    for content in (b"old", b"", b"new and longer", bytes(range(256))):
        write_atomic(file, content)
        assert file.read_bytes() == content and file.stat().st_size == len(content)
    assert file.exists() and file.is_file() and not file.is_dir()
    assert names(file.parent.iterdir()) == ["file.bin"], "no temporary file is left"
    assert abs(file.stat().st_mtime - time.time()) < 60


def test_folders_are_listed(folder):
    for name in ("part-1.parquet", "part-2.parquet", "other.json", "sub/part-3.parquet", "sub/deeper/x"):
        write_atomic(folder / name, b"x")
    assert names(folder.iterdir()) == ["other.json", "part-1.parquet", "part-2.parquet", "sub"]
    assert names(folder.glob("part-*.parquet")) == ["part-1.parquet", "part-2.parquet"]
    assert names(folder.glob("*")) == names(folder.iterdir()) and names(folder.glob("part-?.json")) == []
    assert sorted(folder.glob("part-*"))[0] == folder / "part-1.parquet"
    assert folder.is_dir() and (folder / "sub").is_dir() and (folder / "sub" / "deeper").exists()
    assert not (folder / "sub").is_file() and not (folder / "su").exists()


def test_files_are_removed(folder):
    file = folder / "file"
    write_atomic(file, b"x")
    write_atomic(folder / "other", b"y")
    file.unlink()
    assert not file.exists() and names(folder.iterdir()) == ["other"]
    file.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError) as error:
        file.unlink()
    assert str(error.value.filename) == str(file)


@pytest.mark.parametrize(
    "operation",
    [lambda path: path.read_bytes(), lambda path: list(path.iterdir()), lambda path: path.stat(), set_aside],
    ids=["read_bytes", "iterdir", "stat", "set_aside"],
)
def test_what_is_missing_is_named(folder, operation):
    missing = folder / "absent"
    with pytest.raises(FileNotFoundError) as error:
        operation(missing)
    assert str(error.value.filename) == str(missing)
    assert not missing.exists() and not missing.is_file() and not missing.is_dir() and list(missing.glob("*")) == []


def test_parts_of_a_path(folder):
    path = folder / "traces" / "0f3a.fp32.npy"
    assert (path.name, path.stem, path.suffix) == ("0f3a.fp32.npy", "0f3a.fp32", ".npy")
    assert path.parent == folder / "traces" and path.parent.name == "traces"
    assert path.with_name("x") == folder / "traces" / "x" == folder / "traces/x"
    assert path.absolute() == path and str(path) != str(path.parent)
    assert len({path, folder / "traces" / "0f3a.fp32.npy", path.parent}) == 2


def test_a_path_travels(folder):
    write_atomic(folder / "file", b"content")
    copy = pickle.loads(pickle.dumps(folder / "file"))
    assert copy == folder / "file" and hash(copy) == hash(folder / "file") and copy.read_bytes() == b"content"


def test_files_and_folders_are_set_aside_in_place_of_older_ones(folder):
    for generation in (b"first", b"second"):
        for name in ("trial/manifest.json", "trial/deep/er/weights", f"trial/{generation.decode()}", "file.json"):
            write_atomic(folder / name, generation)
        write_atomic(folder / "trial2" / "near", b"by")
        assert set_aside(folder / "trial") == folder / "trial.damaged"
        assert set_aside(folder / "file.json") == folder / "file.json.damaged"
        assert names(folder.iterdir()) == ["file.json.damaged", "trial.damaged", "trial2"]
        assert names((folder / "trial.damaged").iterdir()) == sorted(["deep", "manifest.json", generation.decode()])
    assert (folder / "trial.damaged" / "deep" / "er" / "weights").read_bytes() == b"second"
    assert (folder / "file.json.damaged").read_bytes() == b"second" and (folder / "trial2" / "near").exists()


def test_large_files(folder):
    content = os.urandom(1 << 20) * 11
    write_atomic(folder / "large", b"old")
    write_atomic(folder / "large", content)
    assert (folder / "large").stat().st_size == len(content) and (folder / "large").read_bytes() == content


def test_odd_names(folder):
    for name in ODD_NAMES:
        write_atomic(folder / name, name.encode())
    assert names(folder.iterdir()) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert (folder / name).read_bytes() == name.encode() and (folder / name).name == name
        assert location(str(folder / name)).read_bytes() == name.encode()


def test_a_local_copy_can_be_mapped(folder):
    file = folder / "trace.npy"
    write_atomic(file, b"0123456789")
    copy = as_local_file(file)
    with copy.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[3:5] == b"34"
    assert copy.suffix == ".npy" and as_local_file(file) == copy
    if isinstance(folder, Path):
        assert copy == file
        return
    write_atomic(file, b"9876543210")
    assert as_local_file(file).read_bytes() == b"9876543210"
    with pytest.raises(FileNotFoundError):
        as_local_file(folder / "absent")


def test_readers_see_the_old_content_or_the_new(folder):
    def content(number: int) -> bytes:
        return f"{number}:".encode() + b"x" * (number % 2 * 5000)

    def write() -> None:
        for number in range(1, last + 1):
            before = len(seen)
            while len(seen) == before:  # a slow machine must not write ten times between two reads
                time.sleep(0.01)
            write_atomic(file, content(number))

    file, last, seen = folder / "manifest.json", 10, []
    write_atomic(file, content(0))
    writer = threading.Thread(target=write)
    writer.start()
    while not seen or seen[-1] != content(last):
        seen.append(file.read_bytes())
        assert writer.is_alive() or file.read_bytes() == content(last)
    writer.join()
    numbers = [int(data.partition(b":")[0]) for data in seen]
    assert seen == [content(number) for number in numbers] and numbers == sorted(numbers) and len(set(numbers)) > 3


# What a location is called


def test_uris_make_the_same_path_again():
    text = "s3://bucket/a/b?endpoint_override=http://127.0.0.1:5000&region=eu-west-3"
    path = location(text)
    assert str(path) == text and location(str(path / "c")) == path / "c" and f"{path.parent}" in repr(path.parent)
    assert location("s3://bucket/a?endpoint_override=http://h&region=x") == location(
        "S3://bucket//a/?region=x&endpoint_override=http://h"
    )
    assert location("s3://bucket/a") != location("s3://bucket/a?region=x")
    assert str(location("gs://bucket/a/")) == "gs://bucket/a" and location("gs://bucket").parent == location(
        "gs://bucket"
    )
    assert str(location("s3://bucket/a b%20c") / "50%") == "s3://bucket/a%20b%20c/50%25"


def test_local_locations():
    assert location("runs/a") == Path("runs/a") and location("~/runs") == Path.home() / "runs"
    assert location("file:///tmp/a%20b") == Path("/tmp/a b") and location("/a:b") == Path("/a:b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ftp://host/folder", "s3://bucket"),
        ("s3a://bucket/folder", "s3://bucket"),
        ("://bucket", "s3://bucket"),
        ("s3://", "needs a bucket"),
        ("s3:///folder", "needs a bucket"),
        ("gs://?region=x", "needs a bucket"),
        ("gs://bucket/x?project_id=y", "'project_id': it has none"),
        ("s3://b*d/folder", "needs a bucket"),
        ("file://folder", "file:///folder"),
        ("s3://bucket/x?allow_bucket_creation=true", "'allow_bucket_creation': it has endpoint_override, region"),
        ("gs://bucket/x?region=eu", "'region'"),
        ("az://container/x?region=eu", "'region': it has none"),
        ("az://container@account/x", "holds no credentials"),
        ("s3://bucket/x?endpoint_override=127.0.0.1:80", "http:// or https://"),
        ("s3://bucket/a/../../other", "below s3://bucket"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(text, told):
    with pytest.raises(ValueError, match=r"\w") as error:
        location(text)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", ".."])
def test_a_path_stays_in_its_bucket(name):
    with pytest.raises(ValueError, match="below s3://bucket/a"):
        location("s3://bucket/a") / name


@pytest.mark.parametrize(
    "text",
    [
        "s3://NAME:SECRET@bucket/x",
        "s3://SECRET@bucket/x",
        "s3://NAME:SEC/RET@bucket/x",
        "s3://NAME:SEC?RET@bucket/x",
        "s3://bucket/x?access_key=SECRET&secret_key=SECRET",
        "s3://bucket/x?endpoint_override=https://NAME:SECRET@host",
        "gs://NAME:SECRET@bucket/x",
        "ftp://NAME:SECRET@host/x",
    ],
)
def test_credentials_are_refused_and_never_shown(text):
    with pytest.raises(ValueError, match=r"\w") as error:
        location(text)
    shown = f"{error.value!r}"
    assert not any(secret in shown for secret in ("SEC", "RET", "NAME"))


# Local file systems


def test_nothing_is_renamed_from_one_folder_to_another(tmp_path, monkeypatch):
    """On network file systems, and between disks, that is no atomic act or fails."""

    def within_one_folder(real):
        def operate(source, target, **kwargs):
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
            return real(source, target, **kwargs)

        return operate

    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, within_one_folder(getattr(os, name)))
    with pytest.raises(OSError, match="cross-device"):
        tmp_path.rename(tmp_path.parent.parent / "elsewhere")
    for content in (b"old", b"new"):
        write_atomic(tmp_path / "trial" / "file", content)
        write_atomic(tmp_path / "file", content)
        set_aside(tmp_path / "trial")
        set_aside(tmp_path / "file")
    assert names(tmp_path.iterdir()) == ["file.damaged", "trial.damaged"]
    assert (tmp_path / "trial.damaged" / "file").read_bytes() == b"new"
