"""Keyed tables with change capture, and the ledgers built on them. No Kafka, no wall clock."""
