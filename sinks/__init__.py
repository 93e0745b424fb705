"""Kafka → ClickHouse: the archive writer and its migrations."""
