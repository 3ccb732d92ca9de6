"""The kinds of derivative rules, and what follows from each."""
