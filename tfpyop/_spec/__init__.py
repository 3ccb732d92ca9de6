"""Read and check the spec of an op when the op is defined. This package uses numpy only."""
