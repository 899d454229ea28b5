"""Many clients of the page's API at once.

    python app.py --max_queue 64    # and in another shell:
    python -m benchmarks.clients http://127.0.0.1:7860 --clients 50 --query "a red circle"

Each client connects, waits until all have, and searches. Prints how many were answered, and p50 and p95 of the seconds
from the request to the last image, which each client downloads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class Answers(NamedTuple):
    """What the clients got."""

    results: list[Any]  # of each client that was answered
    seconds: list[float]  # likewise
    errors: list[str]  # of those that were not

    def report(self) -> str:
        """Return the figures in words."""
        cuts = statistics.quantiles(self.seconds, n=20) if len(self.seconds) > 1 else [0.0] * 19
        return (
            f"{len(self.results)} of {len(self.results) + len(self.errors)} clients were answered, "
            f"p50 {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s, all in {max(self.seconds, default=0):.2f} s"
        )


def search_at_once(address: str, query: str, clients: int) -> Answers:
    """Let clients search at the same moment."""
    from gradio_client import Client  # part of Gradio, which the page needs

    answers, barrier, lock = Answers([], [], []), threading.Barrier(clients), threading.Lock()

    def one(folder: str) -> None:
        try:
            client = Client(address, verbose=False, download_files=folder)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
            barrier.abort()
            with lock:
                answers.errors.append(repr(error))
            return
        barrier.wait(120)
        start = time.perf_counter()
        try:
            result = client.predict(query, api_name="/find_images")
        except Exception as error:  # noqa: BLE001
            with lock:
                answers.errors.append(repr(error))
        else:
            with lock:
                answers.results.append(result)
                answers.seconds.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(one, folder) for _ in range(clients)]:
            future.result()
    return answers


def main(argv: Sequence[str] | None = None) -> None:
    """Search and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the page")
    parser.add_argument("--clients", type=int, default=50, help="at once; default: 50")
    parser.add_argument("--query", default="a red circle", help="text to search")
    options = parser.parse_args(argv)
    answers = search_at_once(options.address, options.query, options.clients)
    print(answers.report())
    for error in sorted(set(answers.errors)):
        print(error)


if __name__ == "__main__":
    main()
