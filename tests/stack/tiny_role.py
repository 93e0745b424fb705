"""A role as small as it can be: answers /healthz on its port, ends on SIGTERM, dies when it is told to.

python tiny_role.py PORT [FILE]: while FILE exists it dies at its start, with exit code 7.
"""

from __future__ import annotations

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write(b'# TYPE truyvet_scans counter\ntruyvet_scans_total{verdict="accepted"} 42\n')

    def log_message(self, format: str, *args: object) -> None:
        return


def main() -> None:
    port, broken = int(sys.argv[1]), sys.argv[2:]
    if broken and Path(broken[0]).exists():
        print("the register of venues is on fire", flush=True)
        sys.exit(7)
    server = ThreadingHTTPServer(("127.0.0.1", port), _Well)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"tiny role on {port}", flush=True)
    server.serve_forever()
    print("tiny role ended", flush=True)


if __name__ == "__main__":
    main()
