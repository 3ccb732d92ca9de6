"""Tokens: the texts that stand for host functions in graphs, saved models and other processes.

`tfpyop:<name>`, `@<module>` where the name does not begin with that of the module that defines the op, and a payload in
JSON. No pickles, no code.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "tfpyop:"
RULES = ("vjp", "jvp")
"""What the names of rules' ops end in, behind the op's own name and a slash."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart.

    Attributes:
      name: The name of the op, or of the op of its rule.
      payload: What its call has beside inputs, as JSON; may be empty.
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

    def __str__(self) -> str:
        """The token as it is written."""
        is_told = not self.module or self.name.startswith(f"{self.module}:")
        return f"{PREFIX}{self.name}{'' if is_told else f'@{self.module}'}{self.payload}"

    @property
    def op(self) -> str:
        """The name of the op, also if the token is of its rule."""
        op, _, rule = self.name.rpartition("/")
        return op if rule in RULES else self.name

    @property
    def is_local(self) -> bool:
        """Whether it holds for one process only."""
        return "#" in self.name
