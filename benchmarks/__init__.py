"""Benchmarks: one question a file, answered in ratios that are taken within one run."""
