"""Choice of device and precision, seeding, determinism, and how time and memory are measured."""

import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lowvis_shared.errors import DeviceError, UsageError

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


PRECISION_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in _DTYPES.items()}
"""What options and reports call a dtype to compute in."""

_CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits."""


def choose_device(name: str = "auto") -> torch.device:
    """Turn the name of a device into one that exists.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto``: CUDA, else MPS (Apple), else CPU.

    Raises:
        DeviceError: This machine has no such device; the message lists those it has.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    # A driver that is too old says so in a warning only; it belongs into the message.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cuda_count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    existing = ["cpu", *(f"cuda:{index}" for index in range(cuda_count))]
    if torch.backends.mps.is_available():
        existing.append("mps")
    if name in existing or (name == "cuda" and cuda_count):
        return torch.device(name)
    reason = "".join(f" ({warning.message})" for warning in caught) if "cuda" in name else ""
    raise DeviceError(
        f"there is no device '{name}' on this machine{reason}",
        hint=f"use --device with one of: auto, {', '.join(existing)}",
    )


@cache
def _cpu_has_native_bf16() -> bool:
    # torch's own mkldnn check is true on every AVX-512 processor, also where bf16 is emulated and
    # slower than float32. The flags of the processor are the only exact source.
    processor = Path("/proc/cpuinfo")
    if processor.exists():
        flags = processor.read_text(encoding="utf-8", errors="replace").split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    # Elsewhere torch's private checks are all there is; a torch that lacks them stays in float32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return _cpu_has_native_bf16()
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def choose_precision(name: Precision, device: torch.device, *, bit_depth: int = 8) -> torch.dtype:
    """Turn the name of a precision into the dtype to compute in.

    ``auto`` is bf16 where the hardware computes in it (AVX512_BF16 or AMX; NVIDIA Ampere and
    later), and float32 everywhere else. It never picks fp16, whose range of 65504 some networks
    exceed on noisy pictures, and never less than float32 for pictures of more than 8 bits, which
    the 8 significant bits of bf16 cannot carry.

    Args:
        name: ``auto``, ``fp32``, ``bf16`` or ``fp16``; a name other than ``auto`` is obeyed.
        device: Where the network will run.
        bit_depth: Bits per channel of the picture.

    Raises:
        UsageError: No such precision.
        DeviceError: fp16 on the CPU, where it is emulated and about 25 times slower than float32.
    """
    if name == "auto":
        reduced = bit_depth <= 8 and _has_native_bf16(device)
        return torch.bfloat16 if reduced else torch.float32
    if name not in _DTYPES:
        raise UsageError(
            f"there is no precision '{name}'", hint=f"use one of: auto, {', '.join(_DTYPES)}"
        )
    if name == "fp16" and device.type == "cpu":
        raise DeviceError(
            "fp16 is emulated on the CPU and many times slower than fp32",
            hint="use --precision auto, bf16 or fp32",
        )
    return _DTYPES[name]


@contextmanager
def exact_float32() -> Generator[None]:
    """Make float32 on an NVIDIA GPU float32 while a block runs.

    By itself torch convolves float32 in TF32, which has 10 bits of mantissa instead of 23. Other
    dtypes and devices are not affected. The setting is one for all threads.
    """
    convolutions = torch.backends.cudnn.allow_tf32
    products = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products


