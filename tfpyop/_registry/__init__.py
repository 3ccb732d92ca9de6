"""Define ops, their rules and their tokens. This package does not import TensorFlow."""
