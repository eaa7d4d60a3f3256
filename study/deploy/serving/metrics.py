"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest

from study.deploy.serving.batching import Answer

__all__ = ["CONTENT_TYPE", "Metrics"]
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server.

    Args:
        exit_count: E of the model.
        classic_flops: of the whole network, an image.
        waiting: gives the number of images that wait.
    """

    def __init__(self, exit_count: int, classic_flops: float, waiting: Callable[[], int]) -> None:
        own = self._registry = CollectorRegistry()
        name = "predictive_exit_"
        self._requests = Counter(f"{name}requests", "Requests to classify, by HTTP status.", ["status"], registry=own)
        self._seconds = Histogram(
            f"{name}request_seconds", "From the first byte of a request to its answer.", buckets=_SECONDS, registry=own
        )
        self._images = Counter(f"{name}images", "Images that were classified.", registry=own)
        self._exits = Counter(
            f"{name}images_by_exit",
            f"Images that stopped at an exit; {exit_count + 1} is the classifier.",
            ["exit"],
            registry=own,
        )
        self._batches = Histogram(f"{name}batch_images", "Images of a batch.", buckets=_BATCHES, registry=own)
        self._flops = Counter(f"{name}flops", "Operations that were run.", registry=own)
        self._classic = Counter(f"{name}classic_flops", "Operations of the whole network.", registry=own)
        share = Gauge(f"{name}flops_share_of_classic", "FLOPs run over those of the whole network.", registry=own)
        share.set_function(lambda: self.run_flops / self.all_flops if self.all_flops else 0.0)
        queued = Gauge(f"{name}queued_images", "Images that wait for a batch.", registry=own)
        queued.set_function(waiting)
        self._whole, self.run_flops, self.all_flops = classic_flops, 0.0, 0.0

    def answered(self, answers: Sequence[Answer], entered: int) -> None:
        """Count images that stopped together, and the batch that entered before, if one did."""
        run, whole = sum(one.flops for one in answers), len(answers) * self._whole
        self.run_flops, self.all_flops = self.run_flops + run, self.all_flops + whole
        self._flops.inc(run)
        self._classic.inc(whole)
        self._images.inc(len(answers))
        if entered:
            self._batches.observe(entered)
        for one in answers:
            self._exits.labels(str(one.exit)).inc()

    def ended(self, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """All counters in the text format."""
        return generate_latest(self._registry)
