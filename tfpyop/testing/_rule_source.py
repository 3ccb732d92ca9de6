"""The source of a user's function: its syntax tree, and variants of its code that run in place of the function.

A variant replaces the code object of the function while a `with` block runs. Everything that holds the function then
runs the variant: ops, methods, closures and decorators. Does not depend on ops.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dis
import functools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

FunctionNode = ast.FunctionDef | ast.Lambda
_REWRITTEN = "@pytest_ar"
"""The name that pytest adds to functions whose assertions it rewrites."""
_FUTURE_FLAGS = 0x1FE0000
"""The flags of code for `from __future__` imports."""


class SourceError(Exception):
    """The source of a function is not available. The message says why."""


def innermost(function: Any) -> FunctionType:
    """Return the function of a user inside of decorators, methods, partial functions and callable objects.

    Raises:
      SourceError: The rule is not a function in Python code.
    """
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if hasattr(function, "get_concrete_function"):
            raise SourceError("the rule is a tf.function, which keeps its traces: remove this decorator from the rule")
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(vars(type(function)).get("__call__"), FunctionType):
            function = vars(type(function))["__call__"]
        else:
            raise SourceError("the rule is not a function in Python code")
    return function


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """The syntax tree of a function.

    Attributes:
      function: The function.
      node: Its node, without decorators, default values and annotations.
      class_name: The name of the class around it, which replaces private names; None outside of a class.
    """

    function: FunctionType
    node: FunctionNode
    class_name: str | None

    @classmethod
    def of(cls, function: FunctionType) -> FunctionSource:
        """Find the source of a function.

        Raises:
          SourceError: The source is not available, or it has changed since the function was defined.
        """
        code = function.__code__
        lines = linecache.getlines(code.co_filename, function.__globals__)
        if not lines:
            raise SourceError(f"the source of {code.co_filename} is not available")
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            raise SourceError(f"the source of {code.co_filename} cannot be parsed") from None
        candidates = [cls(function, _stripped(node), name) for node, name in _functions(tree, None, code)]
        for candidate in candidates:
            with contextlib.suppress(SourceError):
                if _is_same(candidate.code_of(candidate.node, keeps_free=False), code):
                    return candidate
        if len(candidates) == 1 and _REWRITTEN in code.co_names:
            return candidates[0]
        raise SourceError(f"the source of {code.co_filename} has changed since it was imported")

    def code_of(self, node: FunctionNode, *, keeps_free: bool = True) -> CodeType:
        """Compile a variant of the function.

        Args:
          node: The variant.
          keeps_free: Whether the variant may use fewer of the free variables.

        Raises:
          SourceError: The variant is not valid in place of the function.
        """
        function, code = self.function, self.function.__code__
        node = _keeping(node, code.co_freevars if keeps_free else ())
        body: ast.stmt = node if isinstance(node, ast.FunctionDef) else ast.Expr(node)
        names = [ast.arg(name) for name in code.co_freevars]
        body = ast.FunctionDef(
            "outer", ast.arguments([], names, None, [], [], None, []), [body], [], **_TYPE_PARAMETERS
        )
        if self.class_name is not None:
            body = ast.ClassDef(self.class_name, [], [], [body], [], **_TYPE_PARAMETERS)
        module = ast.fix_missing_locations(ast.Module([body], []))
        try:
            compiled: CodeType = compile(
                module, code.co_filename, "exec", flags=code.co_flags & _FUTURE_FLAGS, dont_inherit=True
            )
        except (SyntaxError, ValueError, RecursionError) as error:
            raise SourceError(str(error)) from None
        for _ in range(2 + (self.class_name is not None)):
            compiled = next(const for const in compiled.co_consts if isinstance(const, CodeType))
        if compiled.co_freevars != code.co_freevars:
            raise SourceError(f"{function.__qualname__} does not have the same free variables")
        return compiled


_TYPE_PARAMETERS: dict[str, Any] = {"type_params": []} if "type_params" in ast.FunctionDef._fields else {}


@contextlib.contextmanager
def running(function: FunctionType, code: CodeType) -> Iterator[None]:
    """Run other code in place of a function's code, in all threads."""
    original = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = original


def replaced(root: FunctionNode, old: ast.AST, new: ast.AST) -> FunctionNode:
    """Return a copy of a syntax tree with one node replaced."""
    copied: FunctionNode = copy.deepcopy(root, {id(old): ast.copy_location(new, old)})
    return copied


