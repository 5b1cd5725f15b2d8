"""What a forked process has to heed: the threads of torch's pool do not survive a fork, and waiting for them
would last for ever."""

import os

import torch

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def keep_to_one_thread_after_fork() -> None:
    """Call before any work with torch; does nothing in a process that was not forked."""
    if _forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
