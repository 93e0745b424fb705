"""The embedded stack: Kafka, Redis and the ClickHouse engine on loopback, supervised."""
