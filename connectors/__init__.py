"""The outside world: Kafka, brokers, files, feeds. May import schemas only; holds no domain rules."""