def seed_everything(seed: int) -> None:
    """Seed the random generators of Python, NumPy and torch (the CPU and every GPU).

    Raises:
        UsageError: The seed is outside 0 .. 2**32 - 1, the range that NumPy accepts.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed must lie in 0 .. {2**32 - 1}, not {seed}")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is what libraries draw from
    torch.manual_seed(seed)


def deterministic(enabled: bool = True) -> None:
    """Make torch refuse operations whose result differs from run to run, or allow them again.

    Call it before the first work on a GPU: cuBLAS reads ``CUBLAS_WORKSPACE_CONFIG`` only once. An
    operation that has no deterministic form then raises a RuntimeError of torch that names it.
    """
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = enabled
    torch.use_deterministic_algorithms(enabled)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True, slots=True)
class Timing:
    """What repeated runs of one function took, in seconds; the spread is maximum - minimum."""

    median_s: float
    minimum_s: float
    spread_s: float
    repeats: int


def time_function(
    function: Callable[[], object], *, device: torch.device, warmup: int = 2, repeats: int = 7
) -> Timing:
    """Time a function: by CUDA events on an NVIDIA GPU, by the wall clock elsewhere.

    Args:
        function: What to run; gradients and autocast are the caller's choice.
        device: Where its work runs; the device is idle before and after each run.
        warmup: Runs that do not count (compilation, choice of algorithms, caches).
        repeats: Runs that count.

    Raises:
        UsageError: ``repeats`` is below 1 or ``warmup`` is negative.
    """
    _check_rounds(warmup, repeats)
    for _ in range(warmup):
        function()
    _synchronize(device)
    return _timing([_time_once(function, device) for _ in range(repeats)])


def time_in_turn(
    functions: Mapping[str, Callable[[], object]],
    *,
    device: torch.device,
    warmup: int = 2,
    repeats: int = 7,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Time several functions as `time_function` does, in rounds in which each has one turn.

    A change in the load of the machine then meets all of them alike, so that their ratios hold.

    Args:
        functions: What to run, by name.
        device: Where their work runs.
        warmup: Rounds that do not count.
        repeats: Rounds that count.
        progress: Called with the rounds done and their number.

    Raises:
        UsageError: ``repeats`` is below 1 or ``warmup`` is negative.
    """
    _check_rounds(warmup, repeats)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            _synchronize(device)
            seconds[name].append(_time_once(function, device))
        if progress is not None:
            progress(turn + 1, warmup + repeats)
    return {name: _timing(each[warmup:]) for name, each in seconds.items()}


def _check_rounds(warmup: int, repeats: int) -> None:
    if repeats < 1 or warmup < 0:
        raise UsageError(f"cannot time {repeats} runs after {warmup} for warm-up")


def _timing(seconds: Sequence[float]) -> Timing:
    return Timing(
        median_s=statistics.median(seconds),
        minimum_s=min(seconds),
        spread_s=max(seconds) - min(seconds),
        repeats=len(seconds),
    )


def _time_once(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        with torch.cuda.device(device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000  # milliseconds
    start_s = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start_s


def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Measure how many floating-point operations per second a large matrix product reaches.

    The best of seven products of square matrices, 2048 wide on a CPU and 8192 on a GPU, counted as
    2 n^3 operations. It is the ceiling against which the speed of a network is judged; float32 on
    a GPU follows torch's setting for TF32.
    """
    size = 2048 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    timing = time_function(lambda: left @ right, device=device)
    return 2 * size**3 / timing.minimum_s


@dataclass(slots=True)
class PeakMemory:
    """The result of `peak_memory`: ``bytes`` is 0 until its block has ended."""

    bytes: int = 0


@contextmanager
def peak_memory(device: torch.device) -> Generator[PeakMemory]:
    """Measure the most memory in use while a block ran.

    On CUDA: the peak of what torch had allocated within the block. On the CPU and MPS: the peak
    resident set of the whole process, libraries included. Linux gives it for the block itself;
    macOS only since the process started, so measure there in a fresh process.

    Raises:
        DeviceError: On Windows, which keeps no such figure for the CPU.
    """
    peak = PeakMemory()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    if sys.platform == "win32":
        raise DeviceError("peak memory of the CPU cannot be measured on Windows")
    if sys.platform == "linux":
        # "5" resets the high-water mark; where that is forbidden, the mark of the process stays.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        yield peak
        # Not getrusage: its figure survives exec, so that a child reports the peak of its parent.
        for line in Path("/proc/self/status").read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                peak.bytes = int(line.split()[1]) * 1024
        return
    import resource

    yield peak
    peak.bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def available_memory() -> int | None:
    """Return the bytes of memory that can be had without swapping, where the system tells."""
    known = [each for each in (_system_memory(), _container_memory()) if each is not None]
    return min(known, default=None)


def _system_memory() -> int | None:
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _container_memory() -> int | None:
    """Return what is left of a container's limit; cached files that can be dropped do not count."""
    limit, current, statistics = (
        _CGROUP / name for name in ("memory.max", "memory.current", "memory.stat")
    )
    if not (limit.exists() and current.exists() and limit.read_text().strip().isdecimal()):
        return None
    cached = 0
    if statistics.exists():
        fields = dict(line.split() for line in statistics.read_text().splitlines())
        cached = int(fields.get("inactive_file", 0))
    return max(0, int(limit.read_text()) - int(current.read_text()) + cached)


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Describe what a figure was measured on: versions, processor, threads and GPUs."""
    description = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        description["cuda"] = str(torch.version.cuda)
        description["gpu"] = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
    return description
