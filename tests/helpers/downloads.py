"""Downloads of the model `tiny` in a thread of their own."""

import threading
import time

from spacy_elmo.tools.download import download


def wait_until(condition):
    """Wait for another thread or process; fail after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Downloading(threading.Thread):
    """`download("tiny")` in a thread."""

    def __init__(self, **settings):
        super().__init__(daemon=True)
        self.settings, self.report = settings, None
        self.start()

    def run(self):
        self.report = download("tiny", **self.settings)

    def finish(self):
        """Its report, once it is at its end."""
        self.join(60)
        assert not self.is_alive()
        return self.report
