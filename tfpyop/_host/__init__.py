"""Run user code. This is the only package that calls a user's function. It uses numpy only."""
