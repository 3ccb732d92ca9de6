"""The libraries that are compared: each module tells in `cases()` what it measures."""

FOREIGN = ("jax", "torch", "autograd", "pytensor", "scipy")
"""Those that take part if they are installed."""
