"""Reads what tfpyop's errors say from the places that make them, for the page `errors.md`.

A text is read from the call that makes the error, `ContractError("...", remedy="...")`. Parts that are known only when
it is raised are shown as `…`. So the page holds every error there is, in the words of the code.
"""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tfpyop"
KINDS = (
    *("SignatureError", "CoercionError", "ContractError", "GradientError"),
    *("RegistrationError", "UnsupportedError", "WorkerError"),
)
MARK = re.compile(r"<!-- index of (\w+) -->")
UNKNOWN = "…"
_NONE = ast.arguments([], [], None, [], [], None, [])
Parts = dict[str, ast.expr | None]  # of an error, by the name of the argument


@dataclass(frozen=True, slots=True, order=True)
class ErrorEntry:
    """One error: the problem, and its remedies."""

    problem: str
    remedies: tuple[str, ...]


def filled(page: str) -> str:
    """A page with the entries of a kind of error in the place of each mark."""
    return MARK.sub(lambda mark: "\n".join(map(as_markdown, package().entries(mark[1]))), page)


def as_markdown(entry: ErrorEntry) -> str:
    """An entry as the item of a list."""
    lines = [f"- `{entry.problem}`", *(re.sub(r"([\\`*_{}\[\]<>#$|~])", r"\\\1", line) for line in entry.remedies)]
    return "\n\n  ".join(lines)


@functools.cache
def package() -> "Errors":
    """The errors of tfpyop."""
    return Errors([ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))])


@dataclass(frozen=True, slots=True)
class Place:
    """Where an expression stands: the innermost function around it, if there is one, and the module."""

    function: ast.FunctionDef | None
    module: ast.Module

    @property
    def parameters(self) -> dict[str, int | None]:
        """The parameters of the function, each with its number if it may be given by that."""
        positional = [each.arg for each in self._arguments.args if each.arg != "self"]
        keywords = dict.fromkeys(each.arg for each in self._arguments.kwonlyargs)
        return {**keywords, **{name: number for number, name in enumerate(positional)}}

    @property
    def defaults(self) -> dict[str, ast.expr]:
        """The defaults of keyword-only parameters."""
        pairs = zip(self._arguments.kwonlyargs, self._arguments.kw_defaults, strict=True)
        return {each.arg: default for each, default in pairs if default is not None}

    @property
    def _arguments(self) -> ast.arguments:
        return _NONE if self.function is None else self.function.args


