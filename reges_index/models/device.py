"""Where to compute, and in which number format."""

from __future__ import annotations

import torch

from reges_index.errors import ConfigError

__all__ = ["pick_device", "pick_dtype"]

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device; "auto" is the first CUDA GPU, else Apple's, else the CPU.

    Raises
    ------
    ConfigError
        For a device that torch does not know or that is not here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as problem:
        # torch built without CUDA raises AssertionError.
        raise ConfigError(
            f"device {device!r} cannot be used: {problem}", hint='use "auto", "cpu" or "cuda:0"'
        ) from problem
    return chosen


def pick_dtype(dtype: str | torch.dtype = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the number format; "auto" is bf16 where the hardware computes in it, else fp32.

    On a CPU that is AVX512-BF16 or AMX. Elsewhere bf16 is emulated and slower than fp32.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if _native_bf16(device or torch.device("cpu")) else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not known", hint=f"use auto, {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    # Private, but the only ones that ask cpuid; a torch without them computes in fp32.
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)
