"""The rules for the code of handlers and of their actions, as visitors of its syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, TypeAlias, get_origin, get_type_hints

from awakeables.checking.findings import CodeFinding, RuleName
from awakeables.checking.replacements import METHODS, REPLACEMENTS
from awakeables.checking.sets import is_set, set_names
from awakeables.checking.source import FunctionNode, FunctionSource, bound_name
from awakeables.handlers.execution import Awakeable, Durable
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
AWAITED_OF_AWAKEABLES: Final = _durable_methods(Awakeable)

BLOCKS: Final = frozenset({"timeout", "shield", "saga"})
"""Methods of a context whose result does something only in `async with`."""

SETTLING: Final = frozenset({"resolve_awakeable", "reject_awakeable"})

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

UNORDERED: Final = frozenset({"set", "frozenset", "sorted", "sum", "min", "max", "any", "all", "len"})
"""Builtins whose result does not depend on it."""

COMBINATORS: Final = frozenset({"map", "quorum", "as_completed"})
"""Methods of a context that take an iterable of futures or of what they are made of."""


ActionParameters: TypeAlias = Callable[[str], Collection[tuple[str, int]]]
"""Given a function's name: its parameters that it passes on to `ctx.run` as an action, with their places."""

IsAsync: TypeAlias = Callable[[str], bool]
"""Given a function's name, with dots if it is a method: whether it is a coroutine function."""


