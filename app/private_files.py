"""Keeps what the service writes from other users of the machine."""

import os
import stat
from contextlib import suppress

from app.settings import Settings

OTHERS = 0o077


def keep_private(settings: Settings) -> None:
    """From now on, this process creates folders with mode 0700 and files with 0600. So does what it starts.

    The data folder and the SQLite database of an earlier version are closed to others too.
    """
    os.umask(OTHERS)
    for path in (settings.data_dir, *settings.data_dir.glob("*.db*")):
        with suppress(FileNotFoundError):
            found = path.stat()
            if found.st_uid == os.getuid() and found.st_mode & OTHERS:
                path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
