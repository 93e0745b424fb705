"""Has Redis write its log anew behind everything else.

The child that Redis forks for that takes a core for seconds at Redis' own priority, and no setting of Redis'
says otherwise: on a machine of two cores everybody's scans were late until it had ended and what had piled up
was done (docs/DESIGN.md, "Measured"). So Redis is asked whether it is at it, and the child put behind.
"""

from __future__ import annotations

import threading
from typing import Final

import psutil
import redis

# As ClickHouse and the archive. Not the lowest there is: while it runs, Redis copies every page that it
# changes, so on a machine that is always full it must end as well.
BEHIND: Final = 10
_EVERY_S: Final = 0.25  # of a child that lives for seconds; a question costs Redis some 20 µs
_PATIENCE_S: Final = 1.0  # a Redis that is busy or away for longer is asked again at the next look


class Rewriting:
    """Of one Redis on this machine. `look` is cheap, and never raises for a Redis that does not answer."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S, retry=None
        )

    def look(self) -> list[int]:
        """The process ids of the children that were put behind just now."""
        try:
            doing = self._client.info("persistence")
            if not (doing["aof_rewrite_in_progress"] or doing["rdb_bgsave_in_progress"]):
                return []
            server = psutil.Process(self._client.info("server")["process_id"])
            return [child.pid for child in server.children() if _put_behind(child)]
        except (redis.RedisError, psutil.Error):  # away, busy, or the child has ended meanwhile
            return []

    def keep_looking(self) -> None:
        """From now on, in a thread that ends with the process."""
        threading.Thread(target=self._go_on, name="rewriting", daemon=True).start()

    def _go_on(self) -> None:
        pause = threading.Event()
        while not pause.wait(_EVERY_S):
            self.look()


def _put_behind(process: psutil.Process) -> bool:
    if process.nice() >= BEHIND:
        return False
    process.nice(BEHIND)
    return True
