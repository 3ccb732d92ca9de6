"""Derivatives computed from the values of a function. Uses numpy only."""
