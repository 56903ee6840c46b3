"""A profile in a few lines, and as facts for other programs."""

from __future__ import annotations

from typing import Any

from dora_nb.domain.profile import Profile
from dora_nb.render import words
from dora_nb.units import counted, format_count, format_seconds


def profile_lines(profile: Profile) -> list[str]:
    """What was measured where, and what all layers take together by number of samples."""
    work = profile.workload
    lines = [
        f"  profiled    {words.workload_words(work)}: {counted(len(work.layers), 'layer')}, "
        f"{format_count(work.parameters)} parameters",
        f"  on          {profile.machine or 'a machine that is not named'}",
    ]
    for samples, (forward_s, backward_s) in _passes_s(profile).items():
        backward = f", backward {format_seconds(backward_s)}" if work.trains else ""
        lines.append(f"  {counted(samples, 'sample'):<11} forward {format_seconds(forward_s)}{backward}")
    if work.trains:
        lines.append(f"  step        {format_seconds(sum(layer.step_s for layer in profile.layers))}")
    slowest = max(range(len(work.layers)), key=lambda index: max(profile.layers[index].forward_s.values()))
    spread = max(layer.spread for layer in profile.layers)
    varying = f"; figures vary by at most {100 * spread:.0f} %" if spread else ""  # 0: too few passes to tell
    lines.append(f"  slowest     {work.layers[slowest].name}{varying}")
    return lines


def profile_facts(profile: Profile) -> dict[str, Any]:
    """Sums over the layers, seconds by number of samples."""
    passes_s = _passes_s(profile)
    return {
        "workload": {name: getattr(profile.workload, name) for name in ("name", "mode", "batch", "precision")},
        "machine": profile.machine,
        "layers": len(profile.layers),
        "forward_s": {str(samples): forward_s for samples, (forward_s, _) in passes_s.items()},
        "backward_s": {str(samples): backward_s for samples, (_, backward_s) in passes_s.items()},
        "step_s": sum(layer.step_s for layer in profile.layers),
        "spread": max(layer.spread for layer in profile.layers),
    }


def _passes_s(profile: Profile) -> dict[int, tuple[float, float]]:
    """Forward and backward seconds of all layers, by the numbers of samples that all of them were timed with."""
    common = set.intersection(*(set(layer.forward_s) for layer in profile.layers))
    return {
        samples: (
            sum(layer.forward_s[samples] for layer in profile.layers),
            sum(layer.backward_s.get(samples, 0.0) for layer in profile.layers),
        )
        for samples in sorted(common)
    }