class LineRecorder:
    """Record which statements of a function run."""

    def __init__(self, source: FunctionSource) -> None:
        node = copy.deepcopy(source.node)
        self.source = source
        self._ran: set[int] = set()
        self._lines: set[int] = set()
        self._code = self._watched(source.code_of(self._marked(node)))

    @property
    def lines_not_run(self) -> list[int]:
        """The first lines of the statements that did not run."""
        return sorted(self._lines - self._ran)

    @property
    def has_run(self) -> bool:
        """Whether a statement ran."""
        return bool(self._ran)

    def __matmul__(self, line: int) -> None:
        """Record that a line runs. Marks in the code call this."""
        self._ran.add(line)

    def recording(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which lines are recorded."""
        return running(self.source.function, self._code)

    def _marked(self, node: FunctionNode) -> FunctionNode:
        if isinstance(node, ast.Lambda):
            both = ast.Tuple([self._mark(node.body.lineno), node.body], ast.Load())
            node.body = ast.Subscript(both, ast.Constant(1), ast.Load())
            return node
        docstring = node.body[0] if ast.get_docstring(node) is not None else None
        for block in [block for inner in ast.walk(node) for block in _blocks(inner)]:
            block[:] = [
                part
                for statement in block
                for part in ([] if statement is docstring else [ast.Expr(self._mark(statement.lineno))]) + [statement]
            ]
        return node

    def _mark(self, line: int) -> ast.expr:
        self._lines.add(line)
        return ast.BinOp(ast.Constant(_MARK), ast.MatMult(), ast.Constant(line))

    def _watched(self, code: CodeType) -> CodeType:
        """Return code in which the marks call this recorder."""
        consts = (
            self if const == _MARK else self._watched(const) if isinstance(const, CodeType) else const
            for const in code.co_consts
        )
        return code.replace(co_consts=tuple(consts))


_MARK = "mark of tfpyop's line recorder"


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements of a node."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block


def _functions(tree: ast.AST, class_name: str | None, code: CodeType) -> Iterator[tuple[FunctionNode, str | None]]:
    """Yield the nodes of functions that begin where the code begins, with the names of the classes around them."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.ClassDef) else class_name
        if isinstance(node, ast.Lambda) and (code.co_name, code.co_firstlineno) == ("<lambda>", node.lineno):
            yield node, class_name
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                yield node, class_name
        yield from _functions(node, inner, code)


def content_of(cell: CellType) -> Any:
    """Return the value of a variable of an enclosing function, or None if it has no value yet."""
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _stripped(node: FunctionNode) -> FunctionNode:
    """Return a node without the parts that run when the function is defined, and not when it is called."""
    node = copy.deepcopy(node)
    arguments = node.args
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [None if default is None else ast.Constant(None) for default in arguments.kw_defaults]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if isinstance(node, ast.FunctionDef):
        node.decorator_list, node.returns = [], None
    return node


def _keeping(node: FunctionNode, names: tuple[str, ...]) -> FunctionNode:
    """Return a copy of a function that uses these variables in a branch that never runs, so that they stay free."""
    if not names:
        return node
    node = copy.copy(node)
    used = ast.Tuple([ast.Name(name, ast.Load()) for name in names], ast.Load())
    if isinstance(node, ast.Lambda):
        node.body = ast.IfExp(ast.Constant(True), node.body, used)
    else:
        n_first = int(ast.get_docstring(node) is not None)
        n_first += sum(isinstance(statement, ast.Nonlocal | ast.Global) for statement in node.body)
        unused = ast.If(ast.Constant(False), [ast.Expr(used)], [])
        node.body = [*node.body[:n_first], unused, *node.body[n_first:]]
    return node


def _is_same(code: CodeType, other: CodeType) -> bool:
    """Return whether two code objects behave in the same way."""
    names = ("co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_kwonlyargcount")
    if any(getattr(code, name) != getattr(other, name) for name in names):
        return False
    inner, other_inner = ([const for const in one.co_consts if isinstance(const, CodeType)] for one in (code, other))
    return (
        _operations(code) == _operations(other)
        and len(inner) == len(other_inner)
        and all(map(_is_same, inner, other_inner))
    )


def _operations(code: CodeType) -> list[tuple[str, str]]:
    """Return the operators, constants and variables of code. How names are loaded depends on the module's imports."""
    return [
        (instruction.opname, instruction.argrepr)
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith(_COMPARED) and not isinstance(instruction.argval, CodeType)
    ]


_COMPARED = ("BINARY", "UNARY", "COMPARE", "LOAD_CONST", "LOAD_FAST", "STORE")
