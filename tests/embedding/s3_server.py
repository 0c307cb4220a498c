"""moto's S3 on a free port of loopback, until its standard output is closed or it is killed; says its URL.

Run as `python -m tests.embedding.s3_server`.
"""

from __future__ import annotations

import logging
import time

from moto.server import ThreadedMotoServer


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
