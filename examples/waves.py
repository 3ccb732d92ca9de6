"""Find the phase plate that makes a laser beam a star behind a block of glass, through FFTs of numpy inside of an op.

    i du/dz = -(d^2/dx^2 + d^2/dy^2) u / 2 - s |u|^2 u

The complex amplitude u of a beam that keeps its direction obeys this equation, where bright light raises the refractive
index of the glass and so focuses itself. Lengths across are in units of a width w, lengths along z in units of k w^2
with the wave number k. Split steps solve it: free waves in Fourier space and the phase of the glass in real space, in
turn. Agrawal (2019), "Nonlinear Fiber Optics", section 2.4.

Each step can be undone exactly. The gradient rule goes the same way back from the outcome, and takes the cotangent
along; nothing on the way has to be kept. A plate in front of the glass delays the light by a phase for each pixel, and
these phases are looked for, so that the light that leaves the glass has the shape of a star.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import keras
import matplotlib.path
import numpy as np
import scipy.ndimage
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from tfpyop import RuleContext, differentiable_op

Array = NDArray[Any]

SIZE = 96
"""Pixels along each side of the beam's cross-section."""
SIDE = 32.0
"""Length of these sides; what leaves on one side comes back on the other."""
DISTANCE = 3.0
"""Thickness of the glass."""
STRENGTH = 0.2
"""How strongly light of intensity one focuses itself."""
SPLIT_STEPS = 12
BEAM_WIDTH = 4.0
"""Where the amplitude of the laser beam has fallen to exp(-1/2) of that in the middle."""
STAR_RADIUS = 7.0
STAR_BLUR = 2.0
"""Standard deviation of the blur of the star's edge, in pixels."""
FIRST_FOCUS = 9.0
"""The search starts with a lens of this focal length."""

SHOWN = 10.0
"""Half of the side of what is drawn."""
SLICES = 40
"""Where the beam is looked at inside of the glass."""

STEPS = 100
LEARNING_RATE = 0.3

GRADIENT_BOUND = 1e-6
"""The largest relative difference allowed between the rule and a central difference."""
POWER_BOUND = 1e-12
"""The largest relative change of the power allowed."""
SOLITON_BOUND = 1e-4
"""The largest difference allowed from the exact solution, whose largest amplitude is one."""
FIDELITY_BOUND = 0.99
"""The least fidelity of the star wanted; one is perfect."""


# numpy's FFTs take loop dimensions: many beams are propagated at once.
@differentiable_op(signature="(n,n)->(n,n)", compute_dtype="float64")
def propagate(
    beam: Array,
    *,
    distance: float = DISTANCE,
    strength: float = STRENGTH,
    side: float = SIDE,
    steps: int = SPLIT_STEPS,
) -> Array:
    """The complex amplitude of the beam behind the glass."""
    first, *others = free_distances(distance, steps)
    beam = diffract(beam, first, side)
    for free in others:
        beam = diffract(bend(beam, strength * distance / steps), free, side)
    return beam


@propagate.numpy_gradient
def propagate_gradient(op: RuleContext, cotangent: Array) -> Array:
    """The way back. TensorFlow's cotangents of complex numbers pair by the real part of conj(cotangent) tangent."""
    distance, strength, side, steps = (op.static[name] for name in ("distance", "strength", "side", "steps"))
    phase = strength * distance / steps
    beam = op.outputs[0]
    first, *others = free_distances(distance, steps)
    for free in reversed(others):
        beam, cotangent = diffract(np.stack([beam, cotangent]), -free, side)
        beam, cotangent = bend(beam, -phase), bend_adjoint(beam, cotangent, phase)
    return diffract(cotangent, -first, side)


def free_distances(distance: float, steps: int) -> list[float]:
    """The distances of free waves before, between and behind the steps: Strang's splitting, of second order."""
    step = distance / steps
    return [step / 2, *[step] * (steps - 1), step / 2]


def diffract(beam: Array, distance: float, side: float) -> Array:
    """Propagate free waves, which is unitary: its adjoint is the way back, by minus the distance."""
    frequencies = 2 * np.pi * np.fft.fftfreq(beam.shape[-1], side / beam.shape[-1])
    delay = np.exp(-0.5j * distance * frequencies**2)
    return np.fft.ifft2(np.fft.fft2(beam) * delay[:, None] * delay)


