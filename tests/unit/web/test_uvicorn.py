"""What `web/connection.py` and `web/server.py` use of uvicorn that is not its public interface.

An upgrade that takes one of these members away fails here, by name. One that keeps the name and changes
its meaning fails in test_connection.py. Then raise the upper bound in pyproject.toml.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement
from uvicorn.protocols.http import httptools_impl

from awakeables.web import connection, server
from awakeables.web.connection import HttpConnection
from unit.web.test_connection import GET, serving, until

INHERITED = frozenset(
    {
        *("app", "config", "connections", "cycle", "flow", "headers", "loop", "parser", "pipeline"),
        *("server_state", "timeout_keep_alive", "timeout_keep_alive_handler", "timeout_keep_alive_task"),
        *("transport", "url", "_unset_keepalive_if_required"),
    }
)
"""Of `HttpToolsProtocol`."""

CYCLE = frozenset(
    {
        *("disconnected", "keep_alive", "message_event", "response_complete", "response_started"),
        "transport",
    }
)
FLOW = frozenset({"read_paused"})
STATE = frozenset({"connections", "default_headers", "tasks"})
SERVER = frozenset({"capture_signals", "serve", "server_state", "should_exit", "started"})


def used(pattern: str, *modules: object) -> set[str]:
    return {name for module in modules for name in re.findall(pattern, inspect.getsource(module))}  # type: ignore[arg-type]


def test_these_are_the_members_that_are_used() -> None:
    own = vars(HttpConnection).keys() | used(r"self\.(_\w+)(?:: [^=\n]+)? = ", HttpConnection)
    assert used(r"self\.(\w+)", HttpConnection) - (own - INHERITED) == INHERITED
    assert used(r"\bcycle\.(\w+)", connection) == CYCLE
    assert used(r"\bflow\.(\w+)", connection) == FLOW
    assert used(r"\bserver_state\.(\w+)", connection, server) == STATE
    overridden = {name for name in vars(server._UvicornServer) if not name.startswith("__")}
    assert used(r"self\._server\.(\w+)", server) | overridden == SERVER


async def test_uvicorn_has_them() -> None:
    async with serving() as served:
        await served.connect(GET.replace(b"/", b"/wait", 1))
        await until(lambda: served.app.scopes)
        [one] = served.connections
        missing = [
            name
            for owner, names in (
                (one, INHERITED),
                (one.cycle, CYCLE),
                (one.flow, FLOW),
                (one.server_state, STATE),
                (served.server._server, SERVER),
            )
            for name in names
            if not hasattr(owner, name)
        ]
        served.app.go_on.set()
    assert missing == []
    assert set(httptools_impl.STATUS_LINE) >= {400, 408, 414, 431, 501, 503, 505}


@pytest.mark.parametrize("method", ["connection_made", "eof_received", "data_received", "on_message_begin"])
def test_what_is_overridden_is_there_to_be_overridden(method: str) -> None:
    """Also `on_headers_complete`, `on_body` and `on_message_complete`, which httptools calls."""
    assert inspect.signature(getattr(httptools_impl.HttpToolsProtocol, method)).parameters.keys() == (
        inspect.signature(getattr(HttpConnection, method)).parameters.keys()
    )


def test_no_later_uvicorn_is_installed_than_the_one_that_was_tried() -> None:
    # Once for each extra that includes `service`.
    needed = [each for each in map(Requirement, requires("awakeables") or ()) if each.name == "uvicorn"]
    [specifier] = {each.specifier for each in needed}
    assert version("uvicorn") in specifier
    assert {bound.operator for bound in specifier} == {">=", "<"}
