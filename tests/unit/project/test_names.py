"""One name, one meaning: no two modules of the package define a class or a type alias of the same name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "service" / "awakeables"


def defined(node: ast.AST) -> str | None:
    """The class or type alias that a statement defines; also an alias that is not declared as one."""
    match node:
        case ast.ClassDef(name=name):
            return name
        case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
            return name
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Subscript()) if not name.isupper():
            return name if name.lstrip("_")[:1].isupper() else None
        case _:
            return None


def homes(package: Path) -> dict[str, list[str]]:
    """Where each class and each type alias of a package is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.stmt) and (name := defined(node)) is not None:
                found[name].append(f"{path.relative_to(package)}:{node.lineno}")
    return found


def test_no_name_of_a_type_is_used_twice() -> None:
    assert {name: places for name, places in homes(PACKAGE).items() if len(places) > 1} == {}


def test_a_name_that_is_used_twice_is_found(tmp_path: Path) -> None:
    neither = "first = Order[0]\nMOST = Order[0]"
    one = f"class Order: ...\nParcel: TypeAlias = int\nTask = dict[str, int]\n{neither}"
    two = f"Order: TypeAlias = int\nParcel = list[int]\nclass Task: ...\n{neither}"
    (tmp_path / "one.py").write_text(one)
    (tmp_path / "two.py").write_text(two)
    counts = {name: len(places) for name, places in homes(tmp_path).items()}
    assert counts == {"Order": 2, "Parcel": 2, "Task": 2}
