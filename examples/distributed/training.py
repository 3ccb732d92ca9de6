"""The training that these examples share: a leaf's response to light, fitted by gradient descent."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from light_ops import saturation

BATCH, STEPS, RATE = 8, 30, 0.3
LIGHT = np.linspace(-2, 2, BATCH * 4, dtype=np.float32)
GROWTH = np.float32(1.5) * LIGHT * np.float32(2) / (1 + np.abs(np.float32(2) * LIGHT))


class Fitted(NamedTuple):
    """What came of a training."""

    loss: float
    weights: list[float]


class Leaf(tf.Module):
    """Of light, a leaf makes gain * saturation(slope * light)."""

    def __init__(self):
        super().__init__()
        self.gain = tf.Variable(1.0)
        self.slope = tf.Variable(1.0)

    def loss(self, light, growth):
        """The sum of squares over the global batch, as a part of its mean."""
        return tf.reduce_sum((self.gain * saturation(self.slope * light) - growth) ** 2) / BATCH


def fitted(strategy):
    """Fit with a strategy that shares every global batch among its replicas."""
    with strategy.scope():
        leaf = Leaf()
    data = tf.data.Dataset.from_tensor_slices((LIGHT, GROWTH)).batch(BATCH).repeat()
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = iter(strategy.experimental_distribute_dataset(data.with_options(options)))
    optimizer_rate = tf.constant(RATE)

    def step(light, growth):
        with tf.GradientTape() as tape:
            loss = leaf.loss(light, growth)
        gradients = tape.gradient(loss, leaf.trainable_variables)
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        for variable, gradient in zip(leaf.trainable_variables, gradients, strict=True):
            variable.assign_sub(optimizer_rate * gradient)
        return loss

    @tf.function
    def global_step(batch):
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(step, args=batch), axis=None)

    for _ in range(STEPS):
        loss = global_step(next(batches))
    return Fitted(float(loss), [float(variable.numpy()) for variable in leaf.trainable_variables])
