"""Draw examples outside of the test of a property, for diagnoses and plots."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import hypothesis
from hypothesis.strategies import SearchStrategy

from tfpyop.testing._check_runner import quietly
from tfpyop.testing._examples import Arguments


def draw_each(
    strategy: SearchStrategy[Arguments], body: Callable[[Arguments], None], *, at_most: int, seed: int = 0
) -> None:
    """Call a function with examples that a strategy draws. Examples that it rejects do not count.

    This takes a separate thread, because the statistics of Hypothesis belong to the thread of the running test.

    Args:
      strategy: The strategy.
      body: The function.
      at_most: Maximum number of examples.
      seed: Seed that makes every run draw the same examples.
    """

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=at_most,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def draw(arguments: Arguments) -> None:
        body(arguments)

    def run() -> None:
        with quietly(), contextlib.suppress(hypothesis.errors.Unsatisfiable):
            draw()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
