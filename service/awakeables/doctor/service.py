"""Checks that the service responds and is ready, and that the clocks agree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from awakeables.doctor.findings import Finding
from awakeables.ports import Clock
from awakeables.store.sqlite.checkup import StoreCondition

PATIENCE_S = 3.0
LARGEST_DIFFERENCE_MS = 5000
"""Tolerance: an HTTP date has whole seconds, and the response takes a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """The response of the service's readiness check.

    Attributes:
        finding: The finding about the service.
        date_ms: The service's clock, if it responded.
    """

    finding: Finding
    date_ms: int | None


async def visit_service(url: str, *, holder: str | None, token: str | None = None) -> Visit:
    """Ask the service at `url` whether it is ready.

    Args:
        url: The service's URL.
        holder: The process that has the store open.
        token: The bearer token. A service that requires tokens shows details only with one.
    """
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        async with httpx.AsyncClient(timeout=PATIENCE_S, headers=headers) as client:
            answer = await client.get(f"{url.rstrip('/')}/health/ready")
        document = answer.json()
        problems = dict(document.get("problems", {}))
        degraded = dict(document.get("degraded", {}))
        ready = bool(document["ready"])
    except (httpx.HTTPError, httpx.InvalidURL):
        held = (
            f", although process {holder} has the store open: is the URL correct?"
            if holder
            else ": the service is down"
        )
        return Visit(finding=Finding("service", "warn", f"no response at {url}{held}"), date_ms=None)
    except (ValueError, KeyError, TypeError, AttributeError):
        text = f"what answers at {url} is another program"
        return Visit(finding=Finding("service", "warn", text), date_ms=None)
    if ready and not degraded:
        finding = Finding("service", "ok", f"{url} is ready")
    else:
        details = "; ".join(f"{name}: {text}" for name, text in (problems | degraded).items())
        state = "accepts work but is degraded" if ready else "is not ready"
        finding = Finding("service", "FAULT", f"{url} {state}: {details}")
    return Visit(finding=finding, date_ms=_date_ms(answer))


def examine_clock(date_ms: int | None, condition: StoreCondition | None, *, clock: Clock) -> Finding:
    """Compare this machine's clock with the service's and with the newest row.

    Deadlines depend on the service's clock. There is no third clock to compare: Kafka shows its own only in
    records, and `doctor` writes none.
    """
    now_ms = clock.now_ms()
    now = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if condition is not None and condition.newest_ms is not None:
        ahead_s = (condition.newest_ms - now_ms) // 1000
        if ahead_s * 1000 > LARGEST_DIFFERENCE_MS:
            return Finding(
                "clock",
                "FAULT",
                f"{now}, but the store's newest row is {ahead_s} s ahead: the clock was set back",
            )
    if date_ms is None:
        return Finding("clock", "ok", f"{now}; not compared with the service's")
    apart_ms = abs(date_ms - now_ms)
    if apart_ms > LARGEST_DIFFERENCE_MS:
        return Finding(
            "clock",
            "FAULT",
            f"{now}, but the service's differs by {apart_ms // 1000} s: synchronize both with NTP",
        )
    return Finding("clock", "ok", f"{now}, same as the service's")


def _date_ms(answer: httpx.Response) -> int | None:
    try:
        return round(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None
