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


def missed(number, seed):
    """What to say if a wrong op is not found out, and how long that took."""
    warnings.simplefilter("ignore")
    wrong, start = WRONG[number], time.perf_counter()
    try:
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
    """What a judge says of every animal of a zoo with every seed, and how long the slowest took."""
    numbers, drawn = zip(*itertools.product(range(len(zoo)), seeds), strict=True)
    results = list(pool.map(judge, numbers, drawn))
    said = [text for text, _ in results if text is not None]
    print(*said, sep="\n", end="\n" if said else "")
    return len(said), max(seconds for _, seconds in results)


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
