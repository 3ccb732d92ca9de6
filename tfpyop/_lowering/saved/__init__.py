"""Calls and gradients in saved models: what models store, and how it is read."""
