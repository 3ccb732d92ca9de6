"""Record what the examples of checks contained, and which inputs and static parameters were not tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from tfpyop import Op
from tfpyop._spec.coercion import dtype_kind
from tfpyop.testing._examples import Arguments
from tfpyop.testing._ops import spec_of
from tfpyop.testing._static import is_fixed

_ARRAYS = (np.ndarray, np.generic, float, int, complex, tf.Tensor)
"""The types of inputs that count. Ragged and sparse tensors do not."""
_MOST_VALUES = 2
"""Number of different values of a static parameter that are kept: two show that the parameter varied."""


DRAWS_COMPLEX = 'arguments(op, dtypes=["complex128"])'
"""The call that draws complex inputs."""


class UntestedWarning(UserWarning):
    """Warn that a check passed, although a part of the op was not tested."""


@dataclass(frozen=True, slots=True)
class NotTested:
    """A part of an op that no example tested.

    Attributes:
      what: What was not tested, such as `complex inputs`.
      remedy: What to do to test it. None if nothing needs to be done.
      is_warning: Whether the op certainly has this part, so that it should be tested.
      option: The name of the static parameter that did not vary, if it is about a static parameter.
    """

    what: str
    remedy: str | None = None
    is_warning: bool = False
    option: str | None = None

    def __str__(self) -> str:
        """Return what was not tested, and the remedy."""
        return self.what if self.remedy is None else f"{self.what}. {self.remedy}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """The contents of the examples of one check, or of several checks.

    Attributes:
      n_examples: Number of examples.
      largest_size: The largest size of a dimension.
      kinds: The kinds of dtypes, as letters of numpy: `"f"` floating, `"c"` complex, `"i"`, `"u"`, `"b"`.
      has_nan: Whether an input contained NaN.
      static: For each static parameter, up to two different values as text.
    """

    n_examples: int = 0
    largest_size: int = 0
    kinds: frozenset[str] = frozenset()
    has_nan: bool = False
    static: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, op: Op[..., Any], arguments: Arguments) -> Drawn:
        """Return what one example contains."""
        leaves = [np.asarray(leaf) for leaf in arguments.leaves if isinstance(leaf, _ARRAYS)]
        kinds = [dtype_kind(leaf.dtype) for leaf in leaves]
        static = {
            name: (f"{arguments.static.get(name, parameter.default)!r:.60}",)
            for name, parameter in spec_of(op).parameters.static_parameters.items()
        }
        return cls(
            n_examples=1,
            largest_size=max((size for leaf in leaves for size in leaf.shape), default=0),
            kinds=frozenset(kinds),
            has_nan=any(
                bool(np.isnan(leaf).any()) for leaf, kind in zip(leaves, kinds, strict=True) if kind in ("f", "c")
            ),
            static=static,
        )

    def joined(self, other: Drawn) -> Drawn:
        """Return what two sets of examples contain together."""
        return Drawn(
            self.n_examples + other.n_examples,
            max(self.largest_size, other.largest_size),
            self.kinds | other.kinds,
            self.has_nan or other.has_nan,
            {
                name: tuple(dict.fromkeys([*self.static.get(name, ()), *other.static.get(name, ())]))[:_MOST_VALUES]
                for name in [*self.static, *(name for name in other.static if name not in self.static)]
            },
        )

    def not_tested(self, op: Op[..., Any]) -> Iterable[NotTested]:
        """Yield what the examples did not contain, warnings first."""
        if not self.n_examples:
            return
        for name, values in self.static.items():
            if len(values) == 1 and not is_fixed(op, name):
                yield NotTested(
                    f"static parameter {name!r} was {values[0]} in all examples",
                    "Annotate it (bool, int, Literal, an Enum), or pass arguments=arguments(op, "
                    f"{name}=st.sampled_from([...])).",
                    is_warning=True,
                    option=name,
                )
        is_everywhere = spec_of(op).domain.is_everywhere
        if "f" in self.kinds and "c" not in self.kinds and is_everywhere:
            draws = f", which {DRAWS_COMPLEX} draws" if _is_complex(op) else ""
            yield NotTested(f"complex inputs{draws}")
        if self.kinds & {"f", "c"} and not self.has_nan and is_everywhere:
            yield NotTested("NaN")
        if self.largest_size:
            yield NotTested(f"sizes above {self.largest_size}")


def _is_complex(op: Op[..., Any]) -> bool:
    """Return whether an op declares a complex output."""
    return any(dtype is not None and dtype_kind(dtype) == "c" for dtype in spec_of(op).dtypes)
