"""Choose the precision of a run's matrix products: the one in the config, or the fastest one for its processes."""

import os
import platform
import sys
from pathlib import Path
from typing import Literal

import torch

from spacy_elmo.pretraining.distributed import Group

Precision = Literal["float32", "bfloat16", "float16"]
Support = Literal["fast", "slow", "emulated", "unknown"]  # compared with float32: only "fast" is worth choosing

_BY_PREFERENCE: tuple[Precision, ...] = ("bfloat16", "float16")  # float16 needs to scale its loss

# Values of ONEDNN_MAX_CPU_ISA; see "CPU dispatcher control" in oneDNN's guide. Its other values limit less.
_WITHOUT_BFLOAT16 = {"sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni"}
_WITHOUT_AMX = _WITHOUT_BFLOAT16 | {"avx512_core_bf16", "avx512_core_fp16", "avx10_1_512", "avx10_2", "avx10_2_512"}


def choose_precision(
    asked: Literal["auto"] | Precision, saved: Precision | None, group: Group, show_progress: bool
) -> Precision:
    """Choose the precision that the config names; for "auto" that of the checkpoint, or else the fastest here.

    So a resumed run keeps its numbers, even on a machine that is faster in another precision.
    saved: precision of the checkpoint to continue from, if there is one and it names any.
    """
    automatic = saved or fastest_precision(group)
    chosen = automatic if asked == "auto" else asked
    source = ", as in the checkpoint" if asked == "auto" and saved else ""
    if asked == "auto" and show_progress and group.is_main:
        print(f'ℹ [training] precision = "auto": {chosen}{source}', file=sys.stderr)
    if reason := explain_emulation(chosen, group):
        advice = 'set it to "float32"' if automatic == chosen else 'set it to "auto" or "float32"'
        group.warn(f'[training] precision is "{chosen}"{source}, but {reason}; {advice}')
    return chosen


def fastest_precision(group: Group) -> Precision:
    """Return the precision in which all processes compute products fastest, judging by their instructions."""
    for precision in _BY_PREFERENCE:
        if _count(precision, "fast", group) == group.size:
            return precision
    return "float32"


def explain_emulation(precision: Precision, group: Group) -> str | None:
    """Return why products in this precision are slower than in float32, if a process of the run emulates them."""
    if precision == "float32" or not _count(precision, "emulated", group):
        return None
    limit = _onednn_limit()
    if group.device.type == "cuda":
        lacks = "this GPU has no"
    elif limit in _WITHOUT_AMX:
        lacks = f"ONEDNN_MAX_CPU_ISA={limit.upper()} leaves this processor no"
    else:
        lacks = "this processor has no"
    return f"{lacks} {precision} instructions: they are emulated, several times slower than float32"


def _count(precision: Precision, support: Support, group: Group) -> int:
    """Count the processes that have this support; all processes must call this together."""
    has = torch.tensor(support_of(precision, group.device) == support, dtype=torch.int, device=group.device)
    return int(group.sum(has))


def support_of(precision: Precision, device: torch.device) -> Support:
    """Return how products in a lower precision run on this device compared with float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if precision == "bfloat16":
            return "fast" if capability >= (8, 0) else "emulated"
        return "fast" if capability >= (7, 0) else "slow"
    is_x86 = device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64")
    has_answers = torch.backends.mkldnn.is_available() and hasattr(torch.cpu, "_is_avx512_bf16_supported")
    if not (is_x86 and has_answers):  # torch may rename its private functions
        return "unknown"
    return _bfloat16_on_x86() if precision == "bfloat16" else _float16_on_x86()


def _bfloat16_on_x86() -> Support:
    """Return the support for bfloat16. oneDNN computes the products; it has its own limit, not ATEN_CPU_CAPABILITY."""
    limit, has_amx = _onednn_limit(), torch.cpu._is_amx_tile_supported()
    if limit in _WITHOUT_BFLOAT16 or not (has_amx or torch.cpu._is_avx512_bf16_supported()):
        return "emulated"
    if has_amx and limit not in _WITHOUT_AMX:
        return "fast"
    # With AVX512_BF16 alone, Sapphire Rapids is slower than in float32, but AMD is faster: see docs/pretraining.md.
    return "slow" if _is_intel() else "fast"


def _float16_on_x86() -> Support:
    return "slow" if torch.ops.mkldnn._is_mkldnn_fp16_supported() else "emulated"


def _onednn_limit() -> str:
    """Return the environment's limit for the instruction sets that oneDNN uses; oneDNN ignores case."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").lower()


def _is_intel() -> bool:
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        described = platform.processor()  # on Windows this names the vendor
    return "GenuineIntel" in described
