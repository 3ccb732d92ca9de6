"""Define the kinds of derivative rules and their behavior."""
