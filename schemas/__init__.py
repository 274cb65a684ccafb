"""Contracts: pydantic models, the topic registry, reason codes and the columnar codec compiled from the models."""
