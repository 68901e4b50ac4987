"""Prometheus metrics: `/metrics`."""

from __future__ import annotations

from awakeables.telemetry.metrics import Metrics, exposition
from awakeables.web.request import HttpRequest, Response, response


class MetricsRoute:
    """The route `/metrics`. A scrape does not query the store."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry

    async def show(self, request: HttpRequest) -> Response:
        """OpenMetrics if the scraper accepts it, else Prometheus' text format."""
        content, media_type = exposition(self._registry, request.header(b"accept") or "")
        return response(content, media_type.encode())
