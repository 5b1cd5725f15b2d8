"""Progress bars on stderr if tqdm is installed (it comes with spaCy), otherwise nothing."""

import sys
from typing import Any


class _NoBar:
    """Accepts the calls of a tqdm bar and shows nothing."""

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def update(self, n: float = 1) -> None:
        """Count."""

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Show text next to the bar."""

    def refresh(self) -> None:
        """Draw."""


def progress_bar(show: bool, description: str, total: float | None = None, **settings: Any) -> Any:
    """Return a tqdm bar, or one that shows nothing. `settings` are tqdm's."""
    if show:
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            interval = 0.1 if sys.stderr.isatty() else 30.0  # seconds: a log file should stay readable
            return tqdm(
                desc=description, total=total, unit_scale=True, dynamic_ncols=True, mininterval=interval, **settings
            )
    return _NoBar()
