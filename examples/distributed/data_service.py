"""tf.data service: the op runs in the process of a data worker.

python examples/distributed/data_service.py
"""

import os

import tensorflow as tf
from light_ops import process_of, saturation
from processes import Processes

DISPATCHER = """
import tensorflow as tf
server = tf.data.experimental.service.DispatchServer(tf.data.experimental.service.DispatcherConfig(port=0))
print(server.target, flush=True)
server.join()
"""


def main():
    """Start dispatcher and worker, and read what the worker has made of some numbers."""
    with Processes() as processes:
        target = processes.start("-c", DISPATCHER).stdout.readline().strip()
        address = target.removeprefix("grpc://")
        worker = processes.start("-m", "tfpyop", "worker", "--modules", "light_ops", "--dispatcher", address)
        print(worker.stdout.readline().strip())
        data = tf.data.Dataset.range(8).map(lambda number: tf.cast(number, tf.float32))
        data = data.map(lambda light: (saturation(light), process_of(light)), num_parallel_calls=2).batch(4)
        data = data.apply(tf.data.experimental.service.distribute("parallel_epochs", target))
        values, ran_in = map(tf.concat, zip(*data, strict=True), [0, 0])
    print(f"values {values.numpy().round(3).tolist()}")
    print(f"made in the data worker: {set(ran_in.numpy().tolist()) == {worker.pid}}")
    assert os.getpid() not in ran_in.numpy()


if __name__ == "__main__":
    main()
