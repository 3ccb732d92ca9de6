"""Benchmarks: they print ratios measured in one run, interleaved, and judge nothing."""