class PassedContext(NamedTuple):
    """A call that passes the context to a function.

    Attributes:
        function: The function's name, with dots if it is a method.
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
        waits: Whether it creates awakeables.
        settles: Where it settles some.
    """

    def __init__(self, source: FunctionSource, context: str) -> None:
        self._source = source
        self._context = context
        self.findings: list[CodeFinding] = []
        self.passed: list[PassedContext] = []
        self.waits = False
        self.settles: list[ast.Call] = []

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
        name = _path(function)
        if name is not None:
            places: list[int | str] = [at for at, each in enumerate(arguments) if self._is_context(each)]
            places += [each.arg for each in keywords if each.arg and self._is_context(each.value)]
            self.passed += [PassedContext(name, place, in_action) for place in places]

    def finding(
        self, at: ast.expr | ast.stmt | ast.ExceptHandler, rule: RuleName, text: str
    ) -> Iterator[CodeFinding]:
        """A finding, unless its line is silenced."""
        last = at.lineno if isinstance(at, ast.ExceptHandler) else at.end_lineno
        if not self._source.silenced & {at.lineno, last}:
            yield CodeFinding(self._source.path, at.lineno, rule, text)

    def _report(self, at: ast.expr | ast.stmt | ast.ExceptHandler, rule: RuleName, text: str) -> None:
        self.findings += self.finding(at, rule, text)


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

    def __init__(
        self, source: FunctionSource, context: str, action_parameters: ActionParameters, is_async: IsAsync
    ) -> None:
        super().__init__(source, context)
        self._action_parameters = action_parameters
        self._is_async = is_async
        nodes = list(ast.walk(source.node))
        self._bound_here = Counter(_bound_names(nodes[1:]))
        self._coroutines = {
            each.name
            for each in _own_nodes(source.node.body)
            if isinstance(each, ast.AsyncFunctionDef)
            and not each.decorator_list
            and self._bound_here[each.name] == 1
        }
        self._awakeables = set(self._names_of_awakeables(nodes))
        self._sets = set_names(source)
        self._actions = self._written_actions()
        self._in_any_order: set[ast.AST] = set()
        self._without_await: set[ast.AST] = set()

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
        bound = bound_from(nodes)
        actions: set[ast.AST] = set()
        pending: list[ast.AST] = []
        for call in nodes:
            if isinstance(call, ast.Call):
                if (action := self._action_of(call)) is not None:
                    pending += [action, *call.args[2:]]
                pending += self._passed_actions(call)
        while pending:
            node = pending.pop()
            if isinstance(node, ast.Name):
                pending += [each for each in nested if each.name == node.id and each not in actions]
                pending += bound.pop(node.id, ())
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

    def _passed_actions(self, call: ast.Call) -> Iterator[ast.expr]:
        """The arguments that a function passes on as an action."""
        if isinstance(call.func, ast.Name):
            for name, place in self._action_parameters(call.func.id):
                yield from call.args[place : place + 1]
                yield from (each.value for each in call.keywords if each.arg == name)

    # Calls

    def visit_Call(self, node: ast.Call) -> None:
        self._follow(node, in_action=node in self._actions)
        action = self._action_of(node)
        if action is not None:
            self._follow_function(action, node.args[2:], in_action=True)
        self._check_replaced(node)
        self._check_suppress(node)
        self._check_order_of_arguments(node)
        self._check_heartbeat(node)
        method = self._method(node)
        self.waits = self.waits or method == "awakeable"
        if method in SETTLING:
            self.settles.append(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            self._check_order(node.func.value)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and (text := self._dropped(call)) is not None:
            self._report(call, "unawaited", text)
        self.generic_visit(node)

    def _dropped(self, call: ast.Call) -> str | None:
        """What is lost if nothing is done with the result of a call; None: nothing is."""
        dropped, path, method = None, _path(call.func), self._method(call)
        if method in AWAITED:
            dropped = f"{self._context}.{method}"
        elif method in BLOCKS:
            return f"{self._context}.{method} by itself does nothing; use `async with`"
        elif method == "as_completed":
            return f"{self._context}.as_completed by itself does nothing; use `async for`"
        elif path is not None and self._makes_coroutine(path):
            what = f"the coroutine {path}(…) is never awaited, so nothing of it happens"
            return f"{what}; put `await` before it, or pass it to {self._context}.gather"
        match call.func:
            case ast.Attribute(value=of, attr=name) if self._method(of) == "promise":
                dropped = f"{self._context}.promise(…).{name}" if name in AWAITED_OF_PROMISES else None
            case ast.Attribute(value=ast.Name(id=of), attr=name) if of in self._awakeables:
                dropped = f"{of}.{name}" if name in AWAITED_OF_AWAKEABLES else None
        return None if dropped is None else f"the result of {dropped} is never awaited; put `await` before it"

    def _makes_coroutine(self, path: str) -> bool:
        """Whether it is the name of a coroutine function, and of nothing else in this function."""
        first = path.partition(".")[0]
        return path in self._coroutines or (not self._bound_here[first] and self._is_async(path))

    def _names_of_awakeables(self, nodes: Sequence[ast.AST]) -> Iterator[str]:
        """The names that `ctx.awakeable(…)` is assigned to."""
        for node in nodes:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if (
                    self._method(value) == "awakeable"
                ):
                    yield name

    def _check_heartbeat(self, node: ast.Call) -> None:
        """Warn of a silence that the time-out always cuts short, where both are written there."""
        if self._method(node) != "awakeable":
            return
        given = {each.arg: self._duration(each.value) for each in node.keywords}
        silence, timeout = given.get("heartbeat_timeout"), given.get("timeout")
        if silence is not None and timeout is not None and silence >= timeout:
            text = "heartbeat_timeout is not shorter than timeout, so it never decides; make it shorter"
            self._report(node, "heartbeat", text)

    def _duration(self, node: ast.expr) -> timedelta | None:
        """The value of `timedelta(…)` with numbers."""
        if not isinstance(node, ast.Call) or self._source.dotted(node.func) != "datetime.timedelta":
            return None
        try:
            numbers = {each.arg or "": float(ast.literal_eval(each.value)) for each in node.keywords}
            return timedelta(*[float(ast.literal_eval(each)) for each in node.args], **numbers)
        except (ValueError, TypeError, OverflowError):
            return None

    def _check_replaced(self, node: ast.Call) -> None:
        name = self._source.dotted(node.func)
        if name == "random.Random" and node.args:  # with a seed it is the same in each replay
            return
        found = REPLACEMENTS.get(name or "")
        if found is None and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            found = METHODS.get(name)
        if found is not None:
            self._report(node, found.rule, f"{name} {found.effect}; use {found.instead}")

    # What must not be caught

    def visit_Try(self, node: ast.Try) -> None:
        # Only at an await is a handler dropped from memory.
        if not _awaits(node.body):
            self._without_await |= set(node.handlers)
        elif (left := _return_in(node.finalbody)) is not None:
            self._report_swallowed(left, "return in finally:")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        if not _awaits(node.body):
            self._without_await |= {item.context_expr for item in node.items}
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        for each in types:
            swallows = each is None or self._source.dotted(each) in SWALLOWING
            if swallows and node not in self._without_await and not _raises_again(node):
                self._report_swallowed(node, "except:" if each is None else f"except {ast.unparse(each)}")
        self.generic_visit(node)

    def _check_suppress(self, node: ast.Call) -> None:
        if self._source.dotted(node.func) == "contextlib.suppress" and node not in self._without_await:
            for each in node.args:
                if self._source.dotted(each) in SWALLOWING:
                    self._report_swallowed(node, f"suppress({ast.unparse(each)})")

    def _report_swallowed(self, node: ast.Call | ast.ExceptHandler | ast.Return, shown: str) -> None:
        what = f"`{shown}` also catches what drops a waiting handler from memory"
        instead = "return after it" if isinstance(node, ast.Return) else "catch Exception"
        self._report(node, "swallow", f"{what}; {instead}, or raise it again with `raise`")

    # The order of sets

    def visit_For(self, node: ast.For) -> None:
        if not all(map(self._is_in_any_order, node.body)):
            self._check_order(node.iter)
        self.generic_visit(node)

    def _is_in_any_order(self, node: ast.stmt) -> bool:
        """Whether a statement only counts, or adds to a set, so that its order does not matter."""
        match node:
            case ast.Pass():
                return True
            case ast.If(test=test, body=body, orelse=orelse):
                return not self._has_operations(test) and all(map(self._is_in_any_order, [*body, *orelse]))
            case ast.AugAssign(op=ast.Add() | ast.Sub(), value=ast.Constant(value=int())):
                return True
            case ast.AugAssign(
                op=ast.Add() | ast.Sub(), value=ast.Call(func=ast.Name(id="len" | "int")) as call
            ):
                return not self._has_operations(call)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=of, attr="add" | "discard")) as call):
                return is_set(of, self._source, self._sets) and not self._has_operations(call)
            case _:
                return False

    def _has_operations(self, node: ast.expr) -> bool:
        return any(isinstance(each, ast.Await) or self._is_context(each) for each in ast.walk(node))

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(each, ast.Tuple | ast.List) for each in node.targets):
            self._check_order(node.value)
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
        comprehension = ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp
        if isinstance(node, comprehension) and not self._has_operations(node):
            self._in_any_order |= set(node.generators)

    def _check_order(self, node: ast.expr) -> None:
        if is_set(node, self._source, self._sets):
            what = "a set may have another order in each process, so a replay may make other calls"
            self._report(node, "set-order", f"{what}; use sorted(…)")


