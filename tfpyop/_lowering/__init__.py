"""The lowerings: the ways a call can reach TensorFlow. Imported with TensorFlow, never by `import tfpyop`."""
