"""Parse the text of a signature into the core dimensions of inputs and outputs.

Owns the grammar, and the errors that mark the position of a mistake. The grammar is NumPy's grammar for generalized
universal functions, with arithmetic (`n+1`, `2*(n-1)`, `n//2`) as sizes. `signature` defines what signatures mean for
shapes.

    signature = cores "->" cores        cores = [value {"," value}]      value = core ["?" | "*"]
    core      = "(" [dimension {"," dimension}] ")"
    dimension = atom ["?"] | sum        sum = product {("+" | "-") product}
    atom      = name | number           product = factor {"*" factor | "//" number}        factor = atom | "(" sum ")"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from tfpyop._spec.size_terms import LARGEST_SIZE, Term, evaluate
from tfpyop.errors import SignatureError

EXAMPLE = 'Write the signature as in NumPy, for example "(m,k),(k,n)->(m,n)" or "(),()->()".'
_MOST_OPERATORS = 64
"""The maximum number of operators and parentheses in one dimension, because terms are evaluated recursively."""
_TOKEN = re.compile(r"[ \t]*(?:(?P<name>[^\W\d]\w*)|(?P<number>[0-9]+)|(?P<symbol>->|//|[-+*(),?])|(?P<end>\Z))")
_GOT_INDENT = 12
"""The indentation of the actual value in error messages."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """Represent a core dimension: its text, its size as a term, and whether inputs may omit it (`?`)."""

    text: str
    term: Term
    optional: bool = False

    def size(self, sizes: Mapping[str, int | None]) -> int | None:
        """Evaluate the term. Return None if one of its names has no known size."""
        return evaluate(self.term, sizes)


Core = tuple[Dimension, ...]


class Marks(NamedTuple):
    """Store the marks after the cores of one side of a signature."""

    optional: frozenset[int] = frozenset()
    """The indices of the cores with `?`: calls may leave these inputs out."""
    repeated: int | None = None
    """The index of the core with `*`, which stands for any number of values."""


NO_MARKS = Marks()
"""The marks of a signature whose calls all have the same inputs."""


class ParsedSignature(NamedTuple):
    """Store the cores of both sides of a signature, and their marks."""

    inputs: tuple[Core, ...]
    outputs: tuple[Core, ...]
    input_marks: Marks
    output_marks: Marks


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def parse_signature(text: str) -> ParsedSignature:
    """Parse a signature into the core dimensions of its inputs and of its outputs, with their marks.

    Raises:
      SignatureError: The text does not follow the grammar.
    """
    return _Parser(text).signature()


def core_text(core: Core) -> str:
    """Return core dimensions in the notation of signatures: `(n,k?)`."""
    return f"({','.join(dimension.text + '?' * dimension.optional for dimension in core)})"


class _Parser:
    """Parse one text by recursive descent over its tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._token = _Token("symbol", "", 0, 0)
        self._is_optional: dict[str, bool] = {}
        self._n_operators = 0
        self._advance()

    def signature(self) -> ParsedSignature:
        inputs, input_marks = self._cores()
        self._take("->", "'(' or '->'" if not inputs else "',' or '->'")
        first_output = self._token
        outputs, output_marks = self._cores()
        if not outputs and self._token.kind != "end":
            self._fail("'('")
        if not outputs:
            raise SignatureError(f"signature {self._text!r} has no output.", remedy=EXAMPLE)
        if self._token.kind != "end":
            self._fail("',' or the end of the signature")
        if output_marks.optional:
            self._fail("outputs without '?', because only inputs can be optional", first_output)
        return ParsedSignature(inputs, outputs, input_marks, output_marks)

    def _cores(self) -> tuple[tuple[Core, ...], Marks]:
        if self._token.text != "(":
            return (), Marks()
        cores: list[Core] = []
        marks = Marks()
        while True:
            cores.append(self._core())
            marks = self._marked(marks, len(cores) - 1)
            if self._token.text != ",":
                return tuple(cores), marks
            self._advance()

    def _marked(self, marks: Marks, number: int) -> Marks:
        """Consume the mark after a core, if there is one."""
        mark = self._token
        if mark.text not in ("?", "*"):
            return marks
        self._advance()
        if mark.text == "?":
            return marks._replace(optional=marks.optional | {number})
        if marks.repeated is not None:
            self._fail("only one '*' on each side of '->'", mark)
        return marks._replace(repeated=number)

    def _core(self) -> Core:
        self._take("(", "'('")
        dimensions: list[Dimension] = []
        while self._token.text != ")":
            if dimensions:
                self._take(",", "',' or ')'")
            dimensions.append(self._dimension(is_first=not dimensions))
        self._advance()
        return tuple(dimensions)

    def _dimension(self, *, is_first: bool) -> Dimension:
        first = self._token
        self._n_operators = 0
        if first.kind not in ("name", "number") and first.text != "(":
            self._fail("a name, a number or ')'" if is_first else "a name or a number")
        term, text = self._sum()
        if first.text == "(" and not isinstance(term, tuple):
            self._fail("a name or a number without parentheses", first)
        is_optional = self._token.text == "?" and self._text[self._token.start - 1] not in " \t"
        if is_optional:
            if isinstance(term, tuple):
                self._fail("',' or ')', because only a name or a number can be optional")
            self._advance()
        if not isinstance(term, tuple) and self._is_optional.setdefault(text, is_optional) != is_optional:
            has, has_not = ("with '?'", "without") if is_optional else ("without '?'", "with it")
            self._fail(f"the same mark for all dimensions {text!r}; here it is {has}, before it was {has_not}", first)
        return Dimension(text, term, is_optional)

    def _sum(self) -> tuple[Term, str]:
        term, text = self._product()
        while self._token.text in ("+", "-"):
            sign = self._operator()
            right, right_text = self._product()
            term, text = (sign, term, right), f"{text}{sign}{right_text}"
        return term, text

    def _product(self) -> tuple[Term, str]:
        term, text = self._factor()
        while self._token.text in ("*", "//"):
            sign = self._operator()
            divisor = self._token
            right, right_text = self._factor()
            if sign == "//" and (not isinstance(right, int) or right == 0):
                self._fail("a divisor other than zero", divisor)
            term, text = (sign, term, right), f"{text}{sign}{right_text}"
        return term, text

    def _factor(self) -> tuple[Term, str]:
        token = self._token
        if token.kind == "name":
            self._advance()
            return token.text, token.text
        if token.kind == "number":
            self._advance()
            digits = token.text.lstrip("0") or "0"
            if len(digits) > len(str(LARGEST_SIZE)) or int(digits) > LARGEST_SIZE:  # int() rejects very long texts
                self._fail(f"a size of at most {LARGEST_SIZE}", token)
            return int(digits), digits
        if token.text != "(":
            self._fail("a name, a number or '('")
        self._operator()
        term, text = self._sum()
        self._take(")", "an operator or ')'")
        return term, f"({text})"

    def _operator(self) -> str:
        """Consume an operator or an opening parenthesis, and return it."""
        text = self._token.text
        self._n_operators += 1
        if self._n_operators > _MOST_OPERATORS:
            self._fail(f"at most {_MOST_OPERATORS} operators and parentheses in one dimension")
        self._advance()
        return text

    def _take(self, text: str, expected: str) -> None:
        if self._token.text != text or self._token.kind != "symbol":
            self._fail(expected)
        self._advance()

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._token.end)
        if match is None or match.lastgroup is None:
            rest = self._text[self._token.end :]
            start = len(self._text) - len(rest.lstrip(" \t"))
            self._fail("a name, a number or one of -> ( ) , ? + - * //", _Token("", "", start, start))
        kind, text = match.lastgroup, match[match.lastgroup]
        token = _Token(kind, text, match.start(kind), match.end())
        if kind == "name":
            text = unicodedata.normalize("NFKC", text)  # as Python compares identifiers
            if not text.isidentifier():
                self._fail("a name of letters, digits and '_'", token)
            token = token._replace(text=text)
        self._token = token

    def _fail(self, expected: str, token: _Token | None = None) -> NoReturn:
        start = (self._token if token is None else token).start
        shown = re.sub(r"\s", " ", self._text)
        raise SignatureError(
            f"cannot parse signature {self._text!r} at position {start + 1}.",
            expected=expected,
            got=f"{shown}\n{' ' * (_GOT_INDENT + start)}^",
            remedy=EXAMPLE,
        )
