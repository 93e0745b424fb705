"""`python -m deploy.local.clickhouse --host 127.0.0.1 --port 19000 --data DIR`."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from deploy.local.clickhouse.connection import Limits
from deploy.local.clickhouse.engine import DataFolderError, Engine
from deploy.local.clickhouse.server import Server

log = logging.getLogger("clickhouse")

_CALL_WRONG = 2
_PASSWORD_VARIABLE = "TRUYVET_CLICKHOUSE_PASSWORD"  # noqa: S105 (the name of a variable)


def main() -> int:
    """Serve until SIGTERM or SIGINT. Exit code 0; 2 when the folder or the address cannot be taken."""
    options = _options()
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    password = options.password or os.environ.get(_PASSWORD_VARIABLE, "")
    if not password and not _is_loopback(options.host):
        return _refuse(f"{options.host} is not a loopback address: set {_PASSWORD_VARIABLE} to listen there")
    limits = Limits(queries=options.max_queries, query_memory=options.query_memory << 20)
    stop = threading.Event()
    try:
        engine = Engine(options.data, limits.query_memory)
    except (DataFolderError, OSError) as error:
        return _refuse(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):  # after chDB, which sets handlers of its own
        signal.signal(number, lambda *_: stop.set())
    server = Server(engine, limits, password)
    try:
        port = server.start(options.host, options.port)
    except OSError as error:
        server.stop(0)
        engine.close()
        return _refuse(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}")
    version = ".".join(map(str, engine.version))
    log.info("ready: ClickHouse engine %s on %s:%d, data in %s", version, options.host, port, options.data)
    stop.wait()
    log.info("stopping")
    server.stop(options.grace)
    engine.close()
    log.info("stopped")
    return 0


def _options() -> argparse.Namespace:
    usual = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.clickhouse",
        description="The ClickHouse engine (chDB) behind the native protocol.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=19000, help="0: a free one, see the log (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder, made if missing")
    parser.add_argument("--password", default="", help=f"of user default; better in {_PASSWORD_VARIABLE}")
    parser.add_argument(
        "--max-queries", type=int, default=usual.queries, help="at once (default: %(default)s)"
    )
    parser.add_argument("--query-memory", type=int, default=usual.query_memory >> 20, help="MiB a query")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for running statements at the end")
    parser.add_argument("--verbose", action="store_true", help="log every query")
    return parser.parse_args()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse(message: str) -> int:
    log.error("%s", message)
    return _CALL_WRONG


if __name__ == "__main__":
    sys.exit(main())
