"""Asks the functions of an app's remote services what they have."""

from __future__ import annotations

import asyncio

from awakeables.credentials import signer_of
from awakeables.doctor.findings import Finding
from awakeables.errors import MissingDependency
from awakeables.handlers.remoteservice import RemoteService
from awakeables.handlers.service import App
from awakeables.ports import Clock
from awakeables.remote.client import FunctionClient, FunctionFailed
from awakeables.remote.described import FunctionMisfit, learn
from awakeables.remote.transport import AiohttpTransport
from awakeables.settings import Settings, SettingsRefused


async def examine_functions(app: App, settings: Settings, *, clock: Clock) -> list[Finding]:
    """Ask each function once, as a start does; the app then has the handlers of those that answered."""
    services = [service for service in app.services.values() if isinstance(service, RemoteService)]
    if not services:
        return []
    try:
        client = FunctionClient(clock, AiohttpTransport(), signer_of(settings))
    except (SettingsRefused, MissingDependency) as error:
        return [Finding("function", "FAULT", str(error))]
    try:
        return list(await asyncio.gather(*(_examine(service, client) for service in services)))
    finally:
        await client.close()


async def _examine(service: RemoteService, client: FunctionClient) -> Finding:
    try:
        learned = learn(service, await client.describe(service))
    except (FunctionFailed, FunctionMisfit, MissingDependency) as error:
        return Finding("function", "FAULT", f"{service.name}: {error}")
    handlers = ", ".join(sorted(service.handlers)) or "no handlers"
    build = f", build {learned.build}" if learned.build else ""
    return Finding("function", "ok", f"{service.name} at {service.url}{build}: {handlers}")
