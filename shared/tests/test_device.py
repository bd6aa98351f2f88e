import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lowvis_shared.device import (
    choose_device,
    choose_precision,
    deterministic,
    environment,
    exact_float32,
    matrix_peak,
    peak_memory,
    seed_everything,
    time_function,
    time_in_turn,
)
from lowvis_shared.errors import DeviceError, UsageError

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_every_machine_has_a_cpu_and_an_automatic_choice() -> None:
    assert choose_device("cpu") == CPU
    torch.zeros(1, device=choose_device())


@pytest.mark.parametrize("name", ["cuda:9", "cuda:-1", "gpu", "CPU", "", "meta", "cpu:7"])
def test_a_device_that_does_not_exist_is_an_error_that_lists_those_that_do(name: str) -> None:
    with pytest.raises(DeviceError, match=f"no device '{name}'") as caught:
        choose_device(name)
    assert caught.value.exit_code == 69
    assert caught.value.hint is not None
    assert "cpu" in caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(DeviceError, match="no device 'cuda'"):
        choose_device("cuda")


def test_the_automatic_precision_is_bf16_only_where_the_processor_computes_in_it() -> None:
    processor = Path("/proc/cpuinfo")
    if not processor.exists():
        pytest.skip("the flags of the processor are not listed on this system")
    flags = processor.read_text().split()
    native = "avx512_bf16" in flags or "amx_bf16" in flags
    assert choose_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_pictures_of_more_than_8_bits_are_computed_in_float32() -> None:
    assert choose_precision("auto", CPU, bit_depth=16) == torch.float32


def test_a_named_precision_is_obeyed_except_fp16_on_the_cpu() -> None:
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU, bit_depth=16) == torch.bfloat16
    with pytest.raises(DeviceError, match="fp16"):
        choose_precision("fp16", CPU)
    with pytest.raises(UsageError, match="fp8"):
        choose_precision("fp8", CPU)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_numbers_everywhere() -> None:
    def draw() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    seed_everything(7)
    first = draw()
    seed_everything(7)
    assert draw() == first
    seed_everything(8)
    assert all(one != other for one, other in zip(draw(), first, strict=True))
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match="seed"):
            seed_everything(seed)


def test_float32_is_not_tf32_within_its_block_and_the_setting_comes_back() -> None:
    before = torch.backends.cudnn.allow_tf32
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@needs_cuda
def test_exact_float32_convolves_in_float32() -> None:
    image, kernel = torch.rand(1, 64, 32, 32), torch.rand(64, 64, 3, 3)
    with exact_float32():
        result = torch.conv2d(image.cuda(), kernel.cuda()).cpu()
    expected = torch.conv2d(image.double(), kernel.double()).float()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


@pytest.fixture
def restore_determinism() -> Iterator[None]:
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    deterministic(False)
    if workspace is None:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("restore_determinism")
def test_determinism_is_switched_on_and_off() -> None:
    deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_timing_counts_the_repeats_and_not_the_warm_up() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(0.05 if len(calls) < 2 else 0.01)
        time.sleep(calls[-1])

    timing = time_function(work, device=CPU, warmup=2, repeats=3)
    assert len(calls) == 5
    assert timing.repeats == 3
    assert 0.01 <= timing.minimum_s <= timing.median_s <= timing.minimum_s + timing.spread_s
    with pytest.raises(UsageError):
        time_function(work, device=CPU, repeats=0)


def test_functions_are_timed_in_turn_after_the_rounds_that_do_not_count() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.02)

    rounds: list[tuple[int, int]] = []
    timings = time_in_turn(
        {"slow": slow, "fast": lambda: calls.append("fast")},
        device=CPU,
        warmup=1,
        repeats=3,
        progress=lambda done, of: rounds.append((done, of)),
    )
    assert calls == ["slow", "fast"] * 4
    assert rounds == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert timings["slow"].repeats == timings["fast"].repeats == 3
    assert timings["slow"].minimum_s >= 0.02 > timings["fast"].minimum_s
    with pytest.raises(UsageError):
        time_in_turn({}, device=CPU, repeats=0)


@pytest.mark.skipif(sys.platform != "linux", reason="measured for a block on Linux only")
def test_peak_memory_on_the_cpu_is_that_of_the_block() -> None:
    with peak_memory(CPU) as large:
        torch.ones(50_000_000)  # 200 MB of float32, freed before the end
    with peak_memory(CPU) as small:
        pass
    assert 190e6 < large.bytes - small.bytes < 260e6


def test_a_result_says_what_it_was_measured_on() -> None:
    described = environment()
    assert described["torch"] == torch.__version__
    assert described["processor"]
    assert int(described["threads"]) == torch.get_num_threads()


@needs_cuda
def test_cuda_time_memory_and_peak_are_measured_on_the_gpu() -> None:
    device = choose_device("cuda:0")
    with peak_memory(device) as peak:
        torch.ones(1 << 20, device=device)
    assert 4 << 20 <= peak.bytes <= 8 << 20
    matrix = torch.ones(4096, 4096, device=device)
    timing = time_function(lambda: matrix @ matrix, device=device)
    assert 1e-5 < timing.minimum_s < 1
    assert matrix_peak(torch.bfloat16, device) > matrix_peak(torch.float32, device) > 1e11


def test_the_matrix_peak_of_a_cpu_is_plausible() -> None:
    assert 1e8 < matrix_peak(torch.float32, CPU) < 1e14
