"""Runs user code: the one place where a user's function is called. Uses numpy only."""
