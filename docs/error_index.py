"""Reads what tfpyop's errors say from the places that make them, for the page `errors.md`.

A text is read from the call that makes the error, `ContractError("...", remedy="...")`. Parts that are known only when
it is raised are shown as `…`. So the page holds every error there is, in the words of the code.
"""

import ast
import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tfpyop"
KINDS = (
    *("SignatureError", "CoercionError", "ContractError", "GradientError"),
    *("RegistrationError", "UnsupportedError", "WorkerError"),
)
MARK = re.compile(r"<!-- index of (\w+) -->")
UNKNOWN = "…"


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One error: what it says, and what it tells its reader to do."""

    problem: str
    remedies: tuple[str, ...]


def filled(page: str) -> str:
    """A page with the entries of a kind of error in the place of each mark."""
    return MARK.sub(lambda mark: "\n".join(map(as_markdown, entries(mark[1]))), page)


def as_markdown(entry: Entry) -> str:
    """An entry as the item of a list."""
    lines = [f"- `{entry.problem}`", *(re.sub(r"([\\`*_{}\[\]<>#$|~])", r"\\\1", line) for line in entry.remedies)]
    return "\n\n  ".join(lines)


@functools.cache
def entries(kind: str) -> list[Entry]:
    """All errors of a kind, by their text."""
    remedies: dict[str, list[str]] = {}
    for entry in entries_of(package(), kind):
        remedies.setdefault(entry.problem, []).extend(entry.remedies)
    return [Entry(problem, tuple(sorted(set(remedies[problem])))) for problem in sorted(remedies)]


@functools.cache
def package() -> tuple[ast.Module, ...]:
    """The modules of tfpyop."""
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py")))


def entries_of(modules: Sequence[ast.Module], kind: str) -> Iterator[Entry]:
    """The errors of a kind that modules make.

    Raises:
      ValueError: The text of one is not written down where it is made, or where its maker is called.
    """
    for function, call in calls(modules, kind):
        problem, remedy = argument(call, "problem", 0), argument(call, "remedy")
        for said, advised, place in written(problem, remedy, function, modules):
            problems = [one_line(text) for text in texts(said, place)]
            remedies = [one_line(text) for text in texts(advised, place) if not text.startswith(UNKNOWN)]
            if not problems:
                raise ValueError(f"line {call.lineno}: the text of this {kind} cannot be read: {ast.unparse(call)}")
            if len(problems) == len(remedies):  # one for each
                yield from (Entry(text, (advice,)) for text, advice in zip(problems, remedies, strict=True))
            else:
                yield from (Entry(text, tuple(dict.fromkeys(remedies))) for text in problems)


def calls(modules: Sequence[ast.AST], name: str) -> Iterator[tuple[ast.AST, ast.Call]]:
    """The calls of what has this name, each with the innermost function around it."""
    waiting: list[tuple[ast.AST, ast.AST]] = [(module, module) for module in modules]
    while waiting:
        function, node = waiting.pop()
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == name:
            yield function, node
        inner = node if isinstance(node, ast.FunctionDef) else function
        waiting += [(inner, child) for child in ast.iter_child_nodes(node)]


def argument(call: ast.Call, name: str, place: int | None = None) -> ast.expr | None:
    """What a call gives for a parameter, by name or by place."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return call.args[place] if named is None and place is not None and place < len(call.args) else named


def written(
    problem: ast.expr | None, remedy: ast.expr | None, function: ast.AST, modules: Sequence[ast.Module]
) -> Iterator[tuple[ast.expr | None, ast.expr | None, ast.AST]]:
    """Where the texts are written: here, or where this function is called, if it is given them."""
    if isinstance(function, ast.FunctionDef):
        parameters = [each.arg for each in function.args.args if each.arg != "self"]
        keywords = [each.arg for each in function.args.kwonlyargs]
        if isinstance(problem, ast.Name) and problem.id in [*parameters, *keywords]:
            for place, call in calls(modules, function.name):
                number = parameters.index(problem.id) if problem.id in parameters else None
                yield from written(argument(call, problem.id, number), argument(call, "remedy"), place, modules)
            return
    yield problem, remedy, function


def one_line(text: str) -> str:
    """A text without line breaks, and with one mark where several parts follow each other."""
    return " ".join(re.sub(rf"{UNKNOWN}+", UNKNOWN, text).split())


def texts(node: ast.expr | None, function: ast.AST) -> list[str]:
    """What an expression may say: several texts where the code chooses one, none where it says nothing."""
    if isinstance(node, ast.IfExp):
        return texts(node.body, function) + texts(node.orelse, function)
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else UNKNOWN for part in node.values)]
    if isinstance(node, ast.BinOp):
        pairs = itertools.product(texts(node.left, function) or [UNKNOWN], texts(node.right, function) or [UNKNOWN])
        return ["".join(pair) for pair in pairs]
    if isinstance(node, ast.Name):
        return [text for value in assigned(node.id, function) for text in texts(value, function)]
    return []


def assigned(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """What a function assigns to a name, in the order in which it is written."""
    for statement in ast.walk(function):
        if not isinstance(statement, ast.Assign):
            continue
        value = statement.value
        for target in statement.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield value
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=True)
                yield from (given for part, given in pairs if isinstance(part, ast.Name) and part.id == name)
