"""Calls that a signal handler interrupts at random times; prints what came out of them, for `test_interrupts`."""

import collections
import json
import random
import signal
import sys
import time

import numpy as np
import tensorflow as tf

from tfpyop import differentiable_op

X, ONES = tf.constant([1.0, 2.0, 3.0]), tf.ones(3)


class StopError(Exception):
    """What a signal handler of the user's raises."""


@differentiable_op(signature="(n)->(n)", grad=lambda op, grad: 2 * grad)
def doubled(x):
    return 2 * x


@doubled.jvp
def doubled_jvp(op, tangent):
    return 2 * tangent


@differentiable_op(signature="(n)->(n)")
def doubled_in_place(x, *, out):
    return np.multiply(x, 2, out=out)


@differentiable_op(signature="()->()", numpy_grad=lambda op, grad: 2 * grad)
def by_numpy(x):
    return 2 * x


def gradient(op):
    with tf.GradientTape() as tape:
        tape.watch(X)
        result = op(X)
    return tape.gradient(result, X)


def tangent():
    with tf.autodiff.ForwardAccumulator(X, ONES) as accumulator:
        result = doubled(X)
    return accumulator.jvp(result)


CALLS = {
    "eager": lambda: doubled(X),
    "out=": lambda: doubled_in_place(X),
    "a Python number": lambda: by_numpy(1.0),
    "gradient": lambda: gradient(doubled),
    "numpy gradient": lambda: gradient(by_numpy),
    "forward mode": tangent,
}


_FEWEST = 300
_LONGEST = 12
"""Seconds for one kind of call at most."""


def outcome(call, delay):
    """What comes out of calls that are interrupted after a while, as a list of at most one name."""
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        for _ in range(1000):  # an interrupt that got lost would not end them
            call()
    except BaseException as error:
        text = f": {error}"[:200] if str(error) else ""
        return [f"{type(error).__name__}{text}"]
    return []


def interrupted(call, seconds):
    """Interrupt calls for some seconds, longer on a busy machine, until there are some hundred interrupts.

    Returns how often each kind of exception came out of calls, and how often each was raised.
    """
    rng, raised, caught = random.Random(0), collections.Counter(), collections.Counter()

    def stop(*_):
        error = rng.choice([KeyboardInterrupt, StopError])
        raised[error.__name__] += 1
        raise error

    signal.signal(signal.SIGALRM, stop)
    begin = time.monotonic()
    while time.monotonic() < begin + seconds or (raised.total() < _FEWEST and time.monotonic() < begin + _LONGEST):
        caught.update(outcome(call, rng.uniform(1e-6, 5e-4)))
    return {"raised": raised, "caught": caught}


if __name__ == "__main__":
    lost = collections.Counter()
    sys.unraisablehook = lambda unraisable: lost.update([str(unraisable.object)])
    for call in CALLS.values():
        call()
    results = {kind: interrupted(call, float(sys.argv[1])) for kind, call in CALLS.items()}
    json.dump({**results, "lost": lost}, sys.stdout)
