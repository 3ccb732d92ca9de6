"""Read handwritten digits with a Keras model whose first layer is an op: the strokes of a picture, by direction.

    strokes_k = max(g . d_k, 0)^2 / sqrt(g . g + floor^2)    g: gradient of the picture, d_k: unit vector

The gradient is taken with filters of SciPy. Each direction d_k is given by an angle, which is trained along with the
layers behind: a smooth relative of histograms of oriented gradients (Dalal and Triggs (2005), "Histograms of oriented
gradients for human detection", CVPR). The model is trained on a part of the digits that scikit-learn brings, saved to a
.keras file, loaded again, and evaluated on the other part, where it must read no fewer digits than the logistic
regression of scikit-learn.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

DIRECTIONS = 6
FLOOR = 0.1
"""Gradients that are smaller count for less: they are noise."""
HELD_OUT = 0.3
"""The part of the digits that is kept for the evaluation."""
EPOCHS = 30
BATCH = 64
SEED = 3
ACCURACY_BOUND = 0.975
"""The smallest accuracy allowed on the digits held out; that of the logistic regression holds as well."""


@differentiable_op(signature="(h,w),(k)->(h,w,k)")
def strokes(pictures: Array, angles: Array, *, floor: float = FLOOR) -> Array:
    """How strongly a picture rises in each direction, at each pixel; an angle of zero is to the right, more is down."""
    x, y = picture_gradient(pictures)
    along = np.maximum(projections(x, y, angles), 0)
    return along**2 / size(x, y, floor)[..., None]


@strokes.numpy_gradient
def strokes_gradient(op: RuleContext, cotangent: Array) -> tuple[Array, Array]:
    """The chain rule, through the size of the gradient, the projections and the filters."""
    pictures, angles = op.inputs
    x, y = picture_gradient(pictures)
    sizes = size(x, y, op.static.floor)
    cosines, sines = directions(angles)
    along = np.maximum(projections(x, y, angles), 0)

    by_along = cotangent * 2 * along / sizes[..., None]
    by_size = -np.sum(cotangent * along**2, axis=-1) / sizes**2
    by_x = np.sum(by_along * cosines, axis=-1) + by_size * x / sizes
    by_y = np.sum(by_along * sines, axis=-1) + by_size * y / sizes
    by_angle = by_along * (y[..., None] * cosines - x[..., None] * sines)
    return picture_gradient_transposed(by_x, by_y), np.sum(by_angle, axis=(-3, -2))


def picture_gradient(pictures: Array) -> tuple[Array, Array]:
    """The slopes to the right and down, by Sobel's filters; there is nothing around a picture."""
    return filtered(pictures, slope_axis=-1, mean_axis=-2), filtered(pictures, slope_axis=-2, mean_axis=-1)


def picture_gradient_transposed(by_x: Array, by_y: Array) -> Array:
    """The transposed filters: a mean is symmetric, and a slope changes its sign."""
    return -filtered(by_x, slope_axis=-1, mean_axis=-2) - filtered(by_y, slope_axis=-2, mean_axis=-1)


def filtered(pictures: Array, *, slope_axis: int, mean_axis: int) -> Array:
    """A central difference along one axis, and a weighted mean along the other."""
    slopes = correlate1d(pictures, [-0.5, 0.0, 0.5], slope_axis, mode="constant")
    return correlate1d(slopes, [0.25, 0.5, 0.25], mean_axis, mode="constant")


def directions(angles: Array) -> tuple[Array, Array]:
    """The unit vectors, to be multiplied with what has a row and a column for each pixel."""
    return np.cos(angles)[..., None, None, :], np.sin(angles)[..., None, None, :]


def projections(x: Array, y: Array, angles: Array) -> Array:
    """The gradient along each direction."""
    cosines, sines = directions(angles)
    return x[..., None] * cosines + y[..., None] * sines


def size(x: Array, y: Array, floor: float) -> Array:
    """The length of the gradient, never less than the floor."""
    return np.sqrt(x**2 + y**2 + floor**2)


@keras.saving.register_keras_serializable("digits")
class Strokes(keras.layers.Layer):
    """The strokes of pictures [batch, h, w] as channels [batch, h, w, k], in directions that are trained."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(**options)
        self.count = count

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Directions all around, the first to the right."""
        self.angles = self.add_weight(shape=(self.count,), initializer=first_angles, name="angles")

    def call(self, pictures: tf.Tensor) -> tf.Tensor:
        """Call the op."""
        return strokes(pictures, self.angles)

    def get_config(self) -> dict[str, Any]:
        """What Keras saves to make the layer again."""
        return {**super().get_config(), "count": self.count}


def first_angles(shape: tuple[int], dtype: str = "float32") -> Array:
    """The directions before training."""
    return (2 * np.pi * np.arange(*shape) / shape[0]).astype(dtype)


def digits() -> list[Array]:
    """Pictures to train with and held out, [n, 8, 8] from 0 to 1, and their labels."""
    data = load_digits()
    pictures = (data.images / 16).astype(np.float32)
    return train_test_split(pictures, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED)


