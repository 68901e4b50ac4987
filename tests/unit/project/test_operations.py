"""docs/operations.md says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from awakeables.cli.main import cli
from awakeables.kafka.recommendations import RECOMMENDATIONS, Role
from awakeables.settings import PREFIX, Settings
from awakeables.telemetry.spans import SHAPES

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/operations.md").read_text()
ROLES: tuple[Role, ...] = ("completions", "tasks", "dead letters", "verdicts", "revocations", "subscribed")


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(*head: str) -> str:
    """The table of the document that begins with this row."""
    _, _, found = TEXT.partition(row(*head) + "\n" + row(*["---"] * len(head)).replace(" ", "") + "\n")
    return found.partition("\n\n")[0].strip()


def test_the_topics_table_is_the_one_that_topics_check_goes_by() -> None:
    rows = [
        row(f"`{r.setting}`", *(r.rules.get(role, "any") for role in ROLES), r.weight, r.why)
        for r in RECOMMENDATIONS
    ]
    assert table("setting", *ROLES, "weight", "why") == "\n".join(rows), "it should be:\n" + "\n".join(rows)


def test_the_settings_table_has_every_setting_with_its_default_and_meaning() -> None:
    defaults = Settings.model_construct().model_dump(mode="json")
    rows = []
    for name, field in Settings.model_fields.items():
        value = defaults[name]
        default = (
            "" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"
        )
        rows.append(row(f"`{PREFIX}{name.upper()}`", default, field.description))
    assert table("variable", "default", "meaning") == "\n".join(rows), "it should be:\n" + "\n".join(rows)


def test_the_table_of_spans_is_their_vocabulary() -> None:
    rows = [
        row(f"`{s.name}`", s.kind.name, s.help, s.parent, ", ".join(f"`{name}`" for name in s.attributes))
        for s in SHAPES
    ]
    found = table("span", "kind", "what it covers", "parent", "attributes")
    assert found == "\n".join(rows), "it should be:\n" + "\n".join(rows)


def test_what_the_document_says_to_be_on_no_span_is_on_none() -> None:
    (name,) = re.findall(r"`([\w.]+)` is set on no span", TEXT)
    assert not any(name in shape.attributes for shape in SHAPES)


def test_the_code_of_the_document_sets_opentelemetry_up() -> None:
    """In a process of its own, as it sets what is global; the exporter is installed by its user."""
    [block] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = re.findall(r"^from (opentelemetry\.exporter\S+) import OTLPSpanExporter$", block, re.MULTILINE)
    assert names == ["opentelemetry.exporter.otlp.proto.http.trace_exporter"]
    program = f"""
import sys
from types import ModuleType

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
parts = {names[0]!r}.split(".")
for at in range(2, len(parts) + 1):
    sys.modules[".".join(parts[:at])] = ModuleType(parts[at - 1])
sys.modules[{names[0]!r}].OTLPSpanExporter = lambda: exporter

{block}
from awakeables.telemetry.spans import Spans

spans = Spans()
attempt = {{"service": "orders", "handler": "fulfil", "number": 1, "resumed": False}}
spans.attempt({{}}, invocation_id="inv_1", **attempt).ended()
provider.shutdown()
[span] = exporter.get_finished_spans()
print(spans.has_provider, span.resource.attributes["service.name"], span.name)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "shop", "orders/fulfil"], done.stderr


def test_every_command_that_the_document_names_is_there() -> None:
    commands = getattr(get_command(cli), "commands")  # noqa: B009 - a group's, that typer doesn't type
    known = {(name, "") for name in commands}
    known |= {(name, sub) for name, group in commands.items() for sub in getattr(group, "commands", ())}
    named = re.findall(r"(?:^|`|xargs -r )awakeables ([a-z][a-z-]*)(?: ([a-z]+))?", TEXT, re.MULTILINE)
    groups = {name for name, sub in known if sub}
    wanted = {(first, second if first in groups else "") for first, second in named}
    assert len(wanted) > 8
    assert wanted <= known


def test_a_recipe_that_finds_nothing_runs_nothing() -> None:
    assert TEXT.count("xargs") == TEXT.count("xargs -r ") > 0
