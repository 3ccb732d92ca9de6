"""Ops, their rules and their tokens. Pure Python."""
