"""Benchmarks: this package's savers, the official ones of the same database and InMemorySaver, in one run."""
