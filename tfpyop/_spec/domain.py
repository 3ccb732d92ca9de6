"""Parse domains: the valid ranges of an op's inputs.

Tests draw inputs from domains. Calls are not checked against them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfpyop._spec.coercion import Array
from tfpyop.errors import RegistrationError, nearest

_INTERVAL = re.compile(
    r"\s*(?P<kind>integers?)?\s*(?:(?P<left>[\[(])(?P<low>[^,]+),(?P<high>[^,]+)(?P<right>[\])]))?\s*"
)
_EXAMPLE = 'Write an interval, for example "(0, inf)", "[-1, 1]" or "integers [0, 10]".'


@dataclass(frozen=True, slots=True)
class Interval:
    """Describe the valid values of an input.

    Attributes:
      low: The lower end; -inf if there is no lower end.
      high: The upper end; inf if there is no upper end.
      is_low_open: Whether the lower end is excluded.
      is_high_open: Whether the upper end is excluded.
      is_integer: Whether only integers are valid.
    """

    low: float = -math.inf
    high: float = math.inf
    is_low_open: bool = False
    is_high_open: bool = False
    is_integer: bool = False

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Parse an interval in mathematical notation: `[` and `]` include the end, `(` and `)` exclude it.

        Raises:
          RegistrationError: The text is not an interval, or the interval is empty.
        """
        match = _INTERVAL.fullmatch(text)
        if match is None or not text.strip():
            raise RegistrationError(f"cannot parse domain {text!r}.", remedy=_EXAMPLE)
        if match["left"] is None:
            return cls(is_integer=True)
        try:
            low, high = float(match["low"]), float(match["high"])
        except ValueError:
            raise RegistrationError(
                f"domain {text!r} has a bound that is not a number.",
                got=f"{match['low'].strip()} and {match['high'].strip()}",
                remedy=_EXAMPLE,
            ) from None
        read = cls(low, high, match["left"] == "(", match["right"] == ")", match["kind"] is not None)
        if read.is_empty:
            raise RegistrationError(
                f"domain {text!r} is empty.",
                remedy="Put the lower bound first. [1, 1] contains 1; (1, 1) is empty.",
            )
        return read

    @property
    def is_empty(self) -> bool:
        """Whether the interval contains no number."""
        if self.is_integer and math.isfinite(self.low) and math.isfinite(self.high):
            return not self.first_integer <= self.last_integer
        if self.low == math.inf or self.high == -math.inf:
            return True
        return not (self.low <= self.high) or (self.low == self.high and (self.is_low_open or self.is_high_open))

    @property
    def first_integer(self) -> float:
        """The smallest integer in the interval; -inf if the interval has no lower end."""
        if math.isinf(self.low):
            return self.low
        return math.floor(self.low) + 1 if self.is_low_open else math.ceil(self.low)

    @property
    def last_integer(self) -> float:
        """The largest integer in the interval; inf if the interval has no upper end."""
        if math.isinf(self.high):
            return self.high
        return math.ceil(self.high) - 1 if self.is_high_open else math.floor(self.high)

    def contains(self, values: Array) -> Array:
        """Return a mask of the values that lie in the interval."""
        above = values > self.low if self.is_low_open else values >= self.low
        below = values < self.high if self.is_high_open else values <= self.high
        is_whole = np.equal(np.mod(values, 1), 0) if self.is_integer else True
        result: Array = above & below & is_whole
        return result


EVERYWHERE = Interval()


@dataclass(frozen=True, slots=True)
class Domain:
    """Store the domain of an op: an interval for each parameter."""

    default: Interval = EVERYWHERE
    by_name: Mapping[str, Interval] = field(default_factory=dict)

    @classmethod
    def read(cls, value: Any, parameters: Sequence[str]) -> Domain:
        """Parse `domain=`: None, one text for all parameters, or a dict from parameter names to texts or None.

        Raises:
          RegistrationError: The value has another type, or names an unknown parameter.
        """
        if value is None:
            return cls()
        if isinstance(value, str):
            return cls(Interval.parse(value))
        if not isinstance(value, Mapping):
            raise RegistrationError("domain= is neither a string nor a dict.", got=f"{value!r:.80}", remedy=_EXAMPLE)
        for name, text in value.items():
            if name not in parameters:
                raise RegistrationError(
                    f"domain= names {name!r}, which is not an input.", remedy=nearest(str(name), parameters)
                )
            if not (text is None or isinstance(text, str)):
                raise RegistrationError(
                    f"the domain of {name!r} is not a string.",
                    got=f"{text!r:.80}",
                    remedy=f"{_EXAMPLE} Use None for an unbounded input.",
                )
        return cls(by_name={name: EVERYWHERE if text is None else Interval.parse(text) for name, text in value.items()})

    @property
    def is_everywhere(self) -> bool:
        """Whether no input is restricted."""
        return self.default == EVERYWHERE and not self.by_name

    def of(self, name: str) -> Interval:
        """Return the interval of the input with this name."""
        return self.by_name.get(name, self.default)
