"""What a service counts, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64)

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of_model, registry = ("model",), self.registry
        self.requests = Counter(
            "pplcnet_requests", "Requests by route and status of the answer.", ("route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "pplcnet_request_seconds",
            "From a request's head to its answer.",
            ("route",),
            registry=registry,
            buckets=SECONDS,
        )
        self.images = Counter(
            "pplcnet_images",
            "Images by what became of them: the status of their own, 200 with a result.",
            ("model", "status"),
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "pplcnet_stage_seconds",
            "Time of an image in a stage: wait (for its turn), decode, prepare, network (of its batch), postprocess.",
            ("model", "stage"),
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_images = Histogram(
            "pplcnet_batch_images", "Images that ran together.", of_model, registry=registry, buckets=SIZES
        )
        self.log_lines_lost = Counter(
            "pplcnet_log_lines_lost", "Lines of the log that nobody took in time.", registry=registry
        )
        self._gauges = {
            "queue": Gauge("pplcnet_queue_images", "Images that wait for their turn.", of_model, registry=registry),
            "accepted": Gauge("pplcnet_accepted_images", "Images not answered yet.", of_model, registry=registry),
            "ready": Gauge("pplcnet_model_ready", "1 while the model is fit for work.", of_model, registry=registry),
        }

    def watch(self, model: str, read: Mapping[str, Callable[[], float]]) -> None:
        """Have `queue`, `accepted` and `ready` of a model read whenever the metrics are asked for."""
        for name, function in read.items():
            self._gauges[name].labels(model).set_function(function)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
