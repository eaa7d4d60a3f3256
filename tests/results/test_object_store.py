"""Object stores over bad lines: what is repeated, what is raised; and how a store is reached."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pytest

from results.storage import object_store
from results.storage.paths import location, set_aside

pytest_plugins = ["support.s3_server"]

BAD_LINE = {"500": 0.05, "503": 0.05, "lost request": 0.05, "lost answer": 0.05}


@pytest.fixture
def impatient(monkeypatch):
    """Requests are repeated for a second; each test has an endpoint, so a connection, of its own."""
    monkeypatch.setitem(object_store.CLIENT["retry_config"], "retry_timeout", timedelta(seconds=1))


def test_an_endpoint_that_has_ended_leaves_no_connection_to_a_later_one_at_its_port(s3):
    with s3.faulty({}) as line:
        assert not location(line.uri(uuid.uuid4().hex)).exists()
        assert object_store.connect.cache_info().currsize
    assert not object_store.connect.cache_info().currsize


def names(paths) -> list[str]:
    return sorted(path.name for path in paths)


def test_an_object_that_grows_between_the_requests_of_a_reader_is_read_whole(s3):
    """A client that asks for the size first would give the beginning of the new object."""
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
@pytest.mark.parametrize("request_", ["^PUT .*partNumber=2", "^POST .*uploads=?$", "^POST .*uploadId="])
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
        with pytest.raises(OSError, match="error sending request") as error:
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
    with s3.faulty({"lost answer": 0.6}, seed=2) as line:
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


def test_a_signal_is_handled_while_a_store_is_silent(s3):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with s3.faulty({"503": 1.0}) as line:
            path = location(line.uri("some/file"))
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                path.read_bytes()
            assert time.monotonic() - start < 10
    finally:
        signal.signal(signal.SIGTERM, before)


# Conditional writes


def test_one_of_many_writers_creates_an_object(s3):
    path = location(s3.uri(uuid.uuid4().hex)) / "file"
    versions = {}

    def write(number: int) -> None:
        versions[number] = path.write_if(str(number).encode(), None)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    winners = [number for number, version in versions.items() if version is not None]
    assert len(winners) == 1 and path.read_bytes() == str(winners[0]).encode()


def test_an_object_is_replaced_only_in_the_version_that_the_writer_knows(s3):
    path = location(s3.uri(uuid.uuid4().hex)) / "file"
    first = path.write_if(b"1", None)
    second = path.write_if(b"2", first)
    assert second and path.write_if(b"3", first) is None and path.read_bytes() == b"2"
    path.unlink()
    assert path.write_if(b"4", second) is None and not path.exists()


def test_a_conditional_write_whose_answer_is_lost_counts(s3):
    with s3.faulty({"lost answer": 1.0}) as line:
        path = location(line.uri(uuid.uuid4().hex)) / "file"
        line.only, line.limit = "^PUT", 1
        first = path.write_if(b"1", None)
        line.limit = 2
        second = path.write_if(b"2", first)
        assert line.injected.total() == 2 and first and second and path.read_bytes() == b"2"
        line.limit = 3
        assert path.write_if(b"3", first) is None and path.read_bytes() == b"2"


# How a store is reached


def test_endpoints_may_come_from_the_environment(s3, monkeypatch):
    folder = uuid.uuid4().hex
    (location(s3.uri(folder)) / "file").write_bytes(b"x")
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, s3.url)
            path = location(f"s3://study/{folder}/file")
            assert path.read_bytes() == b"x" and str(path) == f"s3://study/{folder}/file"


def test_a_bucket_of_amazon_needs_a_region(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="set AWS_REGION: 's3://bucket-of-nowhere'"):
        location("s3://bucket-of-nowhere/file").read_bytes()
    assert object_store.connect("s3://bucket-told", (("region", "eu-north-1"),)).config["region"] == "eu-north-1"
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.setenv(name, f"of-{name}")
        assert object_store.connect(f"s3://{name}", ()).config["region"] == f"of-{name}"


@pytest.mark.parametrize("where", ["AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"])
def test_a_profile_of_credentials_is_refused_in_one_line(s3, monkeypatch, tmp_path, where):
    file = tmp_path / "credentials"
    file.touch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(where, str(file))
    with s3.faulty({}) as line, pytest.raises(PermissionError, match="set AWS_ACCESS_KEY_ID"):
        location(line.uri("x")).read_bytes()


def test_google_storage_is_opened():
    assert type(object_store.connect("gs://bucket", ())).__name__ == ("GCSStore")


def test_copies_are_removed_at_the_end_of_the_process(s3, tmp_path):
    file = location(s3.uri(uuid.uuid4().hex)) / "file"
    file.write_bytes(b"x")
    program = (
        "import sys; from results.storage.paths import as_local_file, location\n"
        "copy = as_local_file(location(sys.argv[1]))\n"
        "assert copy.read_bytes() == b'x'; print(copy)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True, timeout=60
    )
    copy = Path(run.stdout.strip())
    assert copy.is_absolute() and not copy.parent.exists()


def test_local_files_need_neither_pyarrow_nor_obstore():
    program = "import sys; import results.storage.atomic, results.storage.paths\n"
    program += "assert not {'pyarrow', 'obstore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
