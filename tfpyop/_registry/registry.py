"""Register ops by name, and find concrete ops by their tokens in graphs.

Named ops are kept for the lifetime of the process, unless they were created with `name=` for one instance or one call:
these ops are listed as long as they are referenced. Ops of local functions and bound methods without `name=` are not
listed, and live as long as they are referenced. Concrete ops are found by token and referenced weakly. A graph keeps
the concrete ops that it calls alive.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import sys
import weakref
from abc import ABC, abstractmethod
from typing import Any, Generic, Protocol, TypeVar

from tfpyop._locks import SafeLock
from tfpyop._registry.token import RULES, Token
from tfpyop._spec.op_spec import OpSpec
from tfpyop.errors import RegistrationError, UnsupportedError, nearest

_MOST_RULES = 100
"""The maximum depth of rules of rules in a name, because tokens come from files."""


class NamedOp(ABC):
    """Store what is known of every op that a token can name: of the ops of users, and of the ops of tfpyop itself.

    Attributes:
      spec: The spec of the op.
      name: The name under which the op is registered, or a name for this process only.
      module: The module whose import defines the op.
      site: Where the op was defined.
      subject: The op's name and site for error messages.
      is_local: Whether the name is valid in this process only.
      is_bound: Whether the op is a method that is bound to an instance.
    """

    def __init__(self, spec: OpSpec, *, is_bound: bool = False) -> None:
        self.spec = spec
        self.name = spec.name
        self.module = spec.module
        self.site = spec.site
        self.subject = spec.subject
        self.is_local = spec.is_local
        self.is_bound = is_bound

    @abstractmethod
    def specialize_from_payload(self, payload: str) -> Any:
        """Return the concrete op for a token with this payload.

        Raises:
          ValueError: The payload is not a payload of this op.
          UnsupportedError: The parameters of the op have changed since the payload was written.
        """

    def rule_op(self, suffix: str) -> Any:
        """Return the op of a numpy rule by the suffix of its name; None if it does not exist."""
        return None


class TokenOp(Protocol):
    """Declare the interface of concrete ops for the registry."""

    @property
    def name(self) -> str:
        """The name of the op."""
        ...

    @property
    def definition(self) -> NamedOp:
        """The definition of the op."""
        ...

    @property
    def payload(self) -> str | None:
        """The call data in the token, next to the name; None if it cannot be written."""
        ...

    @property
    def is_batched(self) -> bool:
        """Whether the inputs have batch axes."""
        ...


NamedT = TypeVar("NamedT", bound=NamedOp)
TokenT = TypeVar("TokenT", bound=TokenOp)


class Registry(Generic[NamedT, TokenT]):
    """Manage the names and tokens of one process. All methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = SafeLock()
        self._definitions: dict[str, NamedT] = {}
        self._passing: weakref.WeakValueDictionary[str, NamedT] = weakref.WeakValueDictionary()
        self._internal: dict[str, NamedOp] = {}
        self._concrete_ops: weakref.WeakValueDictionary[str, TokenT] = weakref.WeakValueDictionary()
        self._local_tokens: weakref.WeakKeyDictionary[TokenT, str] = weakref.WeakKeyDictionary()
        self._process = os.urandom(4).hex()
        self._serial = itertools.count(1)
        self.registrations = 0
        """The number of times that an op has replaced another op. Earlier token lookups may then be outdated."""

    def register(self, name: str, definition: NamedT, *, is_kept: bool = True) -> None:
        """Register an op under its name. Unless the op `is_kept`, the name refers to it as long as it is referenced.

        Raises:
          RegistrationError: An op with this name is already defined at another site.
        """
        if self._passing.get(name) is not None:
            gc.collect()  # the op of an instance that is gone may still be part of a reference cycle
        with self._lock:
            known = self._named(name)
            own, other = (self._definitions, self._passing) if is_kept else (self._passing, self._definitions)
            if known is None or known is definition:
                self.registrations += not is_kept  # tokens may have referred to an op of this name that is gone
                own[name] = definition
                return
            if not definition.site.replaces(known.site):
                raise RegistrationError(
                    f"another op already has the name {name!r}.",
                    expected="one definition for each name",
                    got=f"one at {known.site} and one at {definition.site}",
                    remedy="Rename one of the functions, or pass a different name= for each op. Omit name= for ops "
                    "that a function creates in every call.",
                )
            other.pop(name, None)
            own[name] = definition
            self.registrations += 1
            for token in list(self._concrete_ops):
                if Token.parse(token).belongs_to(name):
                    self._concrete_ops.pop(token, None)

    def add_internal(self, op: NamedOp) -> None:
        """Make an op of tfpyop itself available to tokens, but not to users."""
        self._internal[op.name] = op

    def is_internal(self, name: str) -> bool:
        """Return whether this is the name of an op of tfpyop itself."""
        return name in self._internal

    def find(self, name: str) -> NamedT:
        """Return the op of this name, which may be the op of a rule.

        Raises:
          RegistrationError: No op has this name. The message lists the nearest names.
        """
        known = self._declared(name) if isinstance(name, str) else None
        if known is None:
            raise RegistrationError(
                f"no op named {name!r} is registered.",
                remedy=f"{nearest(str(name), self.listed())} An op is registered when its module is imported.",
            )
        return known

    def holds(self, name: str, definition: NamedOp) -> bool:
        """Return whether the name refers to this op."""
        return self._known(name) is definition

    def has(self, name: str) -> bool:
        """Return whether an op has this name."""
        return self._known(name) is not None

    def listed(self) -> dict[str, NamedT]:
        """Return the listed ops by name, in the order in which they were defined. Ops of instances come last."""
        with self._lock:
            return {**self._definitions, **dict(self._passing.items())}

    def unique(self, name: str) -> str:
        """Return the name with a unique suffix. Other processes do not use the same suffix."""
        return f"{name}#{self._process}-{next(self._serial)}"

    def token_of(self, op: TokenT) -> str:
        """Return the token of a concrete op, and make the op available under this token.

        The token is stable if the op is listed and its static values can be written. Otherwise it is valid in this
        process only.
        """
        with self._lock:
            if self.is_stable(op):
                token = str(Token(op.name, op.payload or "", op.definition.module))
            else:
                token = self._local_tokens.get(op, "")
                if f"#{self._process}-" not in token:  # a forked child does not reuse its parent's tokens
                    token = self._local_tokens[op] = str(Token(self.unique(op.name)))
            self._concrete_ops.setdefault(token, op)
            return token

    def find_op(self, token: str) -> TokenT | None:
        """Return the concrete op for a token. Create it if only its op is known; return None if the op is unknown.

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
        """Return the concrete op for a token.

        Raises:
          UnsupportedError: The op is unknown. The message has the cause and a remedy.
        """
        op = self.find_op(token)
        if op is None:
            raise self.missing(Token.parse(token))
        return op

    def import_op(self, text: str) -> TokenT:
        """Import the module of an op and return the concrete op for a token of this op.

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
        """Return the error for a token without a concrete op. Either the op or its rule is unknown."""
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
            return token.undefined(nearest(token.op, self.listed()))
        return token.unknown()

    def is_stable(self, op: TokenT) -> bool:
        """Return whether the token of a concrete op has the same meaning in every process that imports its module."""
        return op.payload is not None and self.holds(op.name, op.definition)

    def current(self, op: TokenT) -> TokenT:
        """Return the concrete op itself, or its replacement if the op has been defined again."""
        if op.payload is None or self.is_stable(op):
            return op
        if op in self._local_tokens or op.definition.is_local:
            return op
        if op.is_batched:  # its rules find the current op without batch axes
            return op
        return self.find_op(str(Token(op.name, op.payload, op.definition.module))) or op

    def begin_child(self) -> None:
        """Start to use new names in a forked child process. Graphs from before the fork keep their tokens."""
        self._process = os.urandom(4).hex()

    def _named(self, name: str) -> NamedT | None:
        """Return the op that is registered under this name."""
        known = self._definitions.get(name)
        return self._passing.get(name) if known is None else known

    def _known(self, name: str) -> NamedOp | None:
        """Return the op of this name, which may be an op of tfpyop itself; None if no op has this name."""
        return self._internal.get(name) or self._declared(name)

    def _declared(self, name: str) -> NamedT | None:
        """Return the user's op of this name, which may be the op of a rule; None if no op has this name."""
        rules: list[str] = []
        known = self._named(name)
        while known is None:
            name, _, rule = name.rpartition("/")
            if rule.partition(".")[0] not in RULES or len(rules) == _MOST_RULES:
                return None
            rules.append(rule)
            known = self._named(name)
        for rule in reversed(rules):
            known = None if known is None else known.rule_op(rule)
        return known
