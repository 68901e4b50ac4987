"""Does the service answer, is it ready, and do the clocks agree?"""

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
"""An HTTP date has whole seconds, and the answer took a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What came of asking the service whether it is ready.

    Attributes:
        finding: On the service.
        date_ms: Its clock, if it answered.
    """

    finding: Finding
    date_ms: int | None


async def visit_service(url: str, *, holder: str | None, token: str | None = None) -> Visit:
    """Ask the service at `url`.

    Args:
        url: Of the service.
        holder: The process that has the store open.
        token: Without one it does not say what exactly is wrong, where tokens are asked for.
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
        held = f", though process {holder} holds the store: is the URL right?" if holder else ": it is down"
        return Visit(finding=Finding("service", "warn", f"nobody answers at {url}{held}"), date_ms=None)
    except (ValueError, KeyError, TypeError, AttributeError):
        told = f"what answers at {url} is another program"
        return Visit(finding=Finding("service", "warn", told), date_ms=None)
    if ready and not degraded:
        finding = Finding("service", "ok", f"{url} is ready")
    else:
        told = "; ".join(f"{name}: {text}" for name, text in (problems | degraded).items())
        state = "takes work but is degraded" if ready else "is not ready"
        finding = Finding("service", "FAULT", f"{url} {state}: {told}")
    return Visit(finding=finding, date_ms=_date_ms(answer))


def examine_clock(date_ms: int | None, condition: StoreCondition | None, *, clock: Clock) -> Finding:
    """Hold this machine's clock against the service's and against the newest row.

    Deadlines are kept by the service's clock. No third clock is asked: Kafka tells its own only
    with records, and the doctor writes none.
    """
    now_ms = clock.now_ms()
    told = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if condition is not None and condition.newest_ms is not None:
        ahead_s = (condition.newest_ms - now_ms) // 1000
        if ahead_s * 1000 > LARGEST_DIFFERENCE_MS:
            return Finding(
                "clock", "FAULT", f"{told}, but the store's newest row is {ahead_s} s ahead: it was set back"
            )
    if date_ms is None:
        return Finding("clock", "ok", f"{told}; nothing to compare it with says otherwise")
    apart_ms = abs(date_ms - now_ms)
    if apart_ms > LARGEST_DIFFERENCE_MS:
        return Finding(
            "clock", "FAULT", f"{told}, the service's is {apart_ms // 1000} s apart: let NTP keep both"
        )
    return Finding("clock", "ok", f"{told}, as the service's")


def _date_ms(answer: httpx.Response) -> int | None:
    try:
        return round(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None
