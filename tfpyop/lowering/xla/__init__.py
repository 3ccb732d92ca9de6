"""Calls in functions that XLA compiles: `nodes` adds them to graphs, `calls` runs them, `ffi` lies in between."""

from tfpyop.lowering.xla.compilation import compiling, is_compiling
from tfpyop.lowering.xla.nodes import TOKEN_ATTRIBUTE, check_shape, host_node, install

__all__ = ["TOKEN_ATTRIBUTE", "check_shape", "compiling", "host_node", "install", "is_compiling"]
