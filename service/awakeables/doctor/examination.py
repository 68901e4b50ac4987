"""All checks of `doctor`, in the order in which they are reported."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from awakeables.doctor.cluster import NOT_CHECKED, examine_cluster
from awakeables.doctor.code import examine_code
from awakeables.doctor.findings import Finding
from awakeables.doctor.functions import examine_functions
from awakeables.doctor.service import examine_clock, visit_service
from awakeables.doctor.settings import examine_settings
from awakeables.doctor.storage import examine_database, examine_disk, examine_store
from awakeables.handlers.service import App
from awakeables.kafka.recommendations import Role
from awakeables.ports import Clock
from awakeables.runtime import MEMORY, connection_of
from awakeables.settings import SettingsRefused, SourcedSettings
from awakeables.store.urls import is_postgres


async def examine(
    loaded: SourcedSettings,
    roles: Mapping[str, Role] | None,
    *,
    clock: Clock,
    app: App | None = None,
) -> list[Finding]:
    """Run all checks; they change nothing.

    Args:
        loaded: The settings of the service.
        roles: The app's topics; None if no app was given.
        clock: This machine's clock.
        app: The app, if one was given.
    """
    settings = loaded.settings
    name, codec = ("", None) if app is None else (app.name, app.codec)
    findings = [examine_settings(loaded, clock=clock)]
    try:
        connection = connection_of(settings, "awakeables-doctor")
    except SettingsRefused as error:
        findings += [Finding("broker", "FAULT", str(error)), NOT_CHECKED]
    else:
        findings += await examine_cluster(connection, roles, clock=clock)
    condition, usage = None, None
    if settings.store == MEMORY:
        findings.append(Finding("store", "warn", "in memory: everything is lost when the service stops"))
    elif is_postgres(settings.store):
        store, usage = await examine_database(settings.store, name, codec)
        findings.append(store)
    else:
        path = Path(settings.store)
        store, condition = await asyncio.to_thread(examine_store, path, clock=clock, app=name, codec=codec)
        usage = None if condition is None else condition.usage
        findings += [store, examine_disk(path)]
    if app is not None:
        findings += await examine_functions(app, settings, clock=clock)
        if usage is not None:
            findings.append(examine_code(app, usage))
    visit = await visit_service(
        settings.url,
        holder=None if condition is None else condition.holder,
        token=None if settings.token is None else settings.token.get_secret_value(),
    )
    return [*findings, visit.finding, examine_clock(visit.date_ms, condition, clock=clock)]
