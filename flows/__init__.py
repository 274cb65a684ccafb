"""Wiring: one dataflow per file, the lane runtime, settings and the `hedgerow` command. Holds no domain rules."""
