"""Benchmarks: `python -m bench.NAME` from the repository's root. Figures are kept in bench/results/."""
