"""Which expressions of a function are sets, as far as the function itself shows it."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection

from awakeables.checking.source import FunctionSource

_OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
_METHODS = ("union", "intersection", "difference", "symmetric_difference", "copy")


def set_names(source: FunctionSource) -> frozenset[str]:
    """The local names and parameters that stand for nothing but sets."""
    bindings = _bindings(source)
    known: frozenset[str] = frozenset()
    while True:  # until nothing is added: a set may be assigned from another one
        values = _bound_to_sets(source, known)
        found = frozenset(name for name, count in values.items() if count == bindings[name])
        if found <= known:
            return known
        known |= found


def is_set(node: ast.expr, source: FunctionSource, known: Collection[str]) -> bool:
    """Whether an expression is a set, given the names that are."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name):
            return name in known
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            return any(_is_view(each) or is_set(each, source, known) for each in (left, right))
        case ast.Call(func=ast.Attribute(value=of, attr=method)) if method in _METHODS:
            return is_set(of, source, known)
        case ast.Call(func=function):
            return source.dotted(function) in ("set", "frozenset")
        case _:
            return False


def _is_view(node: ast.expr) -> bool:
    """Whether it is `d.keys()` or `d.items()`: ordered, but their differences and the like are sets."""
    match node:
        case ast.Call(func=ast.Attribute(attr="keys" | "items"), args=[], keywords=[]):
            return True
        case _:
            return False


def _bindings(source: FunctionSource) -> Counter[str]:
    """How often each name is bound; `s |= …` does not change whether it is a set."""
    bound: Counter[str] = Counter()
    for node in ast.walk(source.node):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                bound[name] += 1
            case ast.AugAssign(target=ast.Name(id=name)):
                bound[name] -= 1
    return bound


def _bound_to_sets(source: FunctionSource, known: Collection[str]) -> Counter[str]:
    """How often each name is bound to a set, or declared as one."""
    bound: Counter[str] = Counter()
    for node in ast.walk(source.node):
        match node:
            case (
                ast.AnnAssign(target=ast.Name(id=name), annotation=ast.expr() as annotation)
                | ast.arg(arg=name, annotation=ast.expr() as annotation)
            ):
                bound[name] += _is_set_type(annotation, source)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                bound[name] += is_set(value, source, known)
    return +bound


def _is_set_type(annotation: ast.expr, source: FunctionSource) -> bool:
    of = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return source.dotted(of) in ("set", "frozenset")
