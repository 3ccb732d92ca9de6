"""The lowerings: the ways a call can reach TensorFlow. Imported with TensorFlow, never by `import tfpyop`."""

import tensorflow  # noqa: F401 - first, because its import hooks import modules of this package
