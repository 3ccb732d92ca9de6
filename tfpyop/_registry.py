"""The registry: op names, the tokens that stand for host functions in graphs, and gradient names.

Named ops are kept for the life of the process and found by name; local functions and bound methods are not listed, and
live as long as somebody holds them. Host functions are found by token and held weakly: a graph keeps those it calls.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tfpyop.errors import RegistrationError, nearest

TOKEN_PREFIX = "tfpyop:"


@dataclass(frozen=True, slots=True)
class Site:
    """Where an op was made: enough to tell a reload from a second op of the same name."""

    file: str
    line: int
    spec: Any = field(compare=False)
    """The `__spec__` of the module as it ran: a reload makes another."""
    is_interactive: bool = False

    @classmethod
    def of(cls, function: Any, frame: FrameType) -> Site:
        """The site of a function given to `differentiable_op` in this frame."""
        code = getattr(function, "__code__", None)
        is_made_here = code is not None and code.co_filename == frame.f_code.co_filename
        module = frame.f_globals
        return cls(
            file=frame.f_code.co_filename,
            line=code.co_firstlineno if code is not None and is_made_here else frame.f_lineno,
            spec=module.get("__spec__"),
            is_interactive=module.get("__name__") == "__main__" and "__file__" not in module,
        )

    def replaces(self, other: Site) -> bool:
        """Whether an op made here is a new version of one made there, not a second op."""
        if self.is_interactive or (self.file, self.line) == (other.file, other.line):
            return True
        return self.file == other.file and self.spec is not other.spec

    def __str__(self) -> str:
        """Render as `acme/ops.py:12`, from the working directory if the file is below it."""
        path = Path(self.file)
        with contextlib.suppress(ValueError):
            path = path.relative_to(Path.cwd())
        return f"{path}:{self.line}"


class Registry:
    """Names, tokens and gradient names of one process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ops: dict[str, tuple[Any, Site]] = {}
        self._hosts: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._serial = itertools.count(1)

    def register(self, name: str, op: Any, site: Site) -> None:
        """List an op under its name.

        Raises:
          RegistrationError: Another place has made an op of this name.
        """
        with self._lock:
            known = self._ops.get(name)
            if known is not None and not site.replaces(known[1]):
                raise RegistrationError(
                    f"the name {name!r} is taken by another op.",
                    expected="one definition of each name",
                    got=f"one at {known[1]} and one at {site}",
                    remedy="Rename one of the functions, or give one of the ops a name=.",
                )
            self._ops[name] = (op, site)
            for token in [token for token in self._hosts if split_token(token)[0] == name]:
                del self._hosts[token]

    def find(self, name: str) -> Any:
        """The op of this name; RegistrationError lists the nearest names."""
        known = self._ops.get(name)
        if known is None:
            raise RegistrationError(
                f"no op named {name!r} is registered.",
                remedy=f"{nearest(name, self._ops)} An op is registered when the module that defines it is imported.",
            )
        return known[0]

    def holds(self, name: str, op: Any) -> bool:
        """Whether this very op is the one listed under the name."""
        return name in self._ops and self._ops[name][0] is op

    def names(self) -> list[str]:
        """All listed names, in the order of their definition."""
        return list(self._ops)

    def unique(self, name: str) -> str:
        """The name with a serial number that this process gives only once."""
        return f"{name}#{next(self._serial)}"

    def add_host(self, token: str, host: Any) -> Any:
        """Remember a host function by its token, unless there is one already; returns the one that counts."""
        with self._lock:
            return self._hosts.setdefault(token, host)

    def find_host(self, token: str) -> Any | None:
        """The host function a token stands for, made anew if its op is known here; None if it is not."""
        host = self._hosts.get(token)
        if host is not None or not token.startswith(TOKEN_PREFIX):
            return host
        name, payload = split_token(token)
        known = self._ops.get(name)
        return None if known is None else known[0].host_from_payload(payload)

    def n_hosts(self) -> int:
        """How many host functions are alive."""
        return len(self._hosts)


REGISTRY = Registry()


class OpsView(Mapping[str, Any]):
    """A read-only view of the registered ops by name."""

    def __getitem__(self, name: str) -> Any:
        """The op of this name; KeyError as mappings do."""
        try:
            return REGISTRY.find(name)
        except RegistrationError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        """Names in the order of definition."""
        return iter(REGISTRY.names())

    def __len__(self) -> int:
        """How many ops are registered."""
        return len(REGISTRY.names())


def make_token(name: str, payload: str) -> str:
    """The token of a host function: the op's name and, if there is more to say, canonical JSON."""
    return f"{TOKEN_PREFIX}{name}{payload}"


def split_token(token: str) -> tuple[str, str]:
    """Take a token apart into the op's name and the payload (empty or JSON)."""
    name, brace, rest = token.removeprefix(TOKEN_PREFIX).partition("{")
    return name, brace + rest


class OwnedNames:
    """Entries of a foreign table that belong to an owner and go when it is collected."""

    def __init__(self, remove: Callable[[str], Any]) -> None:
        self._remove = remove
        self._names: weakref.WeakKeyDictionary[Any, list[str]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

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
