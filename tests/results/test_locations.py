"""Locations: one contract for local paths and object stores, over good lines and bad; what ``location()`` refuses."""

import errno
import mmap
import os
import pickle
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path, PurePosixPath

import pytest
from pyarrow import fs

from results.storage import object_store as object_stores
from results.storage.atomic import write_atomic
from results.storage.paths import RemotePath, as_local_file, location, modified, set_aside, size_of

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


@pytest.fixture(params=["local", "pyarrow local", "s3", "s3 over a bad line"])
def folder(request, tmp_path):
    """An empty folder of every kind."""
    if request.param == "local":
        return tmp_path
    if request.param == "pyarrow local":
        return RemotePath(f"file://{tmp_path}", PurePosixPath())
    endpoint = request.getfixturevalue("s3" if request.param == "s3" else "bad_line")
    return location(endpoint.uri(f"{uuid.uuid4().hex}/run"))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(object_stores, "PATIENCE_SECONDS", 0.5)


def names(paths) -> list[str]:
    return sorted(path.name for path in paths)


def test_what_is_written_is_read_and_replaced(folder):
    file = folder / "deep" / "file.bin"
    for content in (b"old", b"", b"new and longer", bytes(range(256))):
        write_atomic(file, content)
        assert file.read_bytes() == content and size_of(file) == len(content)
    assert file.exists() and file.is_file() and not file.is_dir()
    assert names(file.parent.iterdir()) == ["file.bin"], "no temporary file is left"
    write_atomic(file, "θ".encode())
    assert file.read_text(encoding="utf-8") == "θ"
    assert abs(modified(file) - time.time()) < 60


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
    [lambda path: path.read_bytes(), lambda path: list(path.iterdir()), size_of, modified, set_aside],
    ids=["read_bytes", "iterdir", "size_of", "modified", "set_aside"],
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
    assert path.absolute() == path == path.expanduser() and str(path) != str(path.parent)
    assert len({path, folder / "traces" / "0f3a.fp32.npy", path.parent}) == 2


def test_a_path_travels(folder):
    write_atomic(folder / "file", b"content")
    copy = pickle.loads(pickle.dumps(folder / "file"))
    assert copy == folder / "file" and hash(copy) == hash(folder / "file") and copy.read_bytes() == b"content"


def test_folders_can_be_made_before_they_are_filled(folder):
    deep = folder / "a" / "b"
    deep.mkdir(parents=True, exist_ok=True)
    write_atomic(deep / "file", b"x")
    deep.mkdir(parents=True, exist_ok=True)
    with pytest.raises(FileExistsError):
        deep.mkdir()


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
    assert size_of(folder / "large") == len(content) and (folder / "large").read_bytes() == content


def test_odd_names(folder):
    for name in ODD_NAMES:
        write_atomic(folder / name, name.encode())
    assert names(folder.iterdir()) == sorted(ODD_NAMES)
    for name in ODD_NAMES:
        assert (folder / name).read_bytes() == name.encode() and (folder / name).name == name
        assert location(str(folder / name)).read_bytes() == name.encode()


def test_a_local_copy_can_be_mapped(folder, tmp_path):
    file = folder / "trace.npy"
    write_atomic(file, b"0123456789")
    for cache in (None, tmp_path / "cache"):
        copy = as_local_file(file, cache)
        with copy.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[3:5] == b"34"
        assert copy.suffix == ".npy" and as_local_file(file, cache) == copy
    if isinstance(folder, Path):
        assert copy == file
        return
    assert copy.parent == tmp_path / "cache" and names(copy.parent.iterdir()) == [copy.name]
    write_atomic(file, b"9876543210")
    assert as_local_file(file, tmp_path / "cache").read_bytes() == b"9876543210"
    with pytest.raises(FileNotFoundError):
        as_local_file(folder / "absent")


@pytest.mark.parametrize("folder", ["local", "s3", "s3 over a bad line"], indirect=True)
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


