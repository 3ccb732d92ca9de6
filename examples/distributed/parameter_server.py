"""ParameterServerStrategy: the op runs in the workers. One of them is killed in the middle, and comes back.

python examples/distributed/parameter_server.py
"""

import json
import os
import sys
import traceback

import tensorflow as tf
from light_ops import process_of
from processes import Processes, free_addresses
from training import BATCH, GROWTH, LIGHT, RATE, Leaf

UPDATES = 60


def start_server(processes, cluster, kind, index):
    """Start one server of the cluster; it imports the module of the ops, and waits for work."""
    config = {"cluster": cluster, "task": {"type": kind, "index": index}}
    return processes.start(
        "-m", "tfpyop", "worker", "--modules", "light_ops", TF_CONFIG=json.dumps(config), GRPC_FAIL_FAST="use_caller"
    )


def main():
    """Train on a cluster of a coordinator (this process), two workers and a parameter server."""
    addresses = free_addresses(3)
    cluster = {"worker": addresses[:2], "ps": addresses[2:]}
    processes = Processes()  # they end with this program
    workers = [start_server(processes, cluster, "worker", index) for index in range(2)]
    start_server(processes, cluster, "ps", 0)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(tf.train.ClusterSpec(cluster), rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        leaf = Leaf()

    @tf.function
    def step(start):
        light, growth = (tf.gather(values, start + tf.range(BATCH)) for values in (LIGHT, GROWTH))
        with tf.GradientTape() as tape:
            loss = leaf.loss(light, growth)
        gradients = tape.gradient(loss, leaf.trainable_variables)
        for variable, gradient in zip(leaf.trainable_variables, gradients, strict=True):
            variable.assign_sub(RATE * gradient)
        return loss, process_of(loss)

    def schedule(count):
        starts = [tf.constant(number * BATCH % len(LIGHT)) for number in range(count)]
        return [coordinator.schedule(step, args=(start,)) for start in starts]

    results = schedule(UPDATES)
    coordinator.join()
    results += schedule(UPDATES)
    workers[0].kill()
    workers[0].wait()
    start_server(processes, cluster, "worker", 0)
    coordinator.join()
    fetched = [result.fetch() for result in results]
    ran_in = {int(process) for _, process in fetched}
    print(f"loss {fetched[0][0]:.4f} at first, {fetched[-1][0]:.6f} at last; {len(ran_in)} processes ran the op")
    assert os.getpid() not in ran_in
    assert len(ran_in) >= len(workers)
    assert fetched[-1][0] < 0.05 * fetched[0][0]


if __name__ == "__main__":
    status = 1
    try:
        main()
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)  # TensorFlow's threads would wait for the worker that was lost
