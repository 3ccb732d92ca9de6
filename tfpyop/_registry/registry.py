"""The registry: op names, and the tokens that stand for concrete ops in graphs.

Named ops are kept for the life of the process. Local functions and bound methods are not listed, and live as long as
they are referenced. Concrete ops are found by token and referenced weakly: a graph keeps those that it calls.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import weakref
from typing import Any, Generic, Protocol, TypeVar

from tfpyop._locks import SafeLock
from tfpyop._registry.token import RULES, Token
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError, UnsupportedError, nearest

_MOST_RULES = 100
"""How deep rules of rules are looked for: tokens come from files."""


class NamedOp(Protocol):
    """What the registry needs to know of an op."""

    @property
    def module(self) -> str:
        """The module whose import defines the op."""
        ...

    @property
    def site(self) -> Site:
        """Where the op was defined."""
        ...

    @property
    def subject(self) -> str:
        """The op in error messages."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether the name holds for this process only."""
        ...

    def rule_op(self, suffix: str) -> Any:
        """Return the op of a numpy rule by the suffix of its name; None if there is none."""
        ...

    def specialize_from_payload(self, payload: str) -> Any:
        """Return the concrete op that a token with this payload stands for."""
        ...


class TokenOp(Protocol):
    """What the registry needs to know of a concrete op."""

    @property
    def name(self) -> str:
        """The name of the op."""
        ...

    @property
    def definition(self) -> NamedOp:
        """The op that it is made from."""
        ...

    @property
    def payload(self) -> str | None:
        """What its token holds next to the name; None if it cannot be written."""
        ...

    @property
    def is_batched(self) -> bool:
        """Whether its inputs have batch axes."""
        ...


NamedT = TypeVar("NamedT", bound=NamedOp)
TokenT = TypeVar("TokenT", bound=TokenOp)


