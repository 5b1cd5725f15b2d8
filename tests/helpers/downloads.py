"""Downloads of the model `tiny` in a separate thread."""

import threading
import time

from spacy_elmo.tools.download import download


def wait_until(condition):
    """Wait for another thread or process. Fail after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Downloading(threading.Thread):
    """Runs `download("tiny")` in a thread."""

    def __init__(self, **settings):
        super().__init__(daemon=True)
        self.settings, self.report = settings, None
        self.start()

    def run(self):
        self.report = download("tiny", **self.settings)

    def finish(self):
        """Wait for its end, and return its report."""
        self.join(60)
        assert not self.is_alive()
        return self.report
