"""Define tokens: the texts that identify concrete ops in graphs, saved models and other processes.

A token is `tfpyop:<name>`, then `@<module>` if the name does not begin with the module that defines the op, then a
payload in JSON. Tokens contain no pickles and no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfpyop.errors import UnsupportedError

PREFIX = "tfpyop:"
RULES = ("vjp", "jvp")
"""The suffixes of the names of rules' ops, after the op's own name and a slash.

The names of parameters follow if the rule is for the inputs of these parameters only: `/vjp.a.b`.
"""
_RULE_SUFFIXES = re.compile(rf"(/({'|'.join(RULES)})(\.\w+)*)+\Z")


def is_own(token: bytes) -> bool:
    """Return whether the token of a node is a tfpyop token. Tokens of other libraries may not even be text."""
    return token.startswith(PREFIX.encode())


def joined(token: str, outputs: str) -> str:
    """Append the outputs that the graph expects from a call, a list in JSON, to the token, as nodes store them."""
    return f"{token}|{outputs}"


def split(text: str) -> tuple[str, str | None]:
    """Split the result of `joined` into token and outputs.

    The outputs are None if they are missing, as in models of version 0.1. A payload may contain any text, but ends with
    a brace, and names contain no bar. The list of outputs contains no bar.
    """
    token, bar, outputs = text.rpartition("|")
    return (token, outputs) if bar and text.endswith("]") else (text, None)


def unreadable(
    got: str, *, subject: str | None = None, what: str = "this op's call data in the model"
) -> UnsupportedError:
    """Return the error for a part of a model that this version does not write."""
    return UnsupportedError(
        f"cannot parse {what}.",
        subject=subject,
        got=got,
        remedy="The file may be damaged, or a newer tfpyop wrote it. Save the model again with this version.",
    )


@dataclass(frozen=True, slots=True)
class Token:
    """Store the parts of a token.

    Attributes:
      name: The name of the op, or of the op of its rule.
      payload: The call data in addition to the inputs, as JSON. It may be empty.
      module: The module that defines the op.
    """

    name: str
    payload: str = ""
    module: str = ""

    @classmethod
    def parse(cls, text: str) -> Token:
        """Parse the text of a token."""
        head, brace, rest = text.removeprefix(PREFIX).partition("{")
        name, _, module = head.partition("@")
        return cls(name, brace + rest, module or name.partition(":")[0])

    @classmethod
    def of_node(cls, value: bytes) -> Token | None:
        """Parse the token in a node; return None if it is not a tfpyop token.

        Raises:
          UnsupportedError: The token is not text.
        """
        if not is_own(value):
            return None
        try:
            token, _ = split(value.decode())
        except UnicodeDecodeError as error:
            raise UnsupportedError(
                "the call data in the model is not text.",
                got=f"{value[:200]!r}",
                remedy="The file may be damaged. Save the model again.",
            ) from error
        return cls.parse(token)

    def __str__(self) -> str:
        """Return the text of the token."""
        is_implied = not self.module or self.name.startswith(f"{self.module}:")
        return f"{PREFIX}{self.name}{'' if is_implied else f'@{self.module}'}{self.payload}"

    @property
    def op(self) -> str:
        """The name of the op, even if the token belongs to the op of a rule, or of a rule of a rule."""
        return _RULE_SUFFIXES.sub("", self.name)

    def belongs_to(self, name: str) -> bool:
        """Return whether the token belongs to the op of this name, or to one of its rules."""
        return self.name.startswith(name) and _RULE_SUFFIXES.sub("", self.name[len(name) :]) == ""

    @property
    def is_local(self) -> bool:
        """Whether the token is valid in one process only."""
        return "#" in self.name

    @property
    def is_of_main(self) -> bool:
        """Whether the op is defined in the `__main__` module, which other programs cannot import."""
        return self.module == "__main__"

    def unreadable(self, got: str | None = None) -> UnsupportedError:
        """Return the error for call data in a model that this version does not write."""
        return unreadable(f"{self.payload if got is None else got:.200}", subject=f"op {self.op!r}")

    def without_rule(self, subject: str, rule: str) -> UnsupportedError:
        """Return the error for an op that is known but does not have this numpy rule."""
        transform, *names = rule.split(".")
        name = "gradient" if transform == "vjp" else transform
        wrt = f"(wrt={tuple(names)!r})" if names else ""
        return UnsupportedError(
            f"a model calls the op's numpy {name} rule, but the op does not have this rule.",
            subject=subject,
            expected=f"a rule attached with @op.numpy_{name}{wrt}",
            remedy="The op has changed since the model was saved. Attach the rule again, or save the model again with "
            "the current op.",
        )

    def undefined(self, hint: str) -> UnsupportedError:
        """Return the error for an op whose module is imported but does not define it."""
        return UnsupportedError(
            f"module {self.module!r} is imported, but does not define this op.",
            subject=f"op {self.op!r}",
            remedy=f"{hint} The op may have been renamed or removed since the model was saved. Define an op with this "
            "name, or save the model again.",
        )

    def unknown(self) -> UnsupportedError:
        """Return the error for a token of an op that this process does not have."""
        subject = f"op {self.op.partition('#')[0]!r}"
        if self.is_local:
            return UnsupportedError(
                "the op exists only in the process that created it.",
                subject=subject,
                remedy="Define the op at the top level of a module that both processes import, or pass name=. Pass "
                "only JSON as static values: numbers, strings, lists and dicts.",
            )
        if self.is_of_main:
            return UnsupportedError(
                "the op was defined in the __main__ module of another program.",
                subject=subject,
                remedy="Move the op to a module that both programs import.",
            )
        return UnsupportedError(
            "the op is not registered in this process.",
            subject=subject,
            remedy=f"Import the module that defines the op, {self.module!r}, before you load the model or run the "
            "graph.",
        )
