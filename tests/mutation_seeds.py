"""Tries the checkers on the zoo with many seeds: `python -m tests.mutation_seeds`; prints what was missed or accused.

Takes an hour for twenty seeds on two cores; `--seeds` takes fewer.
"""

import argparse
import itertools
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop.testing import CHECKS, CheckError, ChecksError, check_op
from tfpyop.testing._check_runner import thoroughly


def missed(number, seed):
    """What to say if a wrong op is not found out, and how long that took."""
    warnings.simplefilter("ignore")
    wrong, start = WRONG[number], time.perf_counter()
    try:
        with thoroughly(wrong.is_thorough):
            CHECKS[wrong.check](wrong.op, arguments=wrong.arguments, seed=seed)
    except CheckError:
        return None, time.perf_counter() - start
    return f"missed with seed {seed}: {wrong}", time.perf_counter() - start


def accused(number, seed):
    """What to say if a right op is accused, and how long that took."""
    warnings.simplefilter("ignore")
    right, start = RIGHT[number], time.perf_counter()
    try:
        check_op(right.op, arguments=right.arguments, seed=seed)
    except ChecksError as error:
        return f"accused with seed {seed}: {right}\n{error}", time.perf_counter() - start
    return None, time.perf_counter() - start


def tried(pool, judge, zoo, seeds):
    """How many animals of a zoo are judged wrongly, each told as it is found, and how long the slowest took."""
    drawn, numbers = zip(*itertools.product(seeds, range(len(zoo))), strict=True)
    n_mistakes, slowest = 0, 0.0
    for seed, number, (mistake, seconds) in zip(drawn, numbers, pool.map(judge, numbers, drawn), strict=True):
        slowest = max(slowest, seconds)
        if mistake is not None:
            n_mistakes += 1
            print(mistake, flush=True)
        if number == len(zoo) - 1:
            print(f"{judge.__name__}: seed {seed} is done", file=sys.stderr, flush=True)
    return n_mistakes, slowest


def main():
    """Print a line for each mistake and a summary; the status is 1 if there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        n_missed, slowest = tried(pool, missed, WRONG, seeds)
        print(f"{len(WRONG)} wrong ops, {len(seeds)} seeds: {n_missed} missed, slowest {slowest:.1f} s", flush=True)
        n_accused, slowest = tried(pool, accused, RIGHT, seeds)
        print(f"{len(RIGHT)} right ops, {len(seeds)} seeds: {n_accused} accused, slowest {slowest:.1f} s")
    return 1 if n_missed or n_accused else 0


if __name__ == "__main__":
    sys.exit(main())