def action_parameters(source: FunctionSource) -> list[tuple[str, int]]:
    """The parameters of a function that it passes on as an action: `ctx.run(name, parameter)`."""
    given = source.node.args
    places = [each.arg for each in (*given.posonlyargs, *given.args)]
    found = []
    for node in ast.walk(source.node):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=of), attr="run" | "undo"),
                args=[_, ast.Name(id=name), *_],
            ):
                if of in places and name in places:
                    found.append((name, places.index(name)))
    return found


def bound_from(nodes: Sequence[ast.AST]) -> dict[str, list[ast.AST]]:
    """What may be a function in what each name is assigned from, or iterates over."""
    bound: dict[str, list[ast.AST]] = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                pass
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                targets = [target]
            case (
                ast.NamedExpr(target=target, value=value)
                | ast.AnnAssign(target=target, value=ast.expr() as value)
            ):
                targets = [target]
            case _:
                continue
        names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        for name in names:
            bound.setdefault(name, []).extend(_functions_in(value))
    return bound


def _functions_in(value: ast.expr) -> Iterator[ast.AST]:
    """What may be a function in an expression: itself or an item of it, but not an argument of a call."""
    match value:
        case ast.Lambda() | ast.Name():
            yield value
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Dict(values=items):
            for each in items:
                yield from _functions_in(each)
        case ast.IfExp(body=one, orelse=other):
            yield from _functions_in(one)
            yield from _functions_in(other)
        case ast.Call(func=ast.Attribute(value=of, attr="items" | "values"), args=[]):
            yield from _functions_in(of)
        case ast.Call(func=ast.Name(id="enumerate" | "zip" | "list" | "tuple" | "reversed"), args=items):
            for each in items:
                yield from _functions_in(each)
        case ast.Call():  # `partial(…)`
            yield value
        case _:
            pass


def _path(node: ast.expr) -> str | None:
    """A name, or names with dots; None: it is something else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            of = _path(value)
            return None if of is None else f"{of}.{name}"
        case _:
            return None


def _bound_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Each name as often as these nodes bind it, in whatever scope."""
    for node in nodes:
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif (name := bound_name(node)) is not None:
            yield name


def _own_nodes(statements: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """The nodes of statements, without the bodies of functions that they define."""
    pending: list[ast.AST] = list(statements)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.Lambda | FunctionNode):
            pending += ast.iter_child_nodes(node)


def _awaits(statements: Sequence[ast.stmt]) -> bool:
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
    return any(
        isinstance(each, waits) or (isinstance(each, ast.comprehension) and each.is_async)
        for each in _own_nodes(statements)
    )


def _return_in(statements: Sequence[ast.stmt]) -> ast.Return | None:
    return next((each for each in _own_nodes(statements) if isinstance(each, ast.Return)), None)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether the block has a `raise` of what it has caught."""
    for node in ast.walk(handler):
        match node:
            case ast.Raise(exc=None):
                return True
            case ast.Raise(exc=ast.Name(id=name)) if name == handler.name:
                return True
    return False
