"""The report of runs that are going on: served on this machine, and written anew when a run has taken a step."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlcore.analysis.report.page import Report
from rlcore.analysis.report.rollouts import stamp
from rlcore.errors import RunError
from rlcore.run.folder import RunFolder

POLL_S = 1.0
"""How often the records of the runs are looked at."""


def serve(runs: Sequence[Path], *, port: int, say: Callable[[str], None]) -> None:
    """Serve the page on `port` (0: any free one) until interrupted. Raises `RunError`."""
    with tempfile.TemporaryDirectory(prefix="rlcore_report_") as folder:
        page = Path(folder) / "report.html"
        report = Report(runs, page)
        seen = _state(runs)
        report.write_live()
        handler = partial(_QuietHandler, directory=folder)
        try:
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise RunError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        say(f"http://127.0.0.1:{server.server_port}/{page.name} (ctrl-C ends it)")
        try:
            while True:
                time.sleep(POLL_S)
                now = _state(runs)
                if now != seen:
                    report.write_records()
                    seen = now
        finally:
            server.shutdown()
            server.server_close()


def _state(runs: Sequence[Path]) -> list[tuple[int, int]]:
    """Changes when a run has logged a step, an evaluation or a start."""
    states: list[tuple[int, int]] = []
    for run in runs:
        folder = RunFolder(run)
        states += map(stamp, (folder.metrics, folder.evals, folder.starts))
    return states


class _QuietHandler(SimpleHTTPRequestHandler):
    """Serves the folder without a line for each request, and to pages of this machine alone."""

    def do_GET(self) -> None:
        # a page of elsewhere could give its own name this machine's address, and read what is served
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self.send_error(
                HTTPStatus.FORBIDDEN, "open it as http://127.0.0.1 or http://localhost"
            )
        elif self.path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", "/report.html")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass
