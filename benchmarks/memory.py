"""How far the resident memory of this process rises while something runs."""

from __future__ import annotations

import threading

import psutil


class PeakMemory:
    """Highest resident memory above that at the start, sampled every 10 ms."""

    def __enter__(self) -> PeakMemory:
        self.process = psutil.Process()
        self.start = self.peak = self.process.memory_info().rss
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.01):
            self.peak = max(self.peak, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    @property
    def above(self) -> int:
        """Bytes above the start, at most."""
        return self.peak - self.start
