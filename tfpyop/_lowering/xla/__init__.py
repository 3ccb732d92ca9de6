"""Calls in functions that XLA compiles: `nodes` adds them to graphs, `call_site` runs them, `ffi` connects the two."""
