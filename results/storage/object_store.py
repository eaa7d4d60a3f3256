"""Connections to object stores through the library obstore, and the errors of their requests."""

from __future__ import annotations

import errno
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

RETRY_SECONDS = 30.0
"""A request that fails for a reason that may pass is repeated for this time, with growing pauses."""

OPTIONS: Mapping[str, frozenset[str]] = {
    "gs": frozenset({"endpoint_override", "scheme"}),
    "s3": frozenset({"endpoint_override", "region", "scheme"}),
}
"""The URI schemes of the stores, and the options that may follow the ``?`` of a URI."""

Options = tuple[tuple[str, str], ...]

_STATUS = re.compile(r"status code: (\d{3})")
_STORE_ERROR = re.compile(r"<Code>(.*?)</Code><Message>(.*?)</Message>")
_ERRNO = {"401": errno.EACCES, "403": errno.EACCES, "404": errno.ENOENT}
_T = TypeVar("_T")


def request(operation: Callable[[], _T], name: str) -> _T:
    """Carry out requests to a store in a thread of their own, so that a signal is handled while the store is silent.

    Args:
        operation: calls obstore, which repeats each failed request for up to ``RETRY_SECONDS``.
        name: the path that the operation works on, for the error.

    Raises:
        FileNotFoundError: the object or the bucket does not exist.
        PermissionError: the store refuses access.
        OSError: any other error, with ``errno.EIO``. ``filename`` is ``name`` for all three.
    """
    from obstore.exceptions import BaseError

    answer: Future[_T] = Future()

    def work() -> None:
        try:
            answer.set_result(operation())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result()
    except (BaseError, FileNotFoundError) as error:
        raise _as_os_error(error, name) from None


def _as_os_error(error: Exception, name: str) -> OSError:
    # The error of a listing has no class of its own for a status: the text tells the status.
    text = str(error).partition("\n\nDebug source")[0]
    status = _STATUS.search(text)
    number = _ERRNO.get(status[1], errno.EIO) if status else errno.EIO
    if isinstance(error, FileNotFoundError):
        number = errno.ENOENT
    told = _STORE_ERROR.search(text)
    if told and told[1] != "NoSuchKey":
        reason = f"{told[2].rstrip('.')} ({told[1]})"
    elif number == errno.EIO:
        reason = " ".join(text.partition("<")[0].rstrip(": ").split())
    else:
        reason = os.strerror(number)
    return OSError(number, reason, name)


def connect(root: str, options: Options) -> Any:
    """The obstore store of a bucket; each bucket is opened once in a process.

    Args:
        root: ``s3://bucket`` or ``gs://bucket``.
        options: names and values of ``OPTIONS``. Without an option ``endpoint_override`` or ``region`` the environment
            variables ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION`` and ``AWS_DEFAULT_REGION`` count.

    Raises:
        OSError: the region of the bucket cannot be found, or a profile of credentials cannot be read.
    """
    scheme, _, bucket = root.partition("://")
    given = dict(options)
    environment = os.environ.get
    if scheme == "gs":
        return _gcs(bucket, _url(given.get("endpoint_override"), given.get("scheme")))
    endpoint = (
        given.get("endpoint_override") or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL") or None
    )
    region = given.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION") or None
    return _s3(bucket, _url(endpoint, given.get("scheme")), region)


def _url(endpoint: str | None, scheme: str | None) -> str | None:
    if endpoint is None:
        return None
    own_scheme, mark, host = endpoint.rpartition("://")
    return f"{scheme or (own_scheme if mark else 'https')}://{host.rstrip('/')}"


@lru_cache(maxsize=64)
def _s3(bucket: str, endpoint: str | None, region: str | None) -> Any:
    from obstore.store import S3Store  # here: programs that work on local files need no obstore

    if region is None:
        region = "us-east-1" if endpoint else _region_of(bucket)
    config: Any = {"region": region, "disable_bulk_delete": True}  # not all stores delete several objects at once
    if endpoint:
        config["endpoint"] = endpoint
    return S3Store(bucket, config=config, credential_provider=_profile_credentials(), **_patience(endpoint))


@lru_cache(maxsize=64)
def _gcs(bucket: str, endpoint: str | None) -> Any:
    from obstore.store import GCSStore

    config: Any = {"base_url": endpoint} if endpoint else {}
    return GCSStore(bucket, config=config, **_patience(endpoint))


def _patience(endpoint: str | None) -> dict[str, Any]:
    return {
        "client_options": {
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=30),
            "timeout": timedelta(minutes=10),  # of a whole request
        },
        "retry_config": {
            "max_retries": 100,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
        },
    }


def _profile_credentials() -> Any:
    """The credentials of a profile in ``~/.aws``; None where obstore finds others: the environment, a machine's role.

    Raises:
        PermissionError: there is a profile, and boto3, which reads profiles, is missing or finds no credentials.
    """
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    has_profile = "AWS_PROFILE" in os.environ or Path(file).expanduser().exists()
    if "AWS_ACCESS_KEY_ID" in os.environ or not has_profile:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider

        return Boto3CredentialProvider()
    except ModuleNotFoundError:
        reason = "a profile of AWS credentials is read by boto3: pip install boto3, or set AWS_ACCESS_KEY_ID"
    except Exception as error:  # botocore has a class of its own for each mistake in a profile
        reason = f"the profile of AWS credentials cannot be used: {error}"
    raise PermissionError(errno.EACCES, reason, file)


def _region_of(bucket: str) -> str:
    """The region of a bucket of Amazon's, which every answer of S3 tells, refusals included."""
    asked = urllib.request.Request(f"https://s3.amazonaws.com/{bucket}", method="HEAD")
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            region = answer.headers.get("x-amz-bucket-region")
    except urllib.error.HTTPError as error:
        region = error.headers.get("x-amz-bucket-region")
    except OSError:
        region = None
    if not region:
        raise OSError(errno.EIO, "the region of the bucket cannot be found: set AWS_REGION", f"s3://{bucket}")
    return str(region)
