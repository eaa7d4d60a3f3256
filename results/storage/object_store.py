"""Connections to object stores, and patience with them.

What pyarrow raises for S3 was found by trying: FileNotFoundError for some requests only (of a bucket that is missing,
some give a plain OSError), and plain OSErrors with the reason in their text for all else, from a wrong key to a dropped
connection. For GCS it raises Python's own errors.
"""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

PATIENCE_SECONDS = 30.0
"""From the first failure of an operation until it is not tried again."""

OPTIONS: Mapping[str, frozenset[str]] = {
    "gs": frozenset({"endpoint_override", "project_id", "scheme"}),
    "s3": frozenset({"endpoint_override", "region", "scheme"}),
}
"""Schemes of the stores that can be used, and what may follow the ``?`` of their URIs."""

Options = tuple[tuple[str, str], ...]

_LASTING = {
    errno.ENOENT: re.compile(r"AWS Error NO_SUCH_(BUCKET|KEY) "),
    errno.EACCES: re.compile(
        r"AWS Error (ACCESS_DENIED|INVALID_(ACCESS_KEY_ID|CLIENT_TOKEN_ID|SIGNATURE)|MISSING_AUTHENTICATION_TOKEN"
        r"|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT|UNKNOWN \(HTTP status 40[13]\)) "
    ),
    errno.EIO: re.compile(r"AWS Error UNKNOWN \(HTTP status (3|4(?!08|29))\d+\) "),
}
"""Errors that no repeat mends, by what they mean. NO_SUCH_UPLOAD is not among them: whoever repeats the completion of a
multipart upload because the first answer was lost is told so, and a new upload mends it."""

_JITTER = random.Random()  # its own generator: the seeds of a study stay untouched
_T = TypeVar("_T")


def persistently(operation: Callable[[], _T], name: str) -> _T:
    """Carry out an operation, again and again with growing pauses while it fails for reasons that may pass.

    Args:
        operation: may be repeated without harm, also after it was carried out and only the answer was lost.
        name: what it works on, for the error.

    Raises:
        FileNotFoundError, PermissionError: at once.
        OSError: another lasting error at once, any other after ``PATIENCE_SECONDS``. ``filename`` is ``name``.
    """
    pause, deadline = 0.25, float("inf")
    while True:
        try:
            return operation()
        except OSError as error:
            failure, lasting = _understood(error, name)
            deadline = min(deadline, time.monotonic() + PATIENCE_SECONDS)
            if lasting or time.monotonic() + pause > deadline:
                raise failure from error
        time.sleep(pause * _JITTER.uniform(0.5, 1.0))
        pause = min(2 * pause, 5.0)


def _understood(error: OSError, name: str) -> tuple[OSError, bool]:
    """A store's error as Python's own of that meaning, and whether it would be the same next time."""
    if error.errno is not None:
        return OSError(error.errno, os.strerror(error.errno), name), True
    text = str(error).splitlines()[0]
    for number, pattern in _LASTING.items():
        if pattern.search(text):
            return OSError(number, text, name), True
    return OSError(errno.EIO, text, name), False


def connect(root: str, options: Options) -> tuple[Any, str]:
    """The ``pyarrow.fs.FileSystem`` of a bucket and the path of the bucket on it; opened once a process.

    Args:
        root: ``s3://bucket``, ``gs://bucket``, or any other URI that pyarrow opens.
        options: of the first two, as in ``OPTIONS``.
    """
    scheme, _, bucket = root.partition("://")
    given = dict(options)
    environment = os.environ.get
    if scheme == "s3":
        # Only pyarrow's own reading of URIs looks at these variables, not its S3FileSystem.
        endpoint = environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
        region = given.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
        return _s3(bucket, given.get("endpoint_override") or endpoint, given.get("scheme"), region), bucket
    if scheme == "gs":
        return _gcs(given.get("endpoint_override"), given.get("scheme"), given.get("project_id")), bucket
    return _other(root)


@lru_cache(maxsize=64)
def _s3(bucket: str, endpoint: str | None, scheme: str | None, region: str | None) -> Any:
    from pyarrow import fs  # here and elsewhere: programs that work on local files need no pyarrow

    if endpoint is None and region is None:
        region = fs.resolve_s3_region(bucket)
    endpoint_scheme, host = _scheme_and_host(endpoint)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=host,
        scheme=scheme or endpoint_scheme or "https",
        connect_timeout=5,
        request_timeout=5,  # without a byte; holds on Linux too, where pyarrow's documentation says otherwise
        # A few quick attempts a request: the long pauses are made by `persistently`, where they can be interrupted.
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=3),
        allow_delayed_open=True,  # without it the smallest object is a multipart upload of three requests
    )


@lru_cache(maxsize=64)
def _gcs(endpoint: str | None, scheme: str | None, project: str | None) -> Any:
    from pyarrow import fs

    endpoint_scheme, host = _scheme_and_host(endpoint)
    return fs.GcsFileSystem(
        endpoint_override=host,
        scheme=scheme or endpoint_scheme or "https",
        project_id=project,
        retry_time_limit=timedelta(seconds=5),
    )


@lru_cache(maxsize=64)
def _other(root: str) -> tuple[Any, str]:
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(root)
    return filesystem, str(path)


def _scheme_and_host(endpoint: str | None) -> tuple[str | None, str | None]:
    if endpoint is None or "://" not in endpoint:
        return None, endpoint
    scheme, _, host = endpoint.partition("://")
    return scheme, host.rstrip("/")
