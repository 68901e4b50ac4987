"""The command line: no logic, only what turns words into calls."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from awakeables import __version__
from awakeables.errors import AwakeablesError
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.sample import sample_input
from awakeables.settings import Settings, load_settings
from awakeables.telemetry.logs import configure_logs
from awakeables.worker.worker import Worker

cli = typer.Typer(
    name="awakeables",
    help="Durable callbacks over Kafka: hand out work, wait for months, go on exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GC_THRESHOLD = 10_000
"""New objects between two looks for cycles: a few ten calls' worth."""

out = Console()
err = Console(stderr=True)

Url = Annotated[str | None, typer.Option(help="The service; AWAKEABLES_URL.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Kafka = Annotated[
    str | None, typer.Option(help="Kafka, HOST:PORT[,…]; AWAKEABLES_KAFKA.", show_default=False)
]
Port = Annotated[int | None, typer.Option(help="HTTP's port; AWAKEABLES_PORT.", show_default=False)]


class What(StrEnum):
    awakeables = "awakeables"
    invocations = "invocations"


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


@cli.command()
def dev(
    app: Annotated[str, typer.Argument(metavar="MODULE:APP")],
    worker: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:WORKER", help="Also run this worker.")
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Use this Kafka, and keep the store, instead of an embedded broker."
        ),
    ] = None,
    port: Port = None,
) -> None:
    """Try an app: an embedded broker, SQLite, the service and workers in one terminal.

    The broker is librdkafka's mock: real TCP, in memory, for development only. It begins empty
    each time, and so does the store, except with --kafka.
    """
    from awakeables.runtime import develop

    settings = _settings(port=port)
    loaded, workers = load(app, App, "app"), [load(w, Worker, "worker") for w in worker or []]

    def ready(url: str) -> None:
        _print_what_to_try(loaded, workers, url, embedded=kafka is None)

    _run(settings, lambda stop: develop(loaded, workers, settings, kafka=kafka, stop=stop, ready=ready))


@cli.command()
def serve(
    app: Annotated[str, typer.Argument(metavar="MODULE:APP")],
    kafka: Kafka = None,
    store: Annotated[
        str | None, typer.Option(help="The SQLite file; AWAKEABLES_STORE.", show_default=False)
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Where HTTP listens; AWAKEABLES_HOST.", show_default=False)
    ] = None,
    port: Port = None,
) -> None:
    """Serve an app: HTTP, its handlers, the completions topic. SIGTERM drains."""
    from awakeables.runtime import serve as serve_app

    settings = _settings(kafka=kafka, store=store, host=host, port=port)
    loaded = load(app, App, "app")
    _run(settings, lambda stop: serve_app(loaded, settings, stop=stop))


@cli.command()
def worker(
    worker: Annotated[str, typer.Argument(metavar="MODULE:WORKER")],
    kafka: Kafka = None,
) -> None:
    """Do a worker's tasks. SIGTERM drains."""
    from awakeables.runtime import work

    settings = _settings(kafka=kafka)
    loaded = load(worker, Worker, "worker")
    _run(settings, lambda stop: work(loaded, settings, stop=stop))


@cli.command()
def resolve(
    awakeable_id: Annotated[str, typer.Argument(metavar="ID")],
    value: Annotated[str, typer.Argument(help="The value as JSON.")] = "null",
    url: Url = None,
    json_: Json = False,
) -> None:
    """Resolve an awakeable with a JSON value."""
    answer = _ask("POST", f"/awakeables/{awakeable_id}/resolve", url, content=value)
    _print_verdict(answer, json_)


@cli.command()
def reject(
    awakeable_id: Annotated[str, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Argument()],
    code: Annotated[int, typer.Option(help="An HTTP-like number for the handler.")] = 500,
    details: Annotated[str | None, typer.Option(help="Details as JSON.")] = None,
    url: Url = None,
    json_: Json = False,
) -> None:
    """Reject an awakeable with a reason."""
    body: dict[str, Any] = {"reason": reason, "code": code}
    if details is not None:
        try:
            body["details"] = json.loads(details)
        except ValueError as error:
            _fail(f"--details is not JSON: {error}")
    answer = _ask("POST", f"/awakeables/{awakeable_id}/reject", url, content=json.dumps(body))
    _print_verdict(answer, json_)


