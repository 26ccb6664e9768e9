"""What the operating system reports about a disk."""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The error numbers of a write that finds no room: a full disk, a quota, or a limit on the size of a file."""
