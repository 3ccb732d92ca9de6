"""Sharpen a photograph that was blurred by the shake of the camera, through `scipy.ndimage` inside of an op.

    blurred = A sharp + noise

While the shutter was open the camera moved and rolled, so the photograph is the mean of the scene seen from one pose
after another. As the camera rolls, each place is blurred along another arc, and no convolution does that. A x samples x
by `scipy.ndimage.map_coordinates`. Its adjoint, which SciPy has not, defines all derivatives of the op. The sharp image
is the one that minimises

    |A x - blurred|^2 / (2 noise^2) + weight TV(x)

where TV is the total variation of colour images: Bresson and Chan (2008), "Fast dual minimization of the vectorial
total variation norm and applications to color image processing", Inverse Problems and Imaging 2. The blurred photograph
is made up on pixels half as wide and with more poses than the search knows of.
"""

import argparse
import sys
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import scipy.ndimage
import tensorflow as tf
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

SIZE = 128
"""Pixels along each side of the photograph."""
CORNER = (10, 140)
"""Row and column of the first pixel that is cut out of the picture, which has 600 x 512."""
NOISE = 0.01
"""Standard deviation of the errors of the pixels, which are from 0 to 1."""
SEED = 2024

ROLL, RIGHT, DOWN = 0.10, 0.035, 0.03
"""The shake: the angle in radians from the first pose to the last, the shifts as a fraction of the height."""
POSES, FINE_POSES = 12, 32
"""Poses in the search, and in making the photograph."""

WEIGHT = 24.0
"""Of the total variation."""
SMOOTHING = 0.005
"""Differences of neighbours below this count less in the total variation, which is smooth so."""
STEPS = 150
LEARNING_RATE = 0.05

ADJOINT_BOUND = 1e-12
"""The largest relative difference allowed between <A x, y> and <x, A' y>."""
GAIN_BOUND = 8.0
"""How many decibels nearer to the truth than the blurred photograph the sharpened one must be."""

DETAIL = (slice(64, 112), slice(38, 86))
"""What is drawn enlarged."""


# One channel at a time: the channels of a colour image are a loop dimension, which the host goes through.
@differentiable_op(signature="(h,w)->(h,w)", vectorized=False, compute_dtype="float64")
def shake(image: Array, *, poses: int = POSES) -> Array:
    """The mean of the image seen from all poses, A x: linear between pixels, the edge goes on outside."""
    places = seen_places(*image.shape, poses)
    return scipy.ndimage.map_coordinates(image, places, order=1, mode="nearest").mean(axis=0)


@shake.numpy_adjoint
def shake_adjoint(op: RuleContext, cotangent: Array) -> Array:
    """The adjoint A' y: what `shake` reads from four pixels with four weights is written to them with these."""
    poses, (height, width) = op.static.poses, cotangent.shape
    rows, columns = seen_places(height, width, poses)
    total = np.zeros(cotangent.size)
    for (row, row_weight), (column, column_weight) in product(neighbours(rows, height), neighbours(columns, width)):
        amounts = cotangent / poses * row_weight * column_weight
        total += np.bincount((row * width + column).ravel(), amounts.ravel(), minlength=cotangent.size)
    return total.reshape(cotangent.shape)


@lru_cache(maxsize=2)
def seen_places(height: int, width: int, poses: int) -> Array:
    """The row and column that is seen in each pixel from each pose: `[2, poses, height, width]`."""
    time = ((np.arange(poses) + 0.5) / poses)[:, None, None]
    angle = ROLL * (time - 0.5)
    right = RIGHT * height * (np.sin(np.pi * time) - 2 / np.pi)  # no shift in the mean
    down = DOWN * height * np.sin(2 * np.pi * time)

    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    row, column = np.arange(height)[:, None] - middle_row, np.arange(width) - middle_column
    rows = middle_row + down + np.cos(angle) * row + np.sin(angle) * column
    columns = middle_column + right - np.sin(angle) * row + np.cos(angle) * column
    return np.stack([rows, columns])


def neighbours(places: Array, size: int) -> list[tuple[Array, Array]]:
    """The pixel before each place and the one behind it along one side, each with the weight it is read with."""
    inside = np.clip(places, 0, size - 1)
    before = np.floor(inside).astype(np.intp)
    fraction = inside - before
    return [(before, 1 - fraction), (np.minimum(before + 1, size - 1), fraction)]


