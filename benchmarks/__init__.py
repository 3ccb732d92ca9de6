"""Benchmarks: ratios between libraries, in turns so that a drift of the machine cancels. They judge nothing."""
