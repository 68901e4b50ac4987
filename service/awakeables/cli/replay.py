"""`replay`: hold stored journals against the code of today, once for each hash seed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import msgspec
import typer

from awakeables.cli.options import AsJson
from awakeables.cli.terminal import exit_with_error, print_json, print_line
from awakeables.errors import AwakeablesError
from awakeables.handlers.service import App
from awakeables.loading import load
from awakeables.settings import environment_with
from awakeables.telemetry.logs import configure_logs

LARGEST_HASH_SEED: Final = 2**32 - 1

_CHILD: Final = "import sys; from awakeables.cli.replay import report; report(*sys.argv[1:])"
"""The program of a child process: an interpreter takes a hash seed only when it starts."""


def replay(
    journals: Annotated[
        list[str],
        typer.Argument(
            metavar="JOURNAL",
            help="Files that `awakeables show ID --journal` has printed, and folders of them (*.json).",
        ),
    ],
    app: Annotated[str, typer.Option(metavar="MODULE:APP", help="The app; shop:app is `app` in shop.py.")],
    hash_seed: Annotated[
        str,
        typer.Option(
            metavar="SEED[,…]",
            help="Replay with each of these values of PYTHONHASHSEED, which decides the order of sets.",
        ),
    ] = "0,1,2",
    json_: AsJson = False,
) -> None:
    """Replay stored journals with the code of an app, and print the first difference of each.

    No action is executed, nothing is published or stored. Exits with 1 unless the code repeats every journal.
    """
    seeds = _checked_seeds(hash_seed)
    by_seed = [_in_a_child(app, journals, seed) for seed in seeds]
    verdicts = [_Verdict(dict(zip(seeds, results, strict=True))) for results in zip(*by_seed, strict=True)]
    if json_:
        print_json(msgspec.json.encode([verdict.document() for verdict in verdicts]))
    else:
        _print(verdicts, seeds)
    if any(verdict.name != "ok" for verdict in verdicts):
        raise typer.Exit(1)


def _checked_seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        seeds = [-1]
    if not all(0 <= seed <= LARGEST_HASH_SEED for seed in seeds):
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers from 0 to {LARGEST_HASH_SEED}, such as 0,1,2",
            param_hint="--hash-seed",
        )
    return list(dict.fromkeys(seeds))


def _in_a_child(app: str, journals: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The results of `report` in a child process with this hash seed."""
    with TemporaryDirectory(prefix="awakeables-replay-") as folder:
        file = Path(folder, "report.json")
        child = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _CHILD, app, str(file), *journals],
            env=environment_with(PYTHONHASHSEED=str(seed)),
            stdout=2,  # what the app prints is not the result
            check=False,
        )
        if not file.exists():
            exit_with_error(f"the replay with the hash seed {seed} ended with exit code {child.returncode}")
        found = msgspec.json.decode(file.read_bytes())
    if "error" in found:
        exit_with_error(found["error"])
    results: list[dict[str, Any]] = found["results"]
    return results


def report(app: str, file: str, *journals: str) -> None:
    """Replay journals in this process, and write the results, or why there are none, to a file."""
    from awakeables.testing.replaying import replay

    configure_logs(format_="console", level="error")
    found: dict[str, Any]
    try:
        found = {"results": replay(load(app, App, "app"), journals)}
    except AwakeablesError as error:
        found = {"error": str(error)}
    Path(file).write_bytes(msgspec.json.encode(found))


class _Verdict:
    """The results of one journal with all hash seeds, as one."""

    def __init__(self, results: Mapping[int, dict[str, Any]]) -> None:
        undecided = [seed for seed, each in results.items() if not each["is_decided"]]
        differ = [seed for seed, each in results.items() if each["difference"] and each["is_decided"]]
        self.name = "differs" if differ else "not decided" if undecided else "ok"
        self.seeds = differ or undecided or list(results)
        self.is_of_all = len(self.seeds) == len(results)
        self.first = results[self.seeds[0]]

    def document(self) -> dict[str, Any]:
        found = {name: self.first[name] for name in ("path", "invocation_id", "handler", "difference")}
        return {**found, "verdict": self.name, "hash_seeds": self.seeds}


def _print(verdicts: Sequence[_Verdict], seeds: Sequence[int]) -> None:
    for verdict in verdicts:
        first = verdict.first
        parts = [f"{verdict.name:<11}", first["path"], first["handler"], first["invocation_id"]]
        only = "" if verdict.is_of_all else f"(with {_named(verdict.seeds)})"
        print_line("  ".join(part for part in (*parts, only) if part))
        for line in (first["difference"] or "").splitlines():
            print_line(f"    {line}")
    counts = Counter(verdict.name for verdict in verdicts)
    many = f"{len(verdicts)} journal{'s' * (len(verdicts) != 1)}"
    words = {
        "ok": "ok",
        "differs": "differs" if counts["differs"] == 1 else "differ",
        "not decided": "not decided",
    }
    listed = [f"{counts[name]} {word}" for name, word in words.items() if counts[name]]
    print_line(f"{many} replayed with {_named(seeds)}: {', '.join(listed)}")


def _named(seeds: Sequence[int]) -> str:
    return f"the hash seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
