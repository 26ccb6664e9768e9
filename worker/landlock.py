"""Landlock: a process gives up access to files, TCP and other processes, for good and for all that it starts.

https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, with the same numbers on all architectures."""
VERSION_FLAG = 1
PATH_BENEATH = 1
NETWORK_ABI, SCOPE_ABI = 4, 6
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2
BIND_TCP, CONNECT_TCP = 1, 2


class Access(IntFlag):
    """What a process may do with files."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.EXECUTE | Access.READ_FILE | Access.READ_DIR
LIST = Access.READ_DIR
WRITE = READ | (
    Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.REFER
    | Access.TRUNCATE
)
LINK = WRITE | Access.MAKE_SYM
DEVICE = Access.READ_FILE | Access.WRITE_FILE | Access.READ_DIR | Access.IOCTL_DEV
OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
"""The rights that a rule for a single file may have."""
SINCE = {2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
"""The versions of the interface that added a right."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def abi() -> int:
    """The version of the kernel's interface; 0 if it has none."""
    version = _library().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    return max(0, version)


def restrict(rules: Iterable[tuple[Path, Access]], *, network: bool) -> None:
    """Allow this thread, and what it starts, only these accesses; without `network`, also no TCP.

    Where the kernel can, signals and abstract sockets reach only processes with the same restriction. Paths that do not
    exist are left out. `PR_SET_NO_NEW_PRIVS` must be set. Raises OSError.
    """
    version = abi()
    known = _known(version)
    attributes = _Ruleset(
        files=known,
        network=0 if network or version < NETWORK_ABI else BIND_TCP | CONNECT_TCP,
        scoped=SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if version >= SCOPE_ABI else 0,
    )
    size = 24 if version >= SCOPE_ABI else 16 if version >= NETWORK_ABI else 8
    ruleset = _call(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, access in rules:
            _allow(ruleset, path, access & known)
        _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _known(version: int) -> Access:
    known = Access(0)
    for right in Access:
        since = next((number for number, added in SINCE.items() if added == right), 1)
        if since <= version:
            known |= right
    return known


def _allow(ruleset: int, path: Path, access: Access) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        allowed = access if path.is_dir() else access & OF_FILES
        rule = _PathBeneath(allowed=allowed, folder=descriptor)
        _call(
            ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = _library().syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library
