"""`make demo`: a callback survives kill -9, shown as a timeline. Exits with 1 if a step fails."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from awakeables.devbroker import EmbeddedBroker
from awakeables.errors import OperatorError
from examples.demo.looking import Service
from examples.demo.processes import Child, ended_in_order, free_port
from examples.demo.story import Story
from examples.demo.timeline import Timeline

PORT = 8080
TOPICS = ("demo.completions", "demo.completions.dlq", "pack-requests", "approval-requests", "quote-requests")
INTERRUPTED = 130
"""What a shell reports after Ctrl-C."""


async def show(timeline: Timeline, folder: Path, port: int) -> bool:
    """Play the story with real processes; return whether all checks held."""
    async with EmbeddedBroker() as broker:
        for topic in TOPICS:
            await broker.create_topic(topic, partitions=1)
        timeline.show("kafka", f"an embedded broker at {broker.bootstrap}")
        service, worker = _children(folder, broker.bootstrap, port)
        http = Service(port)
        async with ended_in_order(service, worker):
            story = Story(
                timeline,
                service=service,
                worker=worker,
                http=http,
                bootstrap=broker.bootstrap,
                ledger=folder / "ledger.txt",
            )
            try:
                async with asyncio.timeout(90):
                    await story.play()
            except Exception as error:  # show any error together with the output of the processes
                _tell_failure(timeline, error, (service, worker))
                return False
            finally:
                await http.close()
    return True


def _children(folder: Path, bootstrap: str, port: int) -> tuple[Child, Child]:
    environment = {"AWAKEABLES_KAFKA": bootstrap, "DEMO_LEDGER": str(folder / "ledger.txt")}
    service = Child(
        "service",
        *("serve", "examples.demo.app:app", "--store", str(folder / "demo.db"), "--port", str(port)),
        log=folder / "service.log",
        environment=environment,
    )
    worker = Child(
        "worker",
        *("worker", "examples.demo.app:packer"),
        log=folder / "worker.log",
        environment=environment,
    )
    return service, worker


def _tell_failure(timeline: Timeline, error: BaseException, children: Sequence[Child]) -> None:
    timeline.show("", f"✗ {str(error) or type(error).__name__}", style="bold red")
    for child in children:
        timeline.console.print(f"\n[bold]the {child.name}'s last words[/bold] ({child.log.name})")
        for line in child.last_words() or ["(none)"]:
            timeline.console.print(line, markup=False, soft_wrap=True)


async def main(port: int | None) -> int:
    """The exit status."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    timeline = Timeline()
    chosen = port or free_port(preferred=PORT)
    if chosen != PORT:
        timeline.show("http", f"port {chosen}" + ("" if port else f": {PORT} is taken"))
    with tempfile.TemporaryDirectory(prefix="awakeables-demo-") as folder:
        try:
            done = await show(timeline, Path(folder), chosen)
        except OperatorError as error:
            _tell_failure(timeline, error, ())
            done = False
        except asyncio.CancelledError:
            timeline.show("", "interrupted; everything was stopped", style="bold red")
            return INTERRUPTED
    if done:
        timeline.chapter(f"All of it happened: {timeline.checks} checks held.")
    return 0 if done else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--port", type=int, help=f"where HTTP listens; {PORT} if it is free")
    sys.exit(asyncio.run(main(parser.parse_args().port)))