def test_an_object_that_grows_between_the_requests_of_a_reader_is_read_whole(s3):
    """pyarrow asks for the size, then for that many bytes: by itself it would give the beginning of the new object."""
    name = uuid.uuid4().hex
    with s3.faulty({}) as line:
        file, same_file = location(line.uri(name)) / "file", location(s3.uri(name)) / "file"
        file.write_bytes(b"old")

        def replace_once(request: str) -> None:
            if request.startswith("GET"):
                line.before = None
                same_file.write_bytes(b"new and longer")

        line.before = replace_once
        assert file.read_bytes() == b"new and longer" and line.before is None


# Bad lines


def test_every_kind_of_fault_is_outlived(s3):
    with s3.faulty(dict.fromkeys(BAD_LINE, 0.08) | {"429": 0.08}, seed=1) as line:
        folder = location(line.uri(uuid.uuid4().hex))
        for number in range(15):
            (folder / f"{number}").write_bytes(str(number).encode())
        for number in range(0, 15, 2):
            (folder / f"{number}").unlink()
        left = sorted(str(number) for number in range(1, 15, 2))
        assert names(folder.iterdir()) == left
        assert [(folder / name).read_bytes() for name in left] == [name.encode() for name in left]
        assert set(line.injected) == {*BAD_LINE, "429"} and line.injected.total() > 20
    assert names(location(s3.uri(folder.name)).iterdir()) == left


@pytest.mark.parametrize("fault", ["lost answer", "500"])
@pytest.mark.parametrize("request_", ["^PUT .*partNumber=2", "^POST .*uploads$", "^POST .*uploadId="])
def test_an_upload_in_parts_outlives_a_fault_in_any_of_its_steps(s3, fault, request_):
    with s3.faulty({fault: 1.0}) as line:
        file = location(line.uri(uuid.uuid4().hex)) / "large"
        line.only, line.limit = request_, 3
        content = os.urandom(1 << 20) * 11
        file.write_bytes(content)
        assert line.injected == {fault: 3} and file.read_bytes() == content


def test_a_failed_upload_leaves_the_old_content(s3, impatient):
    with s3.faulty({"lost request": 1.0}) as line:
        file = location(line.uri(uuid.uuid4().hex)) / "large"
        line.only = "partNumber=2"
        file.write_bytes(b"old")
        with pytest.raises(OSError, match="NETWORK_CONNECTION") as error:
            file.write_bytes(bytes(11 << 20))
        assert error.value.filename == str(file)
        assert file.read_bytes() == b"old" and names(file.parent.iterdir()) == ["large"]


def test_a_removal_whose_answer_is_lost_is_no_error(s3):
    with s3.faulty({"lost answer": 1.0}) as line:
        file = location(line.uri(uuid.uuid4().hex)) / "file"
        line.only, line.limit = "^DELETE", 6
        file.write_bytes(b"x")
        file.unlink()
        assert line.injected.total() >= 4 and not file.exists()


def test_setting_aside_outlives_lost_answers(s3):
    with s3.faulty({"lost answer": 0.4}, seed=2) as line:
        folder, direct = location(line.uri(uuid.uuid4().hex)), location(s3.uri())
        for name in ("a", "b", "c/d"):
            (direct / folder.name / name).write_bytes(name.encode())
        set_aside(folder)
        assert line.injected.total() > 5
    assert not (direct / folder.name).exists()
    aside = direct / f"{folder.name}.damaged"
    assert names(aside.files_below()) == ["a", "b", "d"] and (aside / "c" / "d").read_bytes() == b"c/d"


OPERATIONS = {
    "write": lambda path: path.write_bytes(b"x"),
    "read": lambda path: path.read_bytes(),
    "list": lambda path: list(path.iterdir()),
    "exists": lambda path: path.exists(),
    "unlink": lambda path: path.unlink(missing_ok=True),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("fault", "kind"), [("403", PermissionError), ("400", OSError)])
