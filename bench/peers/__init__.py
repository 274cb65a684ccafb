"""The same reconciliation in other frameworks, for `bench.execution`. They import nothing of hedgerow and run in an environment of their own."""