@cli.command("list")
def list_(
    what: Annotated[What, typer.Argument()] = What.awakeables,
    state: Annotated[
        str | None, typer.Option(help="Only these: pending, resolved… or suspended, paused, completed…")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    url: Url = None,
    json_: Json = False,
) -> None:
    """List awakeables or invocations, newest first."""
    query = {"limit": str(limit)}
    if state is not None:
        query["state" if what is What.awakeables else "status"] = state
    page = _ask("GET", f"/{what.value}", url, params=query)
    if json_:
        _print_json(page)
        return
    _print_rows(page["items"], what)


@cli.command()
def show(
    id_: Annotated[
        str, typer.Argument(metavar="ID", help="An awakeable (prom_1…) or an invocation (inv_1…).")
    ],
    url: Url = None,
) -> None:
    """Show everything about one awakeable or invocation, as JSON."""
    noun = "invocations" if id_.startswith("inv_") else "awakeables"
    _print_json(_ask("GET", f"/{noun}/{id_}", url))


@cli.command()
def resume(
    invocation_id: Annotated[str, typer.Argument(metavar="ID")], url: Url = None, json_: Json = False
) -> None:
    """Let a paused or backing-off invocation run again, now."""
    row = _ask("POST", f"/invocations/{invocation_id}/resume", url)
    _print_json(row) if json_ else out.print(f"{invocation_id}: {row['status']}")


def _settings(**flags: object) -> Settings:
    settings = load_settings(**flags)
    configure_logs(format_=settings.log_format, level=settings.log_level)
    return settings


def _run(settings: Settings, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run until SIGTERM or SIGINT; a second one does not wait for the drain."""

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                # Nothing is lost by it: whatever is under way goes on at the next start.
                os._exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked)
        await main(stop)

    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    # What was imported stays: it needn't be looked through again and again. And each call makes
    # some hundred objects that are in no cycle, so the default, a look every 700, finds nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(supervised())
        except* AwakeablesError as group:
            raise _first(group) from None
    _leave_stuck_threads()


def _leave_stuck_threads() -> None:
    """End although an action of `ctx.run` or a task still blocks its thread past the drain.

    Everything that is durable is closed by now; the interpreter would wait for the thread for ever.
    """
    stuck = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if stuck:
        err.print(f"left {len(stuck)} blocked thread(s); what they did is done again", highlight=False)
        sys.stderr.flush()
        os._exit(0)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _ask(method: str, path: str, url: str | None, **request: Any) -> Any:
    base = _settings_url(url)
    if "content" in request:
        request["headers"] = {"content-type": "application/json"}
    try:
        answer = httpx.request(method, base + path, timeout=30, **request)
    except httpx.InvalidURL as error:
        _fail(f"{base!r} is no URL: {error}")
    except httpx.HTTPError as error:
        _fail(f"the service at {base} can't be reached: {error or type(error).__name__}; is it running?")
    try:
        body = answer.json()
    except ValueError:
        body = {"detail": answer.text[:200]}
    if answer.status_code in (200, 202) or (isinstance(body, dict) and "verdict" in body):
        return body
    _fail(f"{body.get('title', answer.status_code)}: {body.get('detail', '')}")
    return None


def _settings_url(url: str | None) -> str:
    return load_settings(url=url).url.rstrip("/")


def _fail(message: str) -> None:
    err.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _print_verdict(answer: Any, as_json: bool) -> None:
    verdict = answer["verdict"]
    if as_json:
        _print_json(answer)
    else:
        detail = answer.get("reason") or answer.get("detail")
        out.print(verdict + (f": {detail}" if detail else ""), soft_wrap=True, highlight=False)
    if verdict not in ("accepted", "duplicate"):
        raise typer.Exit(1)


def _print_rows(items: list[dict[str, Any]], what: What) -> None:
    columns = {
        What.awakeables: ("id", "state", "created", "deadline", "invocation"),
        What.invocations: ("id", "status", "service", "handler", "created", "attempts"),
    }[what]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for item in items:
        table.add_row(*("" if item.get(c) is None else str(item[c]) for c in columns))
    if items:
        # A pipe gets whole IDs, whatever the width of the terminal is.
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    else:
        err.print(f"no {what.value}")


def _print_what_to_try(app: App, workers: list[Worker], url: str, *, embedded: bool) -> None:
    err.print(f"\n[bold]{app.name}[/bold] is served at {url}", highlight=False)
    if embedded:
        err.print("on an embedded broker: in memory, for development only; it begins empty each time")
    if workers:
        err.print("workers: " + ", ".join(f"{w.name} ({', '.join(sorted(w.topics))})" for w in workers))
    err.print("\ntry:")
    for service in app.services.values():
        for handler in service.handlers.values():
            sample = sample_input(handler)
            body = "" if sample is None else f" -H 'content-type: application/json' -d '{sample}'"
            err.print(
                f"  curl {url}/{service.name}/{handler.name}{body} -X POST", highlight=False, soft_wrap=True
            )
    flag = "" if url.endswith(":8080") else f" --url {url}"
    err.print(f"  awakeables list{flag}", highlight=False)
    err.print(
        f'  awakeables resolve{flag} prom_1… \'{{"hello": "world"}}\'\n', highlight=False, soft_wrap=True
    )


def main() -> None:
    """The console script: our own errors are told in one line, without a stack."""
    try:
        cli()
    except AwakeablesError as error:
        err.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
