"""MirroredStrategy on two logical CPUs: the step is the same as on one device.

python examples/distributed/mirrored.py
"""

import numpy as np
import tensorflow as tf
from training import fitted


def main():
    """Train on one device and on two, and print both losses."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    alone = fitted(tf.distribute.get_strategy())
    mirrored = fitted(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    print(f"one device: loss {alone.loss:.6f}, two: {mirrored.loss:.6f}")
    np.testing.assert_allclose(mirrored.weights, alone.weights, rtol=1e-4)


if __name__ == "__main__":
    main()
