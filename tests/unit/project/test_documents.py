"""Documents tell the truth about the files beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "schemas").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
MENTION = re.compile(r"`((?:service|tests|docs|schemas|examples|benchmarks|requirements|\.ci)/[\w./-]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_names_a_file_that_is_not_there(document: Path) -> None:
    text = document.read_text()
    missing = [target for target in LINK.findall(text) if not (document.parent / target).exists()]
    missing += [target for target in MENTION.findall(text) if not (ROOT / target).exists()]
    assert missing == []


def test_the_example_of_the_readme_is_the_example_that_runs() -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = (ROOT / "examples/shop.py").read_text()
    _, _, body = example.partition("from __future__ import annotations\n\n")
    assert block == body


def test_every_example_is_listed_in_the_readme_and_has_a_place_in_the_guide() -> None:
    examples = {path.name for path in (ROOT / "examples").glob("*.py")} - {"__init__.py"}
    section = (ROOT / "README.md").read_text().partition("\n## Examples\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| \[(\w+)\]\(examples/\1\.py\) \|", section, re.MULTILINE)
    listed = re.findall(r"^\| \[\w+\]\(examples/(\w+\.py)\) \|", section, re.MULTILINE)
    assert sorted(listed) == sorted(examples)
    guide = set(re.findall(r"`examples/(\w+\.py)`", (ROOT / "docs/handlers.md").read_text()))
    assert examples - guide == {"shop.py"}, "its code is in the README"


def test_every_decision_is_listed_and_short() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text()
    for decision in (ROOT / "docs/adr").glob("0*.md"):
        assert decision.name in listed
        assert len(decision.read_text().splitlines()) <= 80


def test_every_case_of_the_field_has_a_test_that_is_named_after_it() -> None:
    """The row `T1` of docs/cases.md is held by the tests whose names begin with `test_case_t1_`."""
    listed = re.findall(r"^\| ([A-Z]\d+) \|", (ROOT / "docs/cases.md").read_text(), re.MULTILINE)
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    tested = {name.upper() for name in re.findall(r"def test_case_([a-z]\d+)_", written)}
    assert len(listed) == len(set(listed))
    assert set(listed) == tested


def test_make_without_a_target_prints_the_targets() -> None:
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "test-all", "check", "fmt", "sim", "bench", "up", "down"):
        assert f"make {target} " in told


def test_the_lock_has_hashes_and_no_addresses() -> None:
    lock = (ROOT / "requirements/lock.txt").read_text()
    assert "://" not in lock
    pinned = re.findall(r"^[a-z0-9][\w.-]*==", lock, re.MULTILINE)
    assert len(pinned) > 50
    assert lock.count("--hash=sha256:") > len(pinned)


def test_importing_the_declarations_loads_no_driver() -> None:
    program = (
        "import sys, awakeables; "
        "print([m for m in ('aiokafka', 'sqlite3', 'starlette', 'uvicorn', 'asyncpg') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"


def test_every_test_that_a_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/architecture.md").read_text()))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [name for name in named if f"def {name}(" not in written]
    assert named
    assert missing == []


def test_every_promise_and_hard_case_is_cited_by_a_test() -> None:
    """By their numbers in docs/architecture.md."""
    written = "\n".join(path.read_text().lower() for path in (ROOT / "tests").rglob("*.py"))
    promises = ("a1", "a2", "a3", "a4", "j1", "j2", "j3", "k1", "k2", "k3", "o1", "o2", "o3")
    missing = [name for name in promises if not re.search(rf"\b{name}[:\b]|test_{name}_|\b{name}\b", written)]
    cases = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 16, 17)
    missing += [
        f"hard case {n}" for n in cases if not re.search(rf"hard[ _]case[ _]{n}\b|hard_case_{n}_", written)
    ]
    assert missing == []
