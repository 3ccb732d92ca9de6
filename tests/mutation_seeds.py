"""Tries the checkers on the zoo with many seeds: `python -m tests.mutation_seeds`; prints what was missed or accused.

Takes an hour for twenty seeds on two cores; `--seeds` takes fewer.
"""

import argparse
import sys
import time
import warnings

from tests.right_ops import RIGHT
from tests.wrong_ops import WRONG
from tfpyop.testing import CHECKS, CheckError, ChecksError, check_op


def missed(wrong, seed):
    """Whether a wrong op is not found out, and how long that took."""
    start = time.perf_counter()
    try:
        CHECKS[wrong.check](wrong.op, arguments=wrong.arguments, seed=seed)
    except CheckError:
        return False, time.perf_counter() - start
    return True, time.perf_counter() - start


def accused(right, seed):
    """What is said of a right op; None if nothing is."""
    try:
        check_op(right.op, arguments=right.arguments, seed=seed)
    except ChecksError as error:
        return error
    return None


def main():
    """Print a line for each mistake and a summary; the status is 1 if there was one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    warnings.simplefilter("ignore")
    results = [(wrong, seed, *missed(wrong, seed)) for wrong in WRONG for seed in seeds]
    misses = [(wrong, seed) for wrong, seed, is_missed, _ in results if is_missed]
    for wrong, seed in misses:
        print(f"missed with seed {seed}: {wrong}")
    print(
        f"{len(WRONG)} wrong ops, {len(seeds)} seeds: {len(misses)} missed, slowest {max(r[3] for r in results):.1f} s"
    )
    alarms = [(right, seed, error) for right in RIGHT for seed in seeds if (error := accused(right, seed)) is not None]
    for right, seed, error in alarms:
        print(f"accused with seed {seed}: {right}\n{error}")
    print(f"{len(RIGHT)} right ops, {len(seeds)} seeds: {len(alarms)} accused")
    return 1 if misses or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