class Registry(Generic[NamedT, TokenT]):
    """Names and tokens of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = SafeLock()
        self._definitions: dict[str, NamedT] = {}
        self._internal: dict[str, NamedT] = {}
        self._concrete_ops: weakref.WeakValueDictionary[str, TokenT] = weakref.WeakValueDictionary()
        self._local_tokens: weakref.WeakKeyDictionary[TokenT, str] = weakref.WeakKeyDictionary()
        self._process = os.urandom(4).hex()
        self._serial = itertools.count(1)
        self.registrations = 0
        """How often an op has replaced another one: what was found by token before may be outdated."""

    def register(self, name: str, definition: NamedT) -> None:
        """List an op under its name.

        Raises:
          RegistrationError: Another place has defined an op of this name.
        """
        with self._lock:
            known = self._definitions.setdefault(name, definition)
            if known is definition:
                return
            if not definition.site.replaces(known.site):
                raise RegistrationError(
                    f"another op already has the name {name!r}.",
                    expected="one definition for each name",
                    got=f"one at {known.site} and one at {definition.site}",
                    remedy="Rename one of the functions, or pass a different name= for one of the ops. Do not "
                    "pass name= for ops created inside a function.",
                )
            self._definitions[name] = definition
            self.registrations += 1
            for token in list(self._concrete_ops):
                if Token.parse(token).belongs_to(name):
                    self._concrete_ops.pop(token, None)

    def add_internal(self, name: str, definition: NamedT) -> None:
        """Let an op of this package be found by name without listing it."""
        self._internal[name] = definition

    def find(self, name: str) -> NamedT:
        """Return the op of this name, which may be the op of a rule.

        Raises:
          RegistrationError: There is none; the message lists the nearest names.
        """
        known = self._known(name) if isinstance(name, str) else None
        if known is None:
            raise RegistrationError(
                f"no op named {name!r} is registered.",
                remedy=f"{nearest(str(name), self._definitions)} An op is registered when its module is imported.",
            )
        return known

    def holds(self, name: str, definition: NamedOp) -> bool:
        """Return whether this very op is found under the name."""
        return self._known(name) is definition

    def has(self, name: str) -> bool:
        """Return whether there is an op of this name."""
        return self._known(name) is not None

    def names(self) -> list[str]:
        """Return all listed names, in the order of their definition."""
        return list(self._definitions)

    def unique(self, name: str) -> str:
        """Return the name with a suffix that is used once, by this process only."""
        return f"{name}#{self._process}-{next(self._serial)}"

    def token_of(self, op: TokenT) -> str:
        """Return the token of a concrete op, under which the op is found from now on.

        The token is stable if the op is listed and its static values can be written. Otherwise it is for this process
        only.
        """
        with self._lock:
            if self.is_stable(op):
                token = str(Token(op.name, op.payload or "", op.definition.module))
            else:
                token = self._local_tokens.get(op, "")
                if f"#{self._process}-" not in token:  # a forked child keeps the tokens of its parent to itself
                    token = self._local_tokens[op] = str(Token(self.unique(op.name)))
            self._concrete_ops.setdefault(token, op)
            return token

    def find_op(self, token: str) -> TokenT | None:
        """Return the concrete op that a token stands for, made again if its op is known; None if it is not.

        Raises:
          UnsupportedError: The payload of the token is invalid.
        """
        op = self._concrete_ops.get(token)
        if op is not None:
            return op
        parsed = Token.parse(token)
        known = self._known(parsed.name)
        try:
            return None if known is None else known.specialize_from_payload(parsed.payload)
        except ValueError as error:
            raise parsed.unreadable() from error

    def require_op(self, token: str) -> TokenT:
        """Return the concrete op that a token stands for.

        Raises:
          UnsupportedError: There is none; the message says why, and what to do.
        """
        op = self.find_op(token)
        if op is None:
            raise self.missing(Token.parse(token))
        return op

    def import_op(self, text: str) -> TokenT:
        """Return the concrete op that a token stands for, after importing the module of the op.

        Raises:
          UnsupportedError: The module does not define the op.
        """
        token = Token.parse(text)
        if token.module:
            importlib.import_module(token.module)
        op = self.find_op(text)
        if op is None:
            raise UnsupportedError(
                "the worker process cannot find this op.",
                subject=f"op {token.op.partition('#')[0]!r}",
                remedy="Define the op at the top level of a module that every worker can import. The script itself "
                "(__main__) is not such a module, and ops that a function creates are not at the top level.",
            )
        return op

    def missing(self, token: Token) -> UnsupportedError:
        """Return the error for a token without a concrete op: the op is unknown, or its rule is."""
        if not token.op:
            return token.unreadable(str(token))
        if token.is_local or token.is_of_main:
            return token.unknown()
        name, rule = token.name, ""
        while self._known(name) is None and name != token.op:
            name, _, rule = name.rpartition("/")
        owner = self._known(name)
        if owner is not None:
            return token.without_rule(owner.subject, rule)
        if token.module in sys.modules:
            return token.undefined(nearest(token.op, self._definitions))
        return token.unknown()

    def is_stable(self, op: TokenT) -> bool:
        """Return whether the token of a concrete op means the same in every process that imports its module."""
        return op.payload is not None and self.holds(op.name, op.definition)

    def current(self, op: TokenT) -> TokenT:
        """Return the concrete op itself, or its replacement if the op has been defined again."""
        if op.payload is None or self.is_stable(op):
            return op
        if op in self._local_tokens or op.definition.is_local:
            return op
        if op.is_batched:  # its rules look for the op without batch axes
            return op
        return self.find_op(str(Token(op.name, op.payload, op.definition.module))) or op

    def n_concrete_ops(self) -> int:
        """Return the number of concrete ops that have a token and are alive."""
        return len(self._concrete_ops)

    def begin_child(self) -> None:
        """Use names of its own in a forked child. Graphs from before the fork keep their tokens."""
        self._process = os.urandom(4).hex()

    def _known(self, name: str) -> NamedT | None:
        """Return the op of this name, which may be the op of a rule; None if there is none."""
        rules: list[str] = []
        known = self._listed(name)
        while known is None:
            name, _, rule = name.rpartition("/")
            if rule not in RULES or len(rules) == _MOST_RULES:
                return None
            rules.append(rule)
            known = self._listed(name)
        for rule in reversed(rules):
            known = None if known is None else known.rule_op(rule)
        return known

    def _listed(self, name: str) -> NamedT | None:
        known = self._definitions.get(name)
        return self._internal.get(name) if known is None else known