def test_lasting_errors_are_raised_at_once(s3, operation, fault, kind):
    with s3.faulty({fault: 1.0}) as line:
        path = location(line.uri("some/file"))
        with pytest.raises(kind, match=str(path).partition("?")[0]) as error:
            OPERATIONS[operation](path)
        assert error.value.filename == str(path) and len(line.requests) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", ["503", "lost request"])
def test_a_store_that_stays_away_is_an_error_that_names_the_path(s3, impatient, operation, fault):
    with s3.faulty({fault: 1.0}) as line:
        path = location(line.uri("some/file"))
        with pytest.raises(OSError, match="s3://study/some/file") as error:
            OPERATIONS[operation](path)
        assert error.value.errno == errno.EIO and error.value.filename == str(path) and len(line.requests) > 3


def test_a_missing_bucket_is_told_and_not_made(s3):
    file = location(s3.uri("folder/file", bucket="absent"))
    for operation in (
        lambda: file.write_bytes(b"x"),
        file.read_bytes,
        lambda: list(file.parent.iterdir()),
        file.unlink,
    ):
        with pytest.raises(FileNotFoundError, match="s3://absent/folder"):
            operation()
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        file.write_bytes(b"x")
    assert not file.exists()


# How a store is reached


def test_endpoints_may_come_from_the_environment(s3, monkeypatch):
    folder = uuid.uuid4().hex
    (location(s3.uri(folder)) / "file").write_bytes(b"x")
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, s3.url)
            path = location(f"s3://study/{folder}/file")
            assert path.read_bytes() == b"x" and str(path) == f"s3://study/{folder}/file"
    plain = location(f"s3://study/{folder}/file?scheme=http&endpoint_override=127.0.0.1:{s3.port}&region=us-east-1")
    assert plain.read_bytes() == b"x"


def test_the_region_of_a_bucket_is_asked_for_where_nobody_tells_it(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fs, "resolve_s3_region", lambda bucket: {"bucket-in-paris": "eu-west-3"}[bucket])
    assert object_stores.connect("s3://bucket-in-paris", ())[0].region == "eu-west-3"
    assert object_stores.connect("s3://bucket-in-paris", (("region", "eu-north-1"),))[0].region == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert object_stores.connect("s3://bucket-in-paris", ())[0].region == "eu-west-1"


def test_google_storage_is_opened():
    store, bucket = object_stores.connect("gs://bucket", (("endpoint_override", "http://127.0.0.1:1"),))
    assert store.type_name == "gcs" and bucket == "bucket"


def test_uris_make_the_same_path_again():
    text = "s3://bucket/a/b?endpoint_override=http://127.0.0.1:5000&region=eu-west-3&scheme=http"
    path = location(text)
    assert str(path) == text and location(str(path / "c")) == path / "c" and f"{path.parent}" in repr(path.parent)
    assert location("s3://bucket/a?scheme=http&region=x") == location("S3://bucket//a/?region=x&scheme=http")
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
        ("gs://?project_id=x", "needs a bucket"),
        ("s3://b*d/folder", "needs a bucket"),
        ("file://folder", "file:///folder"),
        ("s3://bucket/x?allow_bucket_creation=true", "'allow_bucket_creation', only endpoint_override, region, scheme"),
        ("gs://bucket/x?region=eu", "'region'"),
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


def test_copies_are_removed_at_the_end_of_the_process(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    program = (
        "import sys; from pathlib import PurePosixPath; from results.storage.paths import RemotePath, as_local_file\n"
        "copy = as_local_file(RemotePath('file://' + sys.argv[1], PurePosixPath('file')))\n"
        "assert copy.read_bytes() == b'x'; print(copy)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, timeout=60
    )
    copy = Path(run.stdout.strip())
    assert copy.is_absolute() and not copy.parent.exists()


def test_local_files_need_no_pyarrow():
    program = "import sys; import results.storage.atomic, results.storage.paths; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
