"""The registry: op names, the tokens that stand for host functions in graphs, and gradient names.

Named ops are kept for the life of the process and found by name; local functions and bound methods are not listed, and
live as long as somebody holds them. Host functions are found by token and held weakly: a graph keeps those it calls.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfpyop._locks import SafeLock
from tfpyop._registry.token import RULES, Token
from tfpyop._spec.source_location import Site
from tfpyop.errors import RegistrationError, UnsupportedError, nearest

_MOST_RULES = 100
"""How deep rules of rules are looked for: tokens come from files."""


class Registry:
    """Names, tokens and gradient names of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = SafeLock()
        self._entries: dict[str, Any] = {}
        self._internal: dict[str, Any] = {}
        self._host_ops: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._local_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._process = os.urandom(4).hex()
        self._serial = itertools.count(1)
        self.registrations = 0
        """How often an op has been put in another's place: what was found by token before may be outdated."""

    def register(self, name: str, entry: Any, site: Site) -> None:
        """List an entry under its name.

        Raises:
          RegistrationError: Another place has made an op of this name.
        """
        with self._lock:
            known = self._entries.setdefault(name, entry)
            if known is entry and name.rpartition("/")[2] not in RULES:
                return
            if known is not entry and not site.replaces(known.site):
                raise RegistrationError(
                    f"the name {name!r} is taken by another op.",
                    expected="one definition of each name",
                    got=f"one at {known.site} and one at {site}",
                    remedy="Rename one of the functions, or give one of the ops a name=. An op that every call of a "
                    "function makes anew goes without a name.",
                )
            self._entries[name] = entry
            self.registrations += 1
            for token in list(self._host_ops):
                if Token.parse(token).belongs_to(name):
                    self._host_ops.pop(token, None)

    def add_internal(self, name: str, entry: Any) -> None:
        """Let an entry of the library's own be found by name; it is not listed."""
        self._internal[name] = entry

    def find(self, name: str) -> Any:
        """The entry of this name, or of the rule that belongs to it; RegistrationError lists the nearest names."""
        known = self._known(name) if isinstance(name, str) else None
        if known is None:
            raise RegistrationError(
                f"no op named {name!r} is registered.",
                remedy=f"{nearest(str(name), self._entries)} An op is registered when its module is imported.",
            )
        return known

    def holds(self, name: str, entry: Any) -> bool:
        """Whether this very entry is the one found under the name."""
        return self._known(name) is entry

    def has(self, name: str) -> bool:
        """Return whether there is an entry of this name, or a rule that belongs to one."""
        return self._known(name) is not None

    def names(self) -> list[str]:
        """All listed names, in the order of their definition."""
        return list(self._entries)

    def unique(self, name: str) -> str:
        """The name with a suffix that is given only once, and by this process alone."""
        return f"{name}#{self._process}-{next(self._serial)}"

    def token_of(self, host_op: Any) -> str:
        """The token of a host op, under which it is found from now on.

        It is stable if the op is listed and its static values can be written down. Any other is for this process only.
        """
        with self._lock:
            if self.is_stable(host_op):
                token = str(Token(host_op.name, host_op.payload, host_op.owner.module))
            else:
                token = self._local_tokens.get(host_op, "")
                if f"#{self._process}-" not in token:  # a forked child keeps the tokens of its parent to itself
                    token = self._local_tokens[host_op] = str(Token(self.unique(host_op.name)))
            self._host_ops.setdefault(token, host_op)
            return token

    def find_host_op(self, token: str) -> Any | None:
        """The host op a token stands for, made anew if its op is known here; None if it is not.

        Raises:
          UnsupportedError: What the token holds beside the name cannot be read.
        """
        host_op = self._host_ops.get(token)
        if host_op is not None:
            return host_op
        parsed = Token.parse(token)
        known = self._known(parsed.name)
        try:
            return None if known is None else known.host_op_from_payload(parsed.payload)
        except ValueError as error:
            raise parsed.unreadable() from error

    def require_host_op(self, token: str) -> Any:
        """The host op a token stands for; UnsupportedError says why there is none, and what to do."""
        host_op = self.find_host_op(token)
        if host_op is None:
            raise self.missing(Token.parse(token))
        return host_op

    def missing(self, token: Token) -> UnsupportedError:
        """The error for a token without a host op: the op is not known here, or its rule is not."""
        if token.is_local or token.is_of_main:
            return token.unknown()
        name, rule = token.name, ""
        while self._known(name) is None and name != token.op:
            name, _, rule = name.rpartition("/")
        owner = self._known(name)
        if owner is not None:
            return token.without_rule(owner.subject, rule)
        if token.module in sys.modules:
            return token.undefined(nearest(token.op, self._entries))
        return token.unknown()

    def is_stable(self, host_op: Any) -> bool:
        """Whether the token of a host op means the same in every process that imports its module."""
        return host_op.payload is not None and self.holds(host_op.name, host_op.owner)

    def current(self, host_op: Any) -> Any:
        """The host op itself, or the one in its place if its op has been made anew."""
        if host_op.payload is None or self.is_stable(host_op):
            return host_op
        if host_op in self._local_tokens or host_op.owner.is_local:
            return host_op
        if host_op.is_batched:  # its rules look for the op of one row
            return host_op
        return self.find_host_op(str(Token(host_op.name, host_op.payload, host_op.owner.module))) or host_op

    def n_host_ops(self) -> int:
        """How many host ops that have a token are alive."""
        return len(self._host_ops)

    def begin_child(self) -> None:
        """In a forked child: give out names of its own from now on. Graphs from before the fork keep their tokens."""
        self._process = os.urandom(4).hex()

    def _known(self, name: str) -> Any | None:
        """The entry of this name, or of the rule that belongs to it, if there is one."""
        rules: list[str] = []
        known = self._entry(name)
        while known is None:
            name, _, rule = name.rpartition("/")
            if rule not in RULES or len(rules) == _MOST_RULES:
                return None
            rules.append(rule)
            known = self._entry(name)
        for rule in reversed(rules):
            known = None if known is None else known.rule_entry(rule)
        return known

    def _entry(self, name: str) -> Any | None:
        known = self._entries.get(name)
        return self._internal.get(name) if known is None else known


