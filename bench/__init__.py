"""Benchmarks and checks that anyone can run: `python -m bench --help`."""