def make_model() -> Any:
    """The op, means over 2 x 2 pixels, and two dense layers."""
    pictures = keras.Input((8, 8))
    features = keras.layers.AveragePooling2D(2)(Strokes(DIRECTIONS)(pictures))
    hidden = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(features))
    scores = keras.layers.Dense(10)(keras.layers.Dropout(0.3)(hidden))
    model = keras.Model(pictures, scores)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def reference_accuracy(train: Array, test: Array, train_labels: Array, test_labels: Array) -> float:
    """What the logistic regression of scikit-learn reads right, from the pixels."""
    regression = LogisticRegression(max_iter=1000).fit(train.reshape(len(train), -1), train_labels)
    return float(regression.score(test.reshape(len(test), -1), test_labels))


def save_and_load(model: Any) -> Any:
    """The model from a .keras file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "digits.keras")
        model.save(path)
        return keras.saving.load_model(path)


def draw(path: Path, model: Any, pictures: Array, history: dict[str, list[float]], reference: float) -> None:
    """Draw pictures and their strokes, how the accuracy grew, and the directions."""
    layer = next(layer for layer in model.layers if isinstance(layer, Strokes))
    angles = layer.angles.numpy()
    figure = Figure(figsize=(13, 6.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[8, 5], squeeze=False)[0]
    left.suptitle("Digits held out, and below each its strokes: colours are directions")
    draw_digits(left.subplots(4, len(pictures) // 2), model, pictures, angles)

    curve = right.add_subplot(2, 1, 1)
    epochs = np.arange(1, len(history["val_accuracy"]) + 1)
    curve.plot(epochs, history["val_accuracy"], color="C0", label="held out")
    curve.plot(epochs, history["accuracy"], color="C0", alpha=0.4, label="in training, with dropout")
    curve.axhline(reference, color="C3", ls="--", lw=1, label="held out, logistic regression")
    curve.set(xlabel="epoch", ylabel="accuracy", ylim=(0.8, 1.005), title="Digits read right")
    curve.grid(alpha=0.3)
    curve.spines[["top", "right"]].set_visible(False)
    curve.legend(loc="lower right")

    compass = right.add_subplot(2, 1, 2, projection="polar")
    for before, after in zip(first_angles(angles.shape), angles, strict=True):
        compass.plot([after, after], [0, 1], color=hue(after), lw=4)
        compass.plot(before, 1, "o", color="gray", mfc="none")
    compass.set(title="Directions after training (o: before)", yticks=[], theta_direction=-1, ylim=(0, 1.1))
    figure.savefig(path, dpi=150)


def draw_digits(grid: Array, model: Any, pictures: Array, angles: Array) -> None:
    """Draw pictures in every other row of a grid of axes, and their strokes in the rows below."""
    channels = strokes(pictures, angles).numpy()
    read = np.argmax(model.predict(pictures, verbose=0), axis=1)
    for number, (upper, lower) in enumerate(zip(grid[::2].flat, grid[1::2].flat, strict=True)):
        upper.imshow(pictures[number], cmap="gray_r", vmin=0, vmax=1)
        upper.set_title(f"read as {read[number]}")
        lower.imshow(colored(channels[number], angles, channels.max()))
        for axes in (upper, lower):
            axes.set(xticks=[], yticks=[])


def colored(channels: Array, angles: Array, brightest: float) -> Array:
    """One colour a pixel: the mean of the colours of all directions, weighted by their strokes."""
    colors = np.array([hue(angle) for angle in angles])
    return np.clip(channels @ colors / brightest, 0, 1)


def hue(angle: float) -> Array:
    """The colour of a direction, from the circle of colours."""
    return hsv_to_rgb([angle / (2 * np.pi) % 1, 0.9, 1.0])


def main() -> int:
    """Train, save, load, evaluate and draw; returns 1 if too few digits are read or the loaded model differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of training (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    keras.utils.set_random_seed(SEED)
    train, test, train_labels, test_labels = digits()
    model = make_model()
    history = model.fit(
        train,
        train_labels,
        batch_size=BATCH,
        epochs=arguments.epochs,
        validation_data=(test, test_labels),
        verbose=0,
    ).history

    loaded = save_and_load(model)
    scores = loaded.predict(test, verbose=0)
    equal = np.array_equal(scores, model.predict(test, verbose=0))
    print(f"Predictions of the model loaded from its file are equal: {'yes' if equal else 'NO'}")

    reference = reference_accuracy(train, test, train_labels, test_labels)
    accuracy = float(np.mean(np.argmax(scores, axis=1) == test_labels))
    print(f"Logistic regression reads {reference:.1%} of {len(test)} digits held out")

    shown = [np.flatnonzero(test_labels == digit)[0] for digit in range(10)]
    draw(arguments.output, loaded, test[shown], history, reference)
    print(f"Picture: {arguments.output}")
    needed = max(ACCURACY_BOUND, reference)
    print(f"The model reads {accuracy:.1%}, at least {needed:.1%} needed")
    return 0 if equal and accuracy >= needed else 1


if __name__ == "__main__":
    sys.exit(main())
