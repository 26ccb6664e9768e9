"""What a training process may do: it reads a model that somebody hostile may have made, so it gets little.

It has no privileges and no secrets, reads only libraries and its own inputs, writes only its own folders, and uses the network
only for the hub. A kernel without one of the means leaves that one out; `GET /v1/workers` reports it.
"""

import ctypes
import logging
import os
import resource
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from worker import landlock
from worker.landlock import DEVICE, LINK, LIST, READ, WRITE, Access

log = logging.getLogger(__name__)

Mode = Literal["auto", "required", "off"]
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
CAPABILITY_VERSION = 0x20080522
MOST_CAPABILITIES = 64
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/proc", "/sys", "/run/nvidia-persistenced")
ETC = (
    "alternatives", "ca-certificates", "crypto-policies", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "nvidia", "OpenCL", "passwd", "pki",
    "resolv.conf", "ssl", "timezone",
)  # fmt: skip
"""Of /etc, what libraries read. The rest may hold passwords."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")  # noqa: S108 - a device
PASSED_ON = (
    "ATEN_", "COLUMNS", "CPATH", "CUBLAS", "CUDA", "CUDNN", "CXX", "CC", "DATASETS_", "DNNL_", "GOMP_", "HF_", "HOME",
    "HUGGINGFACE_", "KMP_", "LANG", "LC_", "LD_LIBRARY_PATH", "LOGNAME", "MALLOC_", "MKL_", "NCCL_", "NUMEXPR_",
    "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PATH", "PYTHON", "PYTORCH_", "RAYON_", "SAFETENSORS_", "TF_",
    "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "TRITON_", "TZ", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME", "XLA_",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
"""How the names of environment variables begin that libraries read. A hub token is among them, for gated models."""


@dataclass(frozen=True)
class Isolation:
    """What this machine does to keep training processes apart from everything else."""

    user: str
    """`own` if they run as an ordinary user, `root` otherwise."""
    landlock_abi: int
    """0: the kernel does not restrict files."""
    files: bool
    """Whether they can read and write only what they need."""
    network: bool
    """Whether those that need no hub cannot open TCP connections."""
    signals: bool
    """Whether their signals reach only their own processes."""
    memory_bytes: int | None
    """What each may allocate; None without a limit."""

    def to_json(self) -> dict[str, str | int | bool | None]:
        """The fields as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reach:
    """What one training process needs of the machine."""

    readable: list[Path]
    writable: list[Path]
    listable: list[Path]
    """Only the names in them."""
    temporary: Path
    needs_hub: bool
    has_gpu: bool
    hidden: list[Path]
    """Never readable as a whole, even if a folder of libraries contains them."""


def isolation(mode: Mode, memory_bytes: int | None) -> Isolation:
    """What `enter` will do here. Raises OSError with the mode `required` if files cannot be restricted."""
    version = 0 if mode == "off" else landlock.abi()
    if mode == "required" and not version:
        raise OSError(
            "TUNESMITH_SANDBOX is `required`, and this kernel has no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)"
        )
    return Isolation(
        user="root" if os.getuid() == 0 else "own",
        landlock_abi=version,
        files=version > 0,
        network=version >= landlock.NETWORK_ABI,
        signals=version >= landlock.SCOPE_ABI,
        memory_bytes=memory_bytes,
    )


def enter(reach: Reach, mode: Mode) -> None:
    """Give up everything else, for this process and all that it starts. Before any other thread is started.

    Raises OSError where the kernel refuses what `isolation` has announced.
    """
    reach.temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(reach.temporary)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _drop_privileges()
    if mode == "off" or not landlock.abi():
        return
    landlock.restrict(_rules(reach), network=reach.needs_hub)


def keep_environment(extra: Iterable[str]) -> None:
    """Remove every environment variable that training does not need, and keep other processes from reading the original ones."""
    kept = (*PASSED_ON, *extra)
    for name in list(os.environ):
        if not name.startswith(kept):
            del os.environ[name]
    # /proc/PID/environ still shows what this process was started with, but only to those who may trace it.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _drop_privileges() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    for capability in range(MOST_CAPABILITIES):
        # Without the right to do this, there is nothing to drop. Numbers that the kernel does not know fail too.
        library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    if library.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _rules(reach: Reach) -> list[tuple[Path, Access]]:
    system = [*SYSTEM, *(f"/etc/{name}" for name in ETC), sys.prefix, sys.base_prefix, *filter(None, sys.path)]
    hidden = _resolved(reach.hidden)
    libraries = {path for path in _resolved(map(Path, system)) if not any(one.is_relative_to(path) for one in hidden)}
    return [
        *((path, READ) for path in libraries | _resolved(reach.readable)),
        *((path, WRITE) for path in _resolved(reach.writable)),
        *((path, LIST) for path in _resolved(reach.listable)),
        # The hub's cache consists of links.
        *((path, LINK if reach.needs_hub else READ) for path in _hub_caches()),
        *((Path(path), DEVICE | WRITE) for path in DEVICES),
        *([(Path("/dev"), DEVICE)] if reach.has_gpu else []),
    ]


def _hub_caches() -> set[Path]:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    others = [os.environ[name] for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE") if name in os.environ]
    folders = {Path(folder).expanduser() for folder in (home, *others)}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return _resolved(folders)


def _resolved(paths: Iterable[Path]) -> set[Path]:
    return {path.resolve() for path in paths}
