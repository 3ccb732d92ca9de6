"""Mutants: variants of a rule with one realistic mistake each, made from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import CodeType, ModuleType

from tfpyop.testing._rule_source import FunctionNode, FunctionSource, SourceError, content_of, replaced

_TURNING = {"swapaxes", "transpose", "matrix_transpose", "moveaxis", "conj", "conjugate", "adjoint", "real"}
"""Functions and methods without which an array keeps its shape or nearly its values."""
_TURNED = {"T", "mT", "H", "real"}
_REDUCING = {
    *("sum", "mean", "prod", "cumsum", "cumprod", "max", "min", "flip", "diff", "roll", "take", "concatenate", "stack"),
    *("reduce_sum", "reduce_mean", "reduce_prod", "reduce_max", "reduce_min", "expand_dims", "squeeze", "concat"),
}
"""Functions and methods that take an axis."""
_AXES = {"axis", "axes", "dims"}
_SWITCHES = {"transpose_a", "transpose_b", "adjoint_a", "adjoint_b", "adjoint"}
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}
_NEVER_CHANGED = (ast.While, ast.Raise, ast.Assert, ast.JoinedStr)
"""Nodes without mutants: in a `while` loop a mutant may run forever, and texts are not derivatives."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A function with one change.

    Attributes:
      source: The source of the function.
      line: The line of the change.
      statement: The line of the statement with the change.
      kind: What the mistake is, such as `sign` or `dropped term`.
      before: The changed expression.
      after: The expression in its place.
      code: The code of the variant.
    """

    source: FunctionSource
    line: int
    statement: int
    kind: str
    before: str
    after: str
    code: CodeType


Change = tuple[str, ast.AST, ast.AST]
"""The kind of a change, the node that is replaced, and the node in its place."""


def variants_of(source: FunctionSource, *, n_inputs: int | None) -> list[Variant]:
    """Return the mutants of a rule, each once, in the order of their lines.

    Args:
      source: The source of the rule.
      n_inputs: Number of inputs of the op; None if it is unknown.
    """
    found: dict[str, Variant] = {}
    maker = _Changes(source, n_inputs)
    for kind, old, new in maker.all():
        tree = replaced(source.node, old, new)
        text = ast.unparse(ast.fix_missing_locations(tree))
        if text in found or text == ast.unparse(source.node):
            continue
        try:
            code = source.code_of(tree)
        except SourceError:  # the change is not valid at this place
            continue
        line = getattr(old, "lineno", source.node.lineno)
        found[text] = Variant(source, line, _statement(source.node, old), kind, _text(old), _text(new), code)
    return sorted(found.values(), key=lambda variant: variant.line)


def has_variants(source: FunctionSource) -> bool:
    """Return whether a rule has something to change."""
    return any(True for _ in _Changes(source, None).all())


class _Changes:
    """The changes of one function."""

    def __init__(self, source: FunctionSource, n_inputs: int | None) -> None:
        self._source = source
        self._n_inputs = n_inputs

    def all(self) -> Iterator[Change]:
        """Yield the changes of all parts of the function."""
        root = self._source.node
        if isinstance(root, ast.Lambda):
            yield from _of_result(root.body)
            yield from self._inside(root.body)
        else:
            for statement in root.body:
                yield from self._inside(statement)

    def _inside(self, node: ast.AST) -> Iterator[Change]:
        if isinstance(node, _NEVER_CHANGED) or _is_text(node):
            return
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _of_result(node.value)
        if isinstance(node, ast.Lambda):
            yield from _of_result(node.body)
        yield from self._of(node)
        for child in ast.iter_child_nodes(node):
            yield from self._inside(child)

    def _of(self, node: ast.AST) -> Iterator[Change]:
        """Yield the changes of one node."""
        if isinstance(node, ast.BinOp):
            yield from _of_operator(node)
        elif isinstance(node, ast.Call):
            yield from self._of_call(node)
        elif isinstance(node, ast.Subscript):
            yield from self._of_index(node)
        elif isinstance(node, ast.Assign):
            yield from _of_unpacking(node)
        else:
            yield from _of_other(node)

    def _of_call(self, call: ast.Call) -> Iterator[Change]:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        is_method = isinstance(function, ast.Attribute) and not self._is_module(function.value)
        own = function.value if is_method and isinstance(function, ast.Attribute) else None
        arguments = call.args if own is None else [own, *call.args]
        if name in _TURNING and arguments and not isinstance(arguments[0], ast.Starred):
            yield f"dropped {name}", call, arguments[0]
        if name == "where" and len(call.args) == 3:
            condition, yes, no = call.args
            yield "swapped branches", call, ast.Call(function, [condition, no, yes], call.keywords)
        if name in _REDUCING and len(arguments) > 1:
            for axis in _other_axes(arguments[1]):
                yield "changed axis", arguments[1], axis
        for keyword in call.keywords:
            value = keyword.value
            if keyword.arg in _AXES:
                for axis in _other_axes(value):
                    yield "changed axis", value, axis
            if keyword.arg in _SWITCHES and isinstance(value, ast.Constant) and isinstance(value.value, bool):
                yield f"changed {keyword.arg}", value, ast.Constant(not value.value)

    def _is_module(self, node: ast.AST) -> bool:
        """Return whether an expression is a module, such as `np` or `tf.linalg`, and not an array."""
        while isinstance(node, ast.Attribute):
            node = node.value
        if not isinstance(node, ast.Name):
            return False
        is_imported_here = any(
            isinstance(inner, ast.Import | ast.ImportFrom)
            and any(node.id == (alias.asname or alias.name.partition(".")[0]) for alias in inner.names)
            for inner in ast.walk(self._source.node)
        )
        function = self._source.function
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        known = function.__globals__.get(node.id)
        if node.id in cells:
            known = content_of(cells[node.id])
        return is_imported_here or isinstance(known, ModuleType)

    def _of_index(self, node: ast.Subscript) -> Iterator[Change]:
        values, index = node.value, node.slice
        if isinstance(values, ast.Attribute) and isinstance(index, ast.Constant) and isinstance(index.value, int):
            if values.attr == "inputs" and (self._n_inputs or 0) > 1:
                other = (index.value + 1) % (self._n_inputs or 1)
                yield "wrong input", node, ast.Subscript(values, ast.Constant(other), node.ctx)
            swapped = {"inputs": "outputs", "outputs": "inputs"}.get(values.attr)
            if swapped is not None and index.value == 0:
                other_values = ast.Attribute(values.value, swapped, values.ctx)
                yield (
                    f"{swapped[:-1]} instead of {values.attr[:-1]}",
                    node,
                    ast.Subscript(other_values, index, node.ctx),
                )
        if isinstance(index, ast.Tuple) and _is_constant(index.elts[:1], ...) and _is_constant(index.elts[1:2], None):
            parts = index.elts[:2] if len(index.elts) > 2 else [*index.elts, ast.Slice()]
            yield "changed axis", node, ast.Subscript(values, ast.Tuple(parts, ast.Load()), node.ctx)


def _statement(root: FunctionNode, node: ast.AST) -> int:
    """Return the line of the innermost statement, or of the body of a lambda, that contains a node."""
    line = root.body.lineno if isinstance(root, ast.Lambda) else root.lineno
    outer: ast.AST = root
    while outer is not node:
        outer = next(child for child in ast.iter_child_nodes(outer) if any(inner is node for inner in ast.walk(child)))
        if isinstance(outer, ast.stmt):
            line = outer.lineno
    return line


def _of_operator(node: ast.BinOp) -> Iterator[Change]:
    left, right = node.left, node.right
    if isinstance(node.op, ast.Add | ast.Sub):
        is_sum = isinstance(node.op, ast.Add)
        yield "sign", node, ast.BinOp(left, ast.Sub() if is_sum else ast.Add(), right)
        yield "dropped term", node, left
        yield "dropped term", node, right if is_sum else ast.UnaryOp(ast.USub(), right)
    elif isinstance(node.op, ast.Mult):
        yield "dropped factor", node, left
        yield "dropped factor", node, right
    elif isinstance(node.op, ast.Div | ast.FloorDiv):
        yield "dropped factor", node, left
    elif isinstance(node.op, ast.Pow) and isinstance(right, ast.Constant) and isinstance(right.value, int | float):
        yield "exponent", node, ast.BinOp(left, ast.Pow(), ast.Constant(right.value + 1))


def _of_other(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of signs, transposed arrays, branches and comparisons."""
    if isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            yield "sign", node, node.operand
    elif isinstance(node, ast.Attribute):
        if node.attr in _TURNED:
            yield f"dropped .{node.attr}", node, node.value
    elif isinstance(node, ast.IfExp):
        yield "swapped branches", node, ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Compare):
        opposite = _OPPOSITE.get(type(node.ops[0])) if len(node.ops) == 1 else None
        if opposite is not None:
            yield "opposite comparison", node, ast.Compare(node.left, [opposite()], node.comparators)


