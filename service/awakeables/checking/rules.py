"""The rules for the code of handlers and of their actions, as visitors of its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Final, NamedTuple, get_origin, get_type_hints

from awakeables.checking.findings import CodeFinding, RuleName
from awakeables.checking.replacements import REPLACEMENTS
from awakeables.checking.sets import is_set, set_names
from awakeables.checking.source import FunctionNode, FunctionSource
from awakeables.handlers.execution import Durable
from awakeables.handlers.objectcontext import ObjectContext
from awakeables.handlers.promises import DurablePromise


def _durable_methods(of: type) -> frozenset[str]:
    """The public methods of a class that return a durable future."""
    methods = [getattr(of, name) for name in dir(of) if not name.startswith("_")]
    returned = {each.__name__: get_type_hints(each).get("return") for each in methods if callable(each)}
    classes = {name: get_origin(hint) or hint for name, hint in returned.items()}
    return frozenset(
        name for name, each in classes.items() if isinstance(each, type) and issubclass(each, Durable)
    )


AWAITED: Final = _durable_methods(ObjectContext) - {"send"}
"""Methods of a context whose result must be awaited: that of `ctx.send` need not be."""

AWAITED_OF_PROMISES: Final = _durable_methods(DurablePromise)

IN_ACTIONS: Final = frozenset({"log", "request", "key"})
"""What an action may use of the context: reading these is not journaled."""

SWALLOWING: Final = frozenset(
    {
        "BaseException",
        "GeneratorExit",
        "asyncio.CancelledError",
        "awakeables.Suspended",
        "awakeables.errors.Suspended",
    }
)
"""Classes that also catch what drops a handler from memory."""

ORDERED: Final = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "filter"})
"""Builtins whose result has the order of their arguments."""

UNORDERED: Final = frozenset({"set", "frozenset", "sorted", "sum", "min", "max", "any", "all"})
"""Builtins whose result does not depend on it."""

COMBINATORS: Final = frozenset({"map", "quorum", "as_completed"})
"""Methods of a context that take an iterable of futures or of what they are made of."""


class PassedContext(NamedTuple):
    """A call that passes the context to a function.

    Attributes:
        function: The function's name.
        argument: Which argument the context is: its position, or its keyword.
        in_action: Whether it is made in an action.
    """

    function: str
    argument: int | str
    in_action: bool


class _Code(ast.NodeVisitor):
    """Code that has the context.

    Attributes:
        findings: What was found.
        passed: The functions to look at next.
    """

    def __init__(self, source: FunctionSource, context: str) -> None:
        self._source = source
        self._context = context
        self.findings: list[CodeFinding] = []
        self.passed: list[PassedContext] = []

    def visit_body(self) -> None:
        """Visit what a call of the function executes."""
        for statement in self._source.node.body:
            self.visit(statement)

    def _is_context(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._context

    def _method(self, node: ast.AST) -> str | None:
        """`run` of the expression `ctx.run(…)`."""
        match node:
            case ast.Call(func=ast.Attribute(value=of, attr=name)) if self._is_context(of):
                return name
            case _:
                return None

    def _is_partial(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and self._source.dotted(node.func) == "functools.partial"

    def _follow(self, call: ast.Call, *, in_action: bool) -> None:
        """Note a function that gets the context, also in `partial(function, ctx)`."""
        function, arguments = call.func, call.args
        if self._is_partial(call) and arguments:
            function, *arguments = arguments
        self._follow_function(function, arguments, call.keywords, in_action=in_action)

    def _follow_function(
        self,
        function: ast.expr,
        arguments: Sequence[ast.expr],
        keywords: Sequence[ast.keyword] = (),
        *,
        in_action: bool,
    ) -> None:
        if isinstance(function, ast.Name):
            places: list[int | str] = [at for at, each in enumerate(arguments) if self._is_context(each)]
            places += [each.arg for each in keywords if each.arg and self._is_context(each.value)]
            self.passed += [PassedContext(function.id, place, in_action) for place in places]

    def _report(self, at: ast.expr | ast.ExceptHandler, rule: RuleName, text: str) -> None:
        last = at.end_lineno if isinstance(at, ast.expr) else at.lineno
        if not self._source.silenced & {at.lineno, last}:
            self.findings.append(CodeFinding(self._source.path, at.lineno, rule, text))


class ActionCode(_Code):
    """Code that `ctx.run` executes. It may do everything, except for operations of the context."""

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_context(node.value) and node.attr not in IN_ACTIONS:
            used = f"{self._context}.{node.attr}"
            text = f"{used} in an action pauses the invocation"
            self._report(node, "ctx-in-action", f"{text}; use it before, and pass the result as an argument")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._follow(node, in_action=True)
        self.generic_visit(node)


class HandlerCode(_Code):
    """Code that each replay executes again: that of a handler, and of functions that it calls."""

    def __init__(self, source: FunctionSource, context: str) -> None:
        super().__init__(source, context)
        self._sets = set_names(source)
        self._actions = self._written_actions()
        self._in_any_order: set[ast.AST] = set()

    # Actions: their code is not the handler's, but their defaults are.

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node, [node.body])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node, node.body)

    def _visit_function(self, node: ast.Lambda | FunctionNode, body: Sequence[ast.AST]) -> None:
        if node not in self._actions:
            self.generic_visit(node)
            return
        self.visit(node.args)
        action = ActionCode(self._source, self._context)
        for each in body:
            action.visit(each)
        self.findings += action.findings
        self.passed += action.passed

    def _written_actions(self) -> set[ast.AST]:
        """The lambdas, nested functions and partials that are actions, or are used by one."""
        nodes = list(ast.walk(self._source.node))
        nested = [each for each in nodes[1:] if isinstance(each, FunctionNode)]
        actions: set[ast.AST] = set()
        pending: list[ast.AST] = []
        for call in nodes:
            if isinstance(call, ast.Call) and (action := self._action_of(call)) is not None:
                pending += [action, *call.args[2:]]
        while pending:
            node = pending.pop()
            if isinstance(node, ast.Name):
                pending += [each for each in nested if each.name == node.id and each not in actions]
            elif isinstance(node, ast.Call) and self._is_partial(node):
                actions.add(node)
                pending += node.args
            elif isinstance(node, ast.Lambda | FunctionNode):
                actions.add(node)
                pending += [each for each in ast.walk(node) if isinstance(each, ast.Name)]
        return actions

    def _action_of(self, call: ast.Call) -> ast.expr | None:
        """The action in `ctx.run(name, action, …)` or `saga.undo(name, action, …)`."""
        is_undo = isinstance(call.func, ast.Attribute) and call.func.attr == "undo"
        if not is_undo and self._method(call) != "run":
            return None
        named = (each.value for each in call.keywords if each.arg == "action")
        return call.args[1] if len(call.args) > 1 else next(named, None)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        self._follow(node, in_action=node in self._actions)
        action = self._action_of(node)
        if action is not None:
            self._follow_function(action, node.args[2:], in_action=True)
        self._check_replaced(node)
        self._check_suppress(node)
        self._check_order_of_arguments(node)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        dropped, method = None, self._method(node.value)
        if method in AWAITED:
            dropped = f"{self._context}.{method}"
        match node.value:
            case ast.Call(func=ast.Attribute(value=of, attr=name)) if self._method(of) == "promise":
                dropped = f"{self._context}.promise(…).{name}" if name in AWAITED_OF_PROMISES else None
        if dropped is not None:
            text = f"the result of {dropped} is never awaited; put `await` before it"
            self._report(node.value, "unawaited", text)
        self.generic_visit(node)

    def _check_replaced(self, node: ast.Call) -> None:
        name = self._source.dotted(node.func)
        if name == "random.Random" and node.args:  # with a seed it is the same in each replay
            return
        found = REPLACEMENTS.get(name or "")
        if found is not None:
            self._report(node, found.rule, f"{name} {found.effect}; use {found.instead}")

    # What must not be caught

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        for each in types:
            if (each is None or self._source.dotted(each) in SWALLOWING) and not _raises_again(node):
                self._report_swallowed(node, "except:" if each is None else f"except {ast.unparse(each)}")
        self.generic_visit(node)

    def _check_suppress(self, node: ast.Call) -> None:
        if self._source.dotted(node.func) == "contextlib.suppress":
            for each in node.args:
                if self._source.dotted(each) in SWALLOWING:
                    self._report_swallowed(node, f"suppress({ast.unparse(each)})")

    def _report_swallowed(self, node: ast.Call | ast.ExceptHandler, shown: str) -> None:
        what = f"`{shown}` also catches what drops a waiting handler from memory"
        self._report(node, "swallow", f"{what}; catch Exception, or raise it again with `raise`")

    # The order of sets

    def visit_For(self, node: ast.For) -> None:
        self._check_order(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if node not in self._in_any_order:
            self._check_order(node.iter)
        self.generic_visit(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._accept_any_order(node)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._check_order(node.value)
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        for each in node.elts:
            self.visit(each.value if isinstance(each, ast.Starred) else each)

    def _check_order_of_arguments(self, node: ast.Call) -> None:
        name = self._source.dotted(node.func)
        is_join = isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        for each in node.args:
            if name in UNORDERED:
                self._accept_any_order(each)
            elif name in ORDERED or is_join or self._method(node) in COMBINATORS:
                self._check_order(each)

    def _accept_any_order(self, node: ast.expr) -> None:
        """Accept a comprehension over a set, unless it has operations, which are made in that order."""
        if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp) and not any(
            isinstance(each, ast.Await) or self._is_context(each) for each in ast.walk(node)
        ):
            self._in_any_order |= set(node.generators)

    def _check_order(self, node: ast.expr) -> None:
        if is_set(node, self._source, self._sets):
            what = "a set may have another order in each process, so a replay may make other calls"
            self._report(node, "set-order", f"{what}; use sorted(…)")


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether the block has a `raise` of what it has caught."""
    for node in ast.walk(handler):
        match node:
            case ast.Raise(exc=None):
                return True
            case ast.Raise(exc=ast.Name(id=name)) if name == handler.name:
                return True
    return False