def bend(beam: Array, phase: float) -> Array:
    """Turn the phase by the intensity: u exp(i p |u|^2). The intensity stays, so minus the phase turns back."""
    return beam * np.exp(1j * phase * intensity(beam))


def bend_adjoint(bent: Array, cotangent: Array, phase: float) -> Array:
    """The cotangent in front of `bend`, from what comes out of it.

    With u the beam in front and v = u exp(i a) behind, a = p |u|^2, a tangent t becomes

        exp(i a) t + i v p 2 Re(conj(u) t)

    which is not linear over the complex numbers, and its adjoint for Re(conj(c) t) is
    exp(-i a) c + 2 p Im(c conj(v)) u, where u = exp(-i a) v.
    """
    turned = cotangent + 2 * phase * np.imag(cotangent * np.conj(bent)) * bent
    return turned * np.exp(-1j * phase * intensity(bent))


def intensity(beam: Array) -> Array:
    """The squared magnitude."""
    return beam.real**2 + beam.imag**2


def across(size: int, side: float) -> Array:
    """The coordinates of pixels along a side, zero in the middle."""
    return (np.arange(size) - size // 2) * side / size


def laser() -> Array:
    """The amplitude of the laser beam in front of the plate."""
    x = across(SIZE, SIDE)
    return np.exp(-(x**2 + x[:, None] ** 2) / (2 * BEAM_WIDTH**2))


def star() -> Array:
    """The amplitude wanted behind the glass: a star of even brightness with soft edges, of the power of the laser."""
    x = across(SIZE, SIDE)
    points = np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2)
    star = matplotlib.path.Path.unit_regular_star(5, 0.45)
    outline = matplotlib.path.Path(STAR_RADIUS * star.vertices)
    inside = outline.contains_points(points).reshape(SIZE, SIZE).astype(float)
    amplitude = np.sqrt(scipy.ndimage.gaussian_filter(inside, STAR_BLUR))
    return amplitude * np.linalg.norm(laser()) / np.linalg.norm(amplitude)


def lens(focus: float) -> Array:
    """The phases of a lens with this focal length."""
    x = across(SIZE, SIDE)
    return -(x**2 + x[:, None] ** 2) / (2 * focus)


def behind_plate(phases: tf.Tensor) -> tf.Tensor:
    """The laser beam that has gone through the plate."""
    amplitude = tf.cast(laser(), phases.dtype)
    return tf.complex(amplitude * tf.cos(phases), amplitude * tf.sin(phases))


def fidelity(beam: tf.Tensor) -> tf.Tensor:
    """How alike the beam and the star are in brightness: one where they are the same, by Cauchy and Schwarz."""
    wanted = star()
    overlap = tf.reduce_sum(tf.abs(beam) * (wanted / np.sum(wanted**2)).astype(np.float32))
    return overlap**2


def shape_beam(steps: int) -> Array:
    """The phases of the plate for the greatest fidelity."""
    phases = tf.Variable(lens(FIRST_FOCUS), dtype=tf.float32)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = 1 - fidelity(propagate(behind_plate(phases)))
        optimizer.apply([tape.gradient(loss, phases)], [phases])
        return loss

    with tqdm(range(steps), desc="Shaping", unit="step") as progress:
        for _ in progress:
            progress.set_postfix(loss=f"{step().numpy():.4f}", refresh=False)
    return phases.numpy()


def soliton_difference() -> float:
    """The largest difference from a beam that glass and diffraction keep as it is: sech(x) exp(i z / 2), s = 1."""
    side, size = 32.0, 128
    profile = np.broadcast_to(1 / np.cosh(across(size, side)), (size, size))
    beam = propagate(tf.constant(profile, tf.complex128), strength=1.0, side=side, steps=200).numpy()
    return float(np.max(np.abs(beam - profile * np.exp(0.5j * DISTANCE))))


