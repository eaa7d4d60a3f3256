"""The routes of a server: ``POST /classify``, ``/health`` and ``/metrics``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from study.data.image_files import strict_decoder
from study.deploy.early_exit import EarlyExit
from study.deploy.serving.batching import Answer, Batcher
from study.deploy.serving.limits import Limits, RefusedError
from study.deploy.serving.metrics import CONTENT_TYPE, Metrics
from study.deploy.serving.uploads import Upload, Uploads, square_of_upload

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_DECODERS = 4
"""Threads that decode images."""


def build_app(
    model: EarlyExit, limits: Limits, *, batch_size: int, wait_seconds: float, hosts: Sequence[str] = ("*",)
) -> Starlette:
    """The application that serves a model.

    Args:
        model: that answers.
        limits: of requests.
        batch_size, wait_seconds: of a :class:`Batcher`.
        hosts: names under which the server is asked (the header ``Host``). A page of a stranger can let its own name
            stand for the address of this machine.
    """
    server = _Server(model, limits, batch_size, wait_seconds)
    routes = [
        Route("/classify", server.classify, methods=["POST"]),
        Route("/health", server.health),
        Route("/metrics", server.metrics_text),
    ]
    return Starlette(
        routes=routes,
        lifespan=server.lifespan,
        exception_handlers={HTTPException: _refuse_route, RefusedError: _refuse},  # type: ignore[dict-item]
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
    )


class _Server:
    def __init__(self, model: EarlyExit, limits: Limits, batch_size: int, wait_seconds: float) -> None:
        self.model, self.limits, self.uploads = model, limits, Uploads(limits)
        self.metrics = Metrics(model.exit_count, model.classic_flops, lambda: self.batcher.waiting)
        self.batcher = Batcher(
            model,
            batch_size=batch_size,
            wait_seconds=wait_seconds,
            queued_images=limits.queued_images,
            told=self.metrics.answered,
        )
        self.decoders = ThreadPoolExecutor(max_workers=_DECODERS, thread_name_prefix="decoder")

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None, None]:
        """From the first request to the last one."""
        try:
            with strict_decoder():
                yield
        finally:
            self.decoders.shutdown()
            self.batcher.close()

    async def classify(self, request: Request) -> Response:
        """The answers for the images of a request, in their order."""
        start, status = time.perf_counter(), 500
        try:
            names, coming = await self._submitted(request)
            answers = await asyncio.gather(*map(asyncio.wrap_future, coming))
            status = 200
            rows = [_row(name, answer) for name, answer in zip(names, answers, strict=True)]
            return JSONResponse({"answers": rows}, headers=_HEADERS)
        except RefusedError as error:
            status = error.status
            raise
        finally:
            self.metrics.ended(status, time.perf_counter() - start)

    async def _submitted(self, request: Request) -> tuple[list[str | None], list[Future[Answer]]]:
        """The names of the images of a request, and their answers to come. The files are no longer held."""
        with self.batcher.expected():
            async with self.uploads.read(request) as uploads:
                return [one.name for one in uploads], self.batcher.submit(await self._squares(uploads))

    async def _squares(self, uploads: Sequence[Upload]) -> list[Any]:
        loop, how, most = asyncio.get_running_loop(), self.model.preprocessing, self.limits.image_pixels
        decoding = [loop.run_in_executor(self.decoders, square_of_upload, one, how, most) for one in uploads]
        try:
            return await asyncio.gather(*decoding)
        finally:  # where one image is refused, the others need not be decoded
            for one in decoding:
                one.cancel()

    async def health(self, request: Request) -> Response:
        """That the server runs, and which model it has."""
        model = self.model
        facts = {
            "status": "ok",
            "classes": len(model.class_names),
            "exits": list(model.tried),
            "precision": model.precision,
            "int8_execution": model.int8_execution,
            "device": model.device.type,
        }
        return JSONResponse(facts, headers=_HEADERS)

    async def metrics_text(self, request: Request) -> Response:
        """The counters."""
        return Response(self.metrics.text(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE})


def _row(image: str | None, answer: Answer) -> dict[str, Any]:
    named = {} if image is None else {"image": image}
    return named | {
        "class": answer.name,
        "class_number": answer.number,
        "exit": answer.exit,
        "confidence": answer.confidence,
    }


async def _refuse(request: Request, error: RefusedError) -> Response:
    again = {"Retry-After": "1"} if error.status == 503 else {}
    return JSONResponse({"error": error.reason}, status_code=error.status, headers=_HEADERS | again)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    routes = "there are POST /classify, GET /health and GET /metrics"
    headers = {**_HEADERS, **(error.headers or {})}
    return JSONResponse({"error": routes}, status_code=error.status_code, headers=headers)