def adjoint_difference(random: np.random.Generator) -> float:
    """The relative difference of <A x, y> and <x, A' y> for random images, where A' y is what the tape gives."""
    x, y = (tf.constant(random.normal(size=[3, SIZE, SIZE])) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        shaken = shake(x)
    adjoint = tape.gradient(shaken, x, output_gradients=y)
    left, right = np.vdot(shaken, y), np.vdot(x, adjoint)
    return float(abs(left - right) / abs(left))


def scene() -> Array:
    """A part of the portrait of Grace Hopper that comes with matplotlib, on fine pixels: `[3, 2 SIZE, 2 SIZE]`."""
    with get_sample_data("grace_hopper.jpg") as file:
        pixels = imread(file, format="jpg") / 255
    row, column = CORNER
    return np.moveaxis(pixels[row : row + 2 * SIZE, column : column + 2 * SIZE], -1, 0)


def coarse(image: Array) -> Array:
    """The mean of each two by two pixels."""
    return image.reshape(3, SIZE, 2, SIZE, 2).mean(axis=(2, 4))


def photograph(fine: Array, random: np.random.Generator) -> Array:
    """The scene as the shaken camera takes it, with noise."""
    blurred = coarse(shake(fine, poses=FINE_POSES).numpy())
    return (blurred + random.normal(scale=NOISE, size=blurred.shape)).astype(np.float32)


def total_variation(image: tf.Tensor) -> tf.Tensor:
    """The sum over all pixels of the length of the gradient, of the three colours together."""
    down = image[:, 1:, :-1] - image[:, :-1, :-1]
    right = image[:, :-1, 1:] - image[:, :-1, :-1]
    return tf.reduce_sum(tf.sqrt(tf.reduce_sum(down**2 + right**2, axis=0) + SMOOTHING**2))


def sharpen(blurred: Array, steps: int) -> Array:
    """The image that minimises misfit and total variation, in the range of pixels."""
    image = tf.Variable(blurred, constraint=lambda pixels: tf.clip_by_value(pixels, 0.0, 1.0))
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            misfit = tf.reduce_sum((shake(image) - blurred) ** 2) / (2 * NOISE**2)
            loss = misfit + WEIGHT * total_variation(image)
        optimizer.apply([tape.gradient(loss, image)], [image])
        return loss

    with tqdm(range(steps), desc="Sharpening", unit="step") as progress:
        for _ in progress:
            progress.set_postfix(loss=f"{step().numpy():.0f}", refresh=False)
    return image.numpy()


def decibels(image: Array, truth: Array) -> float:
    """The ratio of peak signal to noise, where the peak is one."""
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def draw(path: Path, images: dict[str, Array]) -> None:
    """Draw the images, the whole above and a detail below, and how the camera moved in the photograph."""
    figure = Figure(figsize=(11, 7.6), layout="compressed")
    upper, lower = figure.subplots(2, len(images))
    truth = images["scene"]
    for number, (title, image) in enumerate(images.items()):
        pixels = np.moveaxis(np.clip(image, 0, 1), 0, -1)
        note = "" if image is truth else f", {decibels(image, truth):.1f} dB"
        upper[number].imshow(pixels, interpolation="nearest")
        upper[number].set_title(title + note)
        lower[number].imshow(pixels[DETAIL], interpolation="nearest")
        for axes in (upper[number], lower[number]):
            axes.set(xticks=[], yticks=[])
    rows, columns = seen_places(SIZE, SIZE, POSES)
    for row, column in product(range(SIZE // 8, SIZE, SIZE // 4), repeat=2):
        upper[1].plot(columns[:, row, column], rows[:, row, column], color="yellow", linewidth=1.5)
    figure.suptitle("The shake of a camera undone; yellow: how it moved, as seen in different places")
    figure.savefig(path, dpi=150)


def main() -> int:
    """Check the adjoint, take the photograph, sharpen and draw; returns 1 if a number is worse than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    random = np.random.default_rng(SEED)
    difference = adjoint_difference(random)
    print(f"<A x, y> and <x, A' y>: {difference:.1e} apart, at most {ADJOINT_BOUND:.0e} allowed")

    fine = scene()
    blurred = photograph(fine, random)
    sharpened = sharpen(blurred, arguments.steps)
    before, after = decibels(blurred, coarse(fine)), decibels(sharpened, coarse(fine))
    print(f"Blurred photograph: {before:.1f} dB from the scene, sharpened: {after:.1f} dB")
    print(f"Gain: {after - before:.1f} dB, at least {GAIN_BOUND:.1f} dB wanted")

    draw(arguments.output, {"scene": coarse(fine), "photograph": blurred, "sharpened": sharpened})
    print(f"Picture: {arguments.output}")
    return 0 if difference <= ADJOINT_BOUND and after - before >= GAIN_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
