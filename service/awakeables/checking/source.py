"""The source of a function: its syntax tree, what the names in it stand for, and which lines are silenced."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_SILENCED = re.compile(r"#\s*awakeables:\s*ok\b")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class FunctionSource:
    """A function as it is written.

    Attributes:
        path: The file.
        node: Its definition.
        names: What the names in it stand for: the dotted name of what was imported, None for anything else
            that the code binds. A name that is missing is a builtin.
        silenced: The lines without findings.
    """

    path: str
    node: FunctionNode
    names: Mapping[str, str | None]
    silenced: frozenset[int]

    def dotted(self, node: ast.expr | None) -> str | None:
        """The full name of what an expression refers to, such as `datetime.datetime.now`; None if unknown."""
        match node:
            case ast.Name(id=name):
                return self.names.get(name, name)
            case ast.Attribute(value=value, attr=attribute):
                of = self.dotted(value)
                return None if of is None else f"{of}.{attribute}"
            case _:
                return None


def source_of(function: FunctionType) -> FunctionSource | None:
    """Find a function's source; None if there is none, as for one that was built by `exec`."""
    code = function.__code__
    try:
        lines, _ = inspect.findsource(code)
        module = _parsed("".join(lines))
    except (OSError, SyntaxError):
        return None
    found = _definitions_around(module, code)
    if not found:
        return None
    *around, node = found
    names: dict[str, str | None] = {}
    for scope in (module, *around):
        names |= _bound(_walk_scope(scope))
    names |= _bound(ast.walk(node))
    return FunctionSource(code.co_filename, node, names, _silenced_lines(node, lines))


@functools.lru_cache(maxsize=32)
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _definitions_around(node: ast.AST, code: CodeType) -> list[FunctionNode]:
    """The definition that was compiled to this code, after the functions that it is nested in."""
    for child in ast.iter_child_nodes(node):
        around = [child] if isinstance(child, FunctionNode) else []
        if any((each.name, _first_line(each)) == (code.co_name, code.co_firstlineno) for each in around):
            return around
        below = _definitions_around(child, code)
        if below:
            return [*around, *below]
    return []


def _first_line(node: FunctionNode) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _walk_scope(scope: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a scope, without the bodies of the functions and classes in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _walk_scope(child)


def _bound(nodes: Iterator[ast.AST]) -> dict[str, str | None]:
    """What these nodes bind names to; where a name is imported and assigned, the import counts."""
    bound: dict[str, str | None] = {}
    imported: dict[str, str] = {}
    for node in nodes:
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    first = alias.name.partition(".")[0]
                    imported[alias.asname or first] = alias.name if alias.asname else first
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                imported |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in aliases}
            case ast.ImportFrom(names=aliases):  # relative: a module of the user's own
                bound |= dict.fromkeys(alias.asname or alias.name for alias in aliases)
            case _ if (name := bound_name(node)) is not None:
                bound[name] = None
    return bound | imported


def bound_name(node: ast.AST) -> str | None:
    """The name that a node binds, other than by an import; None: it binds none."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case _:
            return None


def _silenced_lines(function: FunctionNode, lines: list[str]) -> frozenset[int]:
    """The lines that end with the comment, and those of functions that have it in their signature."""

    def marked(first: int, last: int) -> set[int]:
        return {number for number in range(first, last + 1) if _SILENCED.search(lines[number - 1])}

    silenced = marked(function.lineno, _last_line(function))
    for node in ast.walk(function):
        if isinstance(node, FunctionNode) and marked(node.lineno, max(node.lineno, node.body[0].lineno - 1)):
            silenced |= set(range(node.lineno, _last_line(node) + 1))
    return frozenset(silenced)


def _last_line(node: FunctionNode) -> int:
    return node.end_lineno or node.lineno
