"""How the story looks at the service and at Kafka, and how it completes awakeables: as anybody can."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

Json = dict[str, Any]


class Service:
    """The service's HTTP interface."""

    def __init__(self, port: int) -> None:
        self.address = f"localhost:{port}"
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15)

    async def close(self) -> None:
        await self._http.aclose()

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def send(self, handler: str, body: Json) -> str:
        """Begin an invocation; its ID."""
        answer = await self._http.post(f"/orders/{handler}/send", json=body)
        return str(answer.raise_for_status().json()["invocation_id"])

    async def invocation(self, invocation_id: str) -> Json:
        answer = await self._http.get(f"/invocations/{invocation_id}")
        return dict(answer.raise_for_status().json())

    async def invocations(self) -> list[Json]:
        return list((await self._http.get("/invocations")).raise_for_status().json()["items"])

    async def ended(self, invocation_id: str) -> Json | None:
        """The invocation, once it is completed."""
        row = await self.invocation(invocation_id)
        return row if row["status"] == "completed" else None

    async def awakeable(self, awakeable_id: str) -> Json:
        answer = await self._http.get(f"/awakeables/{awakeable_id}")
        return dict(answer.raise_for_status().json())


async def records_of(bootstrap: str, topic: str) -> Sequence[ConsumerRecord[bytes, bytes]]:
    """All that is in a topic of one partition now."""
    place = TopicPartition(topic, 0)
    found: list[ConsumerRecord[bytes, bytes]] = []
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, fetch_max_wait_ms=5) as consumer:
        consumer.assign([place])
        consumer.seek(place, 0)
        end = (await consumer.end_offsets([place]))[place]
        async with asyncio.timeout(10):
            while await consumer.position(place) < end:
                found += (await consumer.getmany(place, timeout_ms=100)).get(place, [])
    return found


class Curl:
    """The two requests of the documentation, by curl itself; by Python where there is no curl."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.there = shutil.which("curl") is not None

    def resolve(self, awakeable_id: str, value: Any) -> list[str]:
        return self._command(awakeable_id, "resolve", "application/json", json.dumps(value))

    def reject(self, awakeable_id: str, reason: str) -> list[str]:
        return self._command(awakeable_id, "reject", "text/plain", reason)

    async def run(self, command: Sequence[str]) -> Json:
        """What the service answered."""
        text = await asyncio.to_thread(_by_curl if self.there else _by_python, command)
        return dict(json.loads(text))

    def _command(self, awakeable_id: str, verb: str, content_type: str, body: str) -> list[str]:
        url = f"{self._address}/restate/awakeables/{awakeable_id}/{verb}"
        return ["curl", url, "-H", f"content-type: {content_type}", "-d", body]


def shown(command: Sequence[str]) -> str:
    """A command as one types it."""
    curl, url, _, header, _, body = command
    return f"{curl} {url} -H '{header}' -d '{body}'"


def _by_curl(command: Sequence[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=15).stdout


def _by_python(command: Sequence[str]) -> bytes:
    _, url, _, header, _, body = command
    request = urllib.request.Request(f"http://{url}", data=body.encode())
    request.add_header(*header.split(": ", 1))
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as refusal:  # a verdict such as late is a 410
        return refusal.read()
