"""The domain: pure functions and lane logics over batches. No I/O, no wall clock, no randomness."""