REGISTRY = Registry()

if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=REGISTRY.begin_child)


def import_host(text: str) -> Any:
    """Return the host function that a token stands for, after importing the module of its op. Workers call this.

    Raises:
      UnsupportedError: The module does not define the op.
    """
    token = Token.parse(text)
    if token.module:
        importlib.import_module(token.module)
    op = REGISTRY.find_host_op(text)
    if op is None:
        raise UnsupportedError(
            "it is not known where its executor runs it.",
            subject=f"op {token.op.partition('#')[0]!r}",
            remedy="Make it at the top level of a module, which every worker imports. __main__ is none, and what a "
            "function makes is at no top level.",
        )
    return op.host


class OpsView(Mapping[str, Any]):
    """A read-only view of the registered ops by name."""

    def __getitem__(self, name: str) -> Any:
        """The op of this name; KeyError as mappings do."""
        if name not in REGISTRY.names():
            raise KeyError(name)
        return REGISTRY.find(name).op

    def __iter__(self) -> Iterator[str]:
        """Names in the order of definition."""
        return iter(REGISTRY.names())

    def __len__(self) -> int:
        """How many ops are registered."""
        return len(REGISTRY.names())


class OwnedNames:
    """Entries of a foreign table that belong to an owner and go when it is collected."""

    def __init__(self, remove: Callable[[str], Any]) -> None:
        self._remove = remove
        self._names: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()
        self._lock = SafeLock()

    def add(self, name: str, owner: Any) -> None:
        """Tie a name to the life of its owner."""
        with self._lock:
            names = self._names.get(owner)
            if names is None:
                names = self._names[owner] = []
                weakref.finalize(owner, _remove_all, self._remove, names).atexit = False
            names.append(name)


def _remove_all(remove: Callable[[str], Any], names: list[str]) -> None:
    for name in names:
        remove(name)