def gradient_difference(random: np.random.Generator) -> float:
    """The relative difference between the rule in a random direction and a central difference, for the phases."""
    phases = tf.constant(lens(FIRST_FOCUS))
    direction, weights = random.normal(size=[2, SIZE, SIZE])

    def value(distance: tf.Tensor) -> tf.Tensor:
        beam = propagate(behind_plate(phases + distance * direction))
        return tf.reduce_sum(weights * tf.abs(beam) ** 2)

    distance = tf.constant(0.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(distance)
        result = value(distance)
    by_rule = tape.gradient(result, distance)
    step = tf.constant(1e-5, tf.float64)
    central = (value(step) - value(-step)) / (2 * step)
    return abs(float((by_rule - central) / central))


def power_change(phases: Array) -> float:
    """How much power is gained or lost on the way, which should be none."""
    before = behind_plate(tf.constant(phases, tf.float64))
    powers = [np.sum(intensity(beam.numpy())) for beam in (before, propagate(before))]
    return float(abs(powers[1] / powers[0] - 1))


def side_view(phases: Array) -> Array:
    """The brightness along z in the middle of the glass, over y."""
    beam = behind_plate(tf.constant(phases))
    step = DISTANCE / SLICES
    inside = [propagate(beam, distance=number * step, steps=number) for number in range(1, SLICES + 1)]
    return np.stack([intensity(beam.numpy())[:, SIZE // 2] for beam in (beam, *inside)], axis=1)


def draw(path: Path, phases: Array) -> None:
    """Draw the plate, the beam in front of the glass, inside of it and behind it, and the star that was wanted."""
    figure = Figure(figsize=(12, 6.9), layout="compressed")
    grid = figure.add_gridspec(2, 6)
    behind = intensity(propagate(behind_plate(tf.constant(phases))).numpy())
    brightest = max(behind.max(), laser().max() ** 2)
    turns = {"cmap": "twilight", "vmin": -np.pi, "vmax": np.pi}
    bright = {"cmap": "inferno", "vmin": 0, "vmax": brightest}
    # Where there is hardly any light, phases do nothing and stayed where they were.
    lit = np.where(laser() > 0.02, np.angle(np.exp(1j * phases)), np.nan)
    show(figure.add_subplot(grid[0, :2]), laser() ** 2, "laser beam: |u|² in front of the plate", **bright)
    show(figure.add_subplot(grid[0, 2:4]), lit, "phase plate: delay in radians", **turns)
    show(figure.add_subplot(grid[0, 4:]), star() ** 2, "wanted: |u|² behind the glass", **bright)
    show(figure.add_subplot(grid[1, 4:]), behind, "found: |u|² behind the glass", **bright)
    extent = (0, DISTANCE, -SIDE / 2, SIDE / 2)
    axes = figure.add_subplot(grid[1, :4])
    show(axes, side_view(phases), "inside of the glass: |u|² at x = 0", extent=extent, aspect="auto", **bright)
    axes.set_xlabel("z")
    figure.savefig(path, dpi=150)


def show(axes: Any, values: Array, title: str, **options: Any) -> None:
    """Draw one field as an image, the middle of it, with a bar of its colours."""
    square = (-SIDE / 2, SIDE / 2, -SIDE / 2, SIDE / 2)
    image = axes.imshow(values, **{"origin": "lower", "extent": square, **options})
    axes.figure.colorbar(image, ax=axes)
    axes.set(title=title, ylabel="y", ylim=(-SHOWN, SHOWN))
    if "extent" not in options:
        axes.set(xlabel="x", xlim=(-SHOWN, SHOWN))


def main() -> int:
    """Check, search and draw; returns 1 if a number is worse than it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".png"), help="the picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the optimiser (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        arguments.output.open("ab").close()  # now, not after all the work
    except OSError as error:
        parser.error(f"--output cannot be written: {error}")

    soliton = soliton_difference()
    difference = gradient_difference(np.random.default_rng(0))
    print(f"Soliton and its exact solution: {soliton:.1e} apart, at most {SOLITON_BOUND:.0e} allowed")
    print(f"Rule and central difference: {difference:.1e} apart, at most {GRADIENT_BOUND:.0e} allowed")

    phases = shape_beam(arguments.steps)
    plates = [tf.constant(plate, tf.float32) for plate in (lens(FIRST_FOCUS), phases)]
    through_lens, through_plate = (float(fidelity(propagate(behind_plate(plate)))) for plate in plates)
    change = power_change(phases)
    print(f"Power: changed by {change:.1e}, at most {POWER_BOUND:.0e} allowed")
    print(f"Fidelity of the star: {through_lens:.3f} by a lens, {through_plate:.3f} by the plate")
    print(f"At least {FIDELITY_BOUND} wanted")

    draw(arguments.output, phases)
    print(f"Picture: {arguments.output}")
    exact = soliton <= SOLITON_BOUND and difference <= GRADIENT_BOUND and change <= POWER_BOUND
    return 0 if exact and through_plate >= FIDELITY_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
