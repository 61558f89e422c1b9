"""XLA compilations: kept on disk from one start to the next, and counted."""

import functools
import hashlib
import os
import pathlib
import platform
import threading

import jax

# Of what takes less, reading back would not be worth the file.
_WORTH_KEEPING_SECONDS = 0.2

_COMPILED = "/jax/core/compile/backend_compile_duration"
_count = 0


def keep_on_disk(directory: str | None) -> None:
    """Lets JAX keep what it compiles, so that the next start of the same program reads it back.

    What is read back is the very code that was written: results are the same, bit for bit. JAX's own setting
    (`JAX_COMPILATION_CACHE_DIR`) goes before this one.

    Args:
        directory: where; None for `mfg_jax/xla` in `XDG_CACHE_HOME` or `~/.cache`; "" to keep nothing.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None or directory == "":
        return
    if directory is None:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        directory = str(pathlib.Path(cache) / "mfg_jax" / "xla")
    # Code for one CPU may not run on another, and a home directory may be shared by different machines.
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(directory).expanduser() / _machine()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _WORTH_KEEPING_SECONDS)


def count() -> int:
    """How many programs this process has compiled, or read back from disk, since this was first called.

    Only those of the main thread are counted: checkpoints are written by others.
    """
    _listen()
    return _count


@functools.cache
def _listen() -> None:
    def note(event: str, duration_secs: float, **_: str | int) -> None:
        global _count
        if event == _COMPILED and threading.current_thread() is threading.main_thread():
            _count += 1

    jax.monitoring.register_event_duration_secs_listener(note)


def _machine() -> str:
    """A name that differs where the CPU's instructions do."""
    instructions = ""
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():  # Linux
        lines = path.read_text().splitlines()
        instructions = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    text = platform.machine() + platform.processor() + instructions
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
