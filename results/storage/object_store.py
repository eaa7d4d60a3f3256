"""Connections to object stores through the library obstore, and the errors of their requests."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

CLIENT: Any = {
    "client_options": {
        "allow_http": True,  # an endpoint that the user gives may be http://
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=30),
        "timeout": timedelta(minutes=10),  # of a whole request
    },
    "retry_config": {
        "max_retries": 100,
        "retry_timeout": timedelta(seconds=30),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    },
}
"""The patience of all requests. What fails for a reason that may pass is repeated, with growing pauses."""

OPTIONS: Mapping[str, Sequence[str]] = {"s3": ("endpoint_override", "region"), "gs": ()}
"""The URI schemes of the stores, and the options that may follow the ``?`` of a URI."""

Options = tuple[tuple[str, str], ...]

_STATUS = re.compile(r"status code: (\d{3})")
_STORE_ERROR = re.compile(r"<Code>(.*?)</Code><Message>(.*?)</Message>")
_ERRNO = {"401": errno.EACCES, "403": errno.EACCES, "404": errno.ENOENT}
_T = TypeVar("_T")


def request(operation: Callable[[], _T], name: str) -> _T:
    """Carry out requests to a store in a thread of their own, so that a signal is handled while the store is silent.

    Args:
        operation: calls obstore, which repeats failed requests.
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


@lru_cache(maxsize=64)
def connect(root: str, options: Options) -> Any:
    """The obstore store of a bucket; each bucket is opened once in a process.

    Args:
        root: ``s3://bucket`` or ``gs://bucket``.
        options: names and values of ``OPTIONS``. Without an option ``endpoint_override`` or ``region`` the environment
            variables ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION`` and ``AWS_DEFAULT_REGION`` count.

    Raises:
        OSError: nothing tells the region of a bucket of Amazon's, or the credentials lie in a profile.
    """
    from obstore.store import GCSStore, S3Store  # here: programs that work on local files need no obstore

    scheme, _, bucket = root.partition("://")
    if scheme == "gs":
        return GCSStore(bucket, **CLIENT)
    given, environment = dict(options), os.environ.get
    endpoint = given.get("endpoint_override") or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = given.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    if not (endpoint or region):
        raise OSError(errno.EINVAL, "the region of the bucket is not known: set AWS_REGION", root)
    profiles = Path(environment("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    if not environment("AWS_ACCESS_KEY_ID") and ("AWS_PROFILE" in os.environ or profiles.exists()):
        reason = "profiles of credentials are not read: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise PermissionError(errno.EACCES, f"{reason} (aws configure export-credentials --format env)", root)
    config: Any = {"region": region or "us-east-1", "disable_bulk_delete": True}  # bulk deletes: not in all stores
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    return S3Store(bucket, config=config, **CLIENT)
