"""From a request to images: the body within its limit, its files, and the squares that the model takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from search_spaces.words import printable, short
from study.data.image_files import UnreadableImagesError, read_square
from study.data.pixels import Pixels
from study.deploy.folder import Preprocessing
from study.deploy.images import square_of
from study.deploy.serving.limits import BODIES_AT_ONCE, Limits, RefusedError

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a malformed form is told to its client alone


@dataclass(frozen=True)
class Upload:
    """A file of a request."""

    name: str | None
    """As the client says; None for an image that is the whole body."""
    content: bytes


class Uploads:
    """Reads the bodies of requests, and counts the bytes that are held for all of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[list[Upload], None]:
        """The files of a request: the parts of a form, or the body itself. Inside, their bytes count as held.

        Raises:
            RefusedError: the body is too large, too slow, malformed, or holds no file or too many.
        """
        body = await self._body(request)
        try:
            if not request.headers.get("content-type", "").lower().startswith("multipart/"):
                found = [Upload(None, body)] if body else []
            else:
                found = await self._files(request, body)
            if not found:
                reason = "the request holds no image: send files as multipart/form-data, or one as the body"
                raise RefusedError(400, reason)
            yield found
        finally:
            self._held -= len(body)

    async def _body(self, request: Request) -> bytes:
        """The body, whose bytes then count as held."""
        most, held = self._limits.body_bytes, 0
        large = RefusedError(413, f"the body is larger than {most} bytes")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise large
        chunks = []
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    held += len(chunk)
                    self._held += len(chunk)
                    if held > most:
                        raise large
                    if self._held > BODIES_AT_ONCE * most:
                        raise RefusedError(503, "the server is busy: try again later")
                    chunks.append(chunk)
            held = 0  # the caller takes the bytes back
            return b"".join(chunks)
        except TimeoutError:
            raise RefusedError(408, f"the body took longer than {self._limits.body_seconds:g} seconds") from None
        except ClientDisconnect:
            raise RefusedError(400, "the client went away") from None
        finally:
            self._held -= held

    async def _files(self, request: Request, body: bytes) -> list[Upload]:
        async def whole() -> AsyncGenerator[bytes, None]:
            yield body

        most = self._limits.images
        unreadable = RefusedError(400, "the form cannot be read (a name is not in its charset)")
        try:
            form = await MultiPartParser(request.headers, whole(), max_files=most).parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise RefusedError(413, f"the request holds more than {most} images") from None
            raise RefusedError(400, f"the form cannot be read ({short(error.message, 200)})") from None
        except UnicodeError:
            raise unreadable from None
        files = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
        try:
            "".join(file.filename or "" for file in files).encode()  # an answer repeats the names
            return [Upload(file.filename or "", await file.read()) for file in files]
        except UnicodeError:
            raise unreadable from None
        finally:
            await form.close()


class _TooManyPixelsError(Exception):
    pass


def square_of_upload(upload: Upload, how: Preprocessing, most_pixels: int) -> Pixels:
    """The pixels that the model takes of a file.

    Raises:
        RefusedError: the file is no image, a damaged one, or one with too many pixels.
    """

    def prepare(image: Image.Image) -> Pixels:
        if image.width * image.height > most_pixels:  # said by the head of the file: nothing is decoded yet
            raise _TooManyPixelsError(f"more than {most_pixels} pixels")
        return square_of(image, how)

    name = "of the body" if upload.name is None else printable(short(upload.name))
    try:
        return read_square(BytesIO(upload.content), prepare, name=name)
    except UnreadableImagesError as error:
        cause = error.__cause__
        bomb = isinstance(cause, (_TooManyPixelsError, Image.DecompressionBombError, Image.DecompressionBombWarning))
        status = 413 if bomb else 415 if isinstance(cause, UnidentifiedImageError) else 400
        raise RefusedError(status, f"cannot read image {short(error.problems[0], 300)}") from None
