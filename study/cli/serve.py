"""``predictive-exit serve``: answer image files over HTTP with an exported model."""

from __future__ import annotations

import argparse
import sys

from study.cli.options import path, port, positive_number, whole
from study.errors import UserError

_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``serve``."""
    parser.add_argument("model", type=path, metavar="MODEL", help="folder that `export` wrote")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; any but the default lets other machines ask (default: %(default)s)",
    )
    parser.add_argument("--port", type=port, default=8000, metavar="N", help="0: any free one (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--batch-size", type=whole(2**16), default=64, help="images that run together, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--wait",
        type=positive_number,
        default=0.005,
        metavar="SECONDS",
        help="how long an image waits for those of other requests that have begun (default: %(default)s)",
    )
    parser.add_argument(
        "--queue",
        type=whole(2**20),
        default=512,
        metavar="IMAGES",
        help="that wait for the network; requests beyond get 503 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-body", type=whole(2**12), default=16, metavar="MIB", help="of a request (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pixels",
        type=whole(2**30),
        default=2**25,
        metavar="N",
        help="of an image (default: %(default)s)",
    )
    parser.add_argument(
        "--max-images", type=whole(2**16), default=64, metavar="N", help="of a request (default: %(default)s)"
    )


def execute(options: argparse.Namespace) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    Raises:
        UserError: the extra ``serve`` is not installed, the folder holds no model, or the port cannot be had.
    """
    import numpy as np

    try:
        import python_multipart  # noqa: F401  # Starlette imports it at the first form

        from study.deploy.serving.app import build_app
        from study.deploy.serving.process import serve_until_signal
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("study", "search_spaces", "results"):
            raise
        raise UserError(f"serve needs {error.name}: install the extra serve, as predictive-exit[serve]") from None
    from study.deploy.early_exit import EarlyExit
    from study.deploy.listening import is_loopback, listen
    from study.deploy.serving.limits import Limits

    if options.max_images > options.queue:
        raise UserError(f"serve: a request of {options.max_images} images never fits a queue of {options.queue}")
    listening = listen(options.host, options.port, "serve")
    address, number = listening.getsockname()[:2]
    local = is_loopback(address)
    shown = f"[{address}]" if ":" in address else address
    model = EarlyExit.load(options.model, device=options.device)
    model.predict(np.zeros((model.preprocessing.image_size,) * 2, dtype=np.uint8))  # the first call makes kernels
    app = build_app(
        model,
        Limits(
            body_bytes=options.max_body * 2**20,
            image_pixels=options.max_pixels,
            images=options.max_images,
            queued_images=options.queue,
        ),
        batch_size=options.batch_size,
        wait_seconds=options.wait,
        hosts=(*_LOCAL, shown, options.host) if local else ("*",),
    )

    def ready() -> None:
        print(f"serve: http://{shown}:{number}/classify answers with {options.model}; Ctrl-C ends it", flush=True)

    if not local:
        print(
            f"serve: everyone who reaches port {number} of {shown} can use this model: there is no authentication, and "
            "nothing is encrypted",
            file=sys.stderr,
        )
    serve_until_signal(app, listening, ready)
    print("serve: stopped", flush=True)
