"""Tokens: the texts that stand for host functions in graphs, saved models and other processes.

`tfpyop:<name>`, `@<module>` where the name does not begin with that of the module that defines the op, and a payload in
JSON. No pickles, no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfpyop.errors import UnsupportedError

PREFIX = "tfpyop:"
RULES = ("vjp", "jvp")
"""What the names of rules' ops end in, behind the op's own name and a slash."""
_RULE_SUFFIXES = re.compile(rf"(/({'|'.join(RULES)}))+\Z")


def is_own(token: bytes) -> bool:
    """Return whether the token of a node, which may be of another library and not even text, is one of ours."""
    return token.startswith(PREFIX.encode())


def joined(token: str, outputs: str) -> str:
    """Write behind a token, as nodes hold it, what the graph takes the outputs of the call to be: a list in JSON."""
    return f"{token}|{outputs}"


def split(text: str) -> tuple[str, str | None]:
    """Take apart what `joined` put together; None if there is only a token, as in models of version 0.1.

    Payloads, which may hold any text, end with a brace. The list has no bars in it.
    """
    if not text.endswith("]"):
        return text, None
    token, _, outputs = text.rpartition("|")
    return token, outputs


def unreadable(subject: str, got: str) -> UnsupportedError:
    """The error for what a model says of a call if this version does not write it."""
    return UnsupportedError(
        "cannot parse this op's call data in the model.",
        subject=subject,
        got=f"{got:.200}",
        remedy="The file may be damaged, or a newer tfpyop wrote it. Save the model again with this version.",
    )


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart.

    Attributes:
      name: The name of the op, or of the op of its rule.
      payload: The data of its call in addition to the inputs, as JSON; may be empty.
      module: The module that defines it.
    """

    name: str
    payload: str = ""
    module: str = ""

    @classmethod
    def parse(cls, text: str) -> Token:
        """Take a token apart."""
        head, brace, rest = text.removeprefix(PREFIX).partition("{")
        name, _, module = head.partition("@")
        return cls(name, brace + rest, module or name.partition(":")[0])

    @classmethod
    def of_node(cls, value: bytes) -> Token | None:
        """Read the token that a node holds; None if it is not one of ours.

        Raises:
          UnsupportedError: It is damaged.
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
        """The token as it is written."""
        is_told = not self.module or self.name.startswith(f"{self.module}:")
        return f"{PREFIX}{self.name}{'' if is_told else f'@{self.module}'}{self.payload}"

    @property
    def op(self) -> str:
        """The name of the op, also if the token is of its rule, or of a rule of that."""
        return _RULE_SUFFIXES.sub("", self.name)

    def belongs_to(self, name: str) -> bool:
        """Return whether the token is of the op of this name, or of one of its rules."""
        return self.name.startswith(name) and _RULE_SUFFIXES.sub("", self.name[len(name) :]) == ""

    @property
    def is_local(self) -> bool:
        """Whether it holds for one process only."""
        return "#" in self.name

    @property
    def is_of_main(self) -> bool:
        """Whether it is of a program, whose ops no other one can import."""
        return self.module == "__main__"

    def unreadable(self, got: str | None = None) -> UnsupportedError:
        """The error for a payload, or something beside it, that this version does not write."""
        return unreadable(f"op {self.op!r}", self.payload if got is None else got)

    def without_rule(self, subject: str, rule: str) -> UnsupportedError:
        """The error where the op is known, but has no numpy rule of this kind."""
        name = "gradient" if rule == "vjp" else rule
        return UnsupportedError(
            f"a model calls the op's numpy {name} rule, but the op does not have this rule.",
            subject=subject,
            expected=f"a rule attached with @op.numpy_{name}",
            remedy="The op has changed since the model was saved. Attach the rule again, or save the model again with "
            "the current op.",
        )

    def undefined(self, hint: str) -> UnsupportedError:
        """The error where the module of the op is imported, but does not define it."""
        return UnsupportedError(
            f"module {self.module!r} is imported, but does not define this op.",
            subject=f"op {self.op!r}",
            remedy=f"{hint} The op may have been renamed or removed since the model was saved. Define an op with this "
            "name, or save the model again.",
        )

    def unknown(self) -> UnsupportedError:
        """The error where no op of this process has this token."""
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
