"""Say that a role waits for Kafka: the clients that it starts with try again without a word."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

_ASK_S: Final = 1.0  # a broker that is there answers in milliseconds
_AGAIN_S: Final = 4.0

log = logging.getLogger("truyvet.kafka")


def tell_until_kafka_answers(address: str) -> threading.Thread:
    """Look for a broker in a thread of its own: a line now and every few seconds until one answers.

    Nothing waits for it: how a role starts without Kafka, and when it gives up, is the role's own.
    """
    thread = threading.Thread(target=_tell, args=(address,), name="waiting-for-kafka", daemon=True)
    thread.start()
    return thread


def _tell(address: str) -> None:
    admin = AdminClient({"bootstrap.servers": address, "reconnect.backoff.max.ms": 1000, "log_level": 0})
    waited = False
    while not _answers(admin):
        log.warning("waiting for Kafka at %s (TRUYVET_KAFKA)", address)
        waited = True
        time.sleep(_AGAIN_S)
    if waited:
        log.info("Kafka at %s answers", address)


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=_ASK_S).brokers)
    except KafkaException:
        return False
