"""Keeps what the service writes from other users of the machine."""

import os
import stat
from contextlib import suppress

from app.settings import Settings

OTHERS = 0o077


def keep_private(settings: Settings) -> None:
    """From now on, this process creates folders with mode 0700 and files with 0600. So does what it starts.

    The data folder of an earlier version is closed to others too. What is inside of it then needs no change.
    """
    os.umask(OTHERS)
    with suppress(FileNotFoundError):
        found = settings.data_dir.stat()
        if found.st_uid == os.getuid() and found.st_mode & OTHERS:
            settings.data_dir.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
