"""MultiWorkerMirroredStrategy: two processes train together as one would with the same global batch.

python examples/distributed/multi_worker.py
"""

import json
import sys

import numpy as np
from processes import Processes, free_addresses

WORKERS = 2


def work():
    """What each worker runs: the strategy reads TF_CONFIG, and the op comes with its import."""
    import tensorflow as tf
    from training import fitted

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    print(json.dumps(fitted(strategy)), flush=True)


def train_alone():
    """The same in one process, without a strategy."""
    import tensorflow as tf
    from training import fitted

    print(json.dumps(fitted(tf.distribute.get_strategy())), flush=True)


def main():
    """Start the workers, train alone beside them, and compare."""
    addresses = free_addresses(WORKERS)
    with Processes() as processes:
        workers = []
        for index in range(WORKERS):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            workers.append(processes.start(__file__, "work", TF_CONFIG=json.dumps(task)))
        alone = processes.start(__file__, "alone")
        results = [json.loads(process.communicate(timeout=120)[0]) for process in [*workers, alone]]
    for name, (loss, weights) in zip(["worker 0", "worker 1", "alone"], results, strict=True):
        print(f"{name}: loss {loss:.6f}, gain {weights[0]:.4f}, slope {weights[1]:.4f}")
    for loss, weights in results[:WORKERS]:
        np.testing.assert_allclose([loss, *weights], [results[-1][0], *results[-1][1]], rtol=1e-4)


if __name__ == "__main__":
    {"work": work, "alone": train_alone, "": main}["".join(sys.argv[1:])]()
