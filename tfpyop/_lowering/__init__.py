"""The ways in which a call reaches TensorFlow. Imported with TensorFlow, never by `import tfpyop`."""