def _of_result(value: ast.expr) -> Iterator[Change]:
    """Yield the changes of what a rule returns: a cotangent or tangent, or a tuple or list."""
    elements = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
    is_several = isinstance(value, ast.Tuple | ast.List)
    for element in elements:
        if isinstance(element, ast.Starred) or _is_constant([element], None):
            continue
        if not (isinstance(element, ast.UnaryOp) and isinstance(element.op, ast.USub)):
            yield "sign", element, ast.UnaryOp(ast.USub(), element)
        yield "factor", element, ast.BinOp(ast.Constant(2), ast.Mult(), element)
        if is_several:
            yield "dropped result", element, ast.Constant(None)
    for number, _ in enumerate(pairwise(elements)):
        swapped = [*elements[:number], elements[number + 1], elements[number], *elements[number + 2 :]]
        in_other_order = (ast.List if isinstance(value, ast.List) else ast.Tuple)(swapped, ast.Load())
        yield "results in the wrong order", value, in_other_order


def _of_unpacking(node: ast.Assign) -> Iterator[Change]:
    """Yield the changes of `x, y = op.inputs`: any two neighbors swapped."""
    [target, *others] = node.targets
    if others or not isinstance(target, ast.Tuple) or not isinstance(node.value, ast.Attribute):
        return
    names = target.elts
    if node.value.attr != "inputs" or not all(isinstance(name, ast.Name) for name in names):
        return
    for number, _ in enumerate(pairwise(names)):
        swapped = [*names[:number], names[number + 1], names[number], *names[number + 2 :]]
        yield "wrong input", node, ast.Assign([ast.Tuple(swapped, ast.Store())], node.value)


def _other_axes(node: ast.expr) -> Iterator[ast.expr]:
    """Yield other axes in place of a constant axis, or of a tuple of constant axes."""
    try:
        axis = ast.literal_eval(node)
    except (ValueError, TypeError):  # not a constant
        return
    if isinstance(axis, tuple | list) and len(axis) > 1 and all(isinstance(one, int) for one in axis):
        yield _number(axis[0])
    elif isinstance(axis, int) and not isinstance(axis, bool):
        yield _number(axis - 1 if axis == -1 else axis + 1)


def _number(value: int) -> ast.expr:
    return ast.parse(str(value), mode="eval").body


def _is_constant(nodes: list[ast.expr], value: object) -> bool:
    return bool(nodes) and isinstance(nodes[0], ast.Constant) and nodes[0].value is value


def _is_text(node: ast.AST) -> bool:
    """Return whether a node is a text or an annotation's statement without a value."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
