"""Imported last by the fork server: what it has loaded is no rubbish, so no fork looks through it, nor copies it.

Nor is it taken apart at the server's end, which costs a second with torch.
"""

import atexit
import gc
import os


def _end_at_once(server: int) -> None:
    if os.getpid() == server:
        os._exit(0)


gc.freeze()
atexit.register(_end_at_once, os.getpid())
