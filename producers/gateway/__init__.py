"""The HTTP gateway: scans from devices, acknowledged once Kafka has them."""

from producers.gateway.server import serve

__all__ = ["serve"]
