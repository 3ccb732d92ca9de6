"""Compute derivatives from the values of a function. This package uses numpy only."""
