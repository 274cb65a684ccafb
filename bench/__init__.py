"""Benchmarks, peers and slow oracles. May import everything; nothing of the product may import this package."""