@dataclass(frozen=True)
class Errors:
    """The errors that modules make."""

    modules: list[ast.Module]

    def entries(self, kind: str) -> list[ErrorEntry]:
        """All errors of a kind, by their text.

        Raises:
          ValueError: The text of one is not written down where it is made, or where its maker is called.
        """
        remedies: dict[str, list[str]] = {}
        for place, call in self._calls.get(kind, []):
            for problem, advice in self._entries_of(call, place):
                remedies.setdefault(problem, []).extend(advice)
        return [ErrorEntry(problem, tuple(sorted(set(remedies[problem])))) for problem in sorted(remedies)]

    def _entries_of(self, call: ast.Call, place: Place) -> Iterator[tuple[str, list[str]]]:
        """The texts of the problem that a call may tell, each with its remedies, or with what was expected."""
        parts = {"problem": _argument(call, "problem", 0)}
        parts |= {name: _argument(call, name) for name in ("remedy", "expected")}
        for written, where in self._as_written(parts, place):
            problems = self._lines(written["problem"], where)
            remedies = self._lines(written["remedy"], where)
            if not remedies:
                remedies = [f"Expected: {text}" for text in self._lines(written["expected"], where)]
            if not problems:
                raise ValueError(f"line {call.lineno}: the text of an error cannot be read: {ast.unparse(call)}")
            if len(problems) == len(remedies):  # one for each
                yield from ((problem, [remedy]) for problem, remedy in zip(problems, remedies, strict=True))
            else:
                yield from ((problem, remedies) for problem in problems)

    def _as_written(self, parts: Parts, place: Place) -> Iterator[tuple[Parts, Place]]:
        """The parts of an error where they are written: in its call, or in those of the function around that."""
        problem = parts["problem"]
        if not isinstance(problem, ast.Name) or problem.id not in place.parameters:
            yield parts, place
            return
        for given, maker, where in self._given(problem.id, place):
            yield from self._as_written({**parts, "problem": given, "remedy": _argument(maker, "remedy")}, where)

    def _given(self, parameter: str, place: Place) -> Iterator[tuple[ast.expr, ast.Call, Place]]:
        """What the calls of a function give for one of its parameters."""
        assert place.function is not None
        for where, call in self._calls.get(place.function.name, []):
            given = _argument(call, parameter, place.parameters[parameter])
            if given is not None:
                yield given, call, where
            elif parameter in place.defaults:
                yield place.defaults[parameter], call, place

    @functools.cached_property
    def _calls(self) -> dict[str | None, list[tuple[Place, ast.Call]]]:
        """All calls, by the name of what is called."""
        found: dict[str | None, list[tuple[Place, ast.Call]]] = {}
        for module in self.modules:
            waiting: list[tuple[ast.FunctionDef | None, ast.AST]] = [(None, module)]
            while waiting:
                function, node = waiting.pop()
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "id", getattr(node.func, "attr", None))
                    found.setdefault(name, []).append((Place(function, module), node))
                inner = node if isinstance(node, ast.FunctionDef) else function
                waiting += [(inner, child) for child in ast.iter_child_nodes(node)]
        return found

    def _lines(self, node: ast.expr | None, place: Place) -> list[str]:
        """What an expression may say, each text on one line, with one mark where unknown parts follow each other."""
        texts = [re.sub(rf"{UNKNOWN}+", UNKNOWN, text) for text in self._texts(node, place)]
        return [" ".join(text.split()) for text in texts if re.search(r"\w", text)]

    def _texts(self, node: ast.expr | None, place: Place) -> list[str]:
        """What an expression may say: several texts where the code chooses one, none where it says nothing."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.IfExp(body=first, orelse=second):
                return self._texts(first, place) + self._texts(second, place)
            case ast.List(elts=several) | ast.BoolOp(values=several):
                return [text for each in several for text in self._texts(each, place)]
            case ast.JoinedStr() | ast.BinOp():
                parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
                texts = [self._texts(part, place) or [UNKNOWN] for part in parts]
                return ["".join(choice) for choice in itertools.product(*texts)]
            case ast.FormattedValue(value=ast.IfExp() as chosen):
                return self._texts(chosen, place)
            case ast.Name():
                return self._texts_of_name(node.id, place)
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.GeneratorExp(generators=[each])]):
                return self._texts(each.iter, place)
            case ast.Call(func=ast.Name(id=name)):
                return [text for function in self._functions(name, place) for text in self._returned(function)]
        return []

    def _texts_of_name(self, name: str, place: Place) -> list[str]:
        """What is assigned to a name, or added to that, in the function or else in its module; or what it is given."""
        if name in place.parameters:
            return [text for given, _, where in self._given(name, place) for text in self._texts(given, where)]
        for scope in filter(None, [place.function, place.module]):
            texts: list[str] = []
            for value, is_added in _assigned(name, scope):
                more = self._texts(value, place)
                texts += [first + then for first in texts for then in more or [UNKNOWN]] if is_added else more
            if texts:
                return texts
        return []

    def _returned(self, place: Place) -> list[str]:
        """What a function may return."""
        assert place.function is not None
        returned = [each.value for each in ast.walk(place.function) if isinstance(each, ast.Return)]
        return [text for value in returned for text in self._texts(value, place)]

    def _functions(self, name: str, place: Place) -> list[Place]:
        """The functions of this name: what is given as such, or those of the module itself, or of another."""
        if name in place.parameters:
            given = [(value.id, where) for value, _, where in self._given(name, place) if isinstance(value, ast.Name)]
            return [function for own, where in dict(given).items() for function in self._functions(own, where)]
        for modules in ([place.module], self.modules):
            nodes = [(node, module) for module in modules for node in module.body if isinstance(node, ast.FunctionDef)]
            found = [Place(node, module) for node, module in nodes if node.name == name]
            if found:
                return found
        return []


def _argument(call: ast.Call, name: str, number: int | None = None) -> ast.expr | None:
    """What a call gives for a parameter, by name or by its number."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return call.args[number] if named is None and number is not None and number < len(call.args) else named


def _assigned(name: str, scope: ast.FunctionDef | ast.Module) -> Iterator[tuple[ast.expr, bool]]:
    """What is assigned to a name, in the order in which it is written, and whether it is added to what it was."""
    statements = [*ast.walk(scope)] if isinstance(scope, ast.FunctionDef) else scope.body
    for statement in sorted(statements, key=lambda statement: getattr(statement, "lineno", 0)):
        match statement:
            case ast.AugAssign(target=ast.Name(id=target), value=value) if target == name:
                yield value, True
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                yield value, False
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    if isinstance(target, ast.Name) and target.id == name:
                        yield value, False
                    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        pairs = zip(target.elts, value.elts, strict=True)
                        yield from ((given, False) for part, given in pairs if getattr(part, "id", None) == name)
