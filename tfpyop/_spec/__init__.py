"""The description of an op, read and checked when the op is defined. Uses numpy only."""
