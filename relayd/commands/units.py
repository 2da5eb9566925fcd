"""Durations, sizes and counts as people read them: at most seven characters each."""

__all__ = ["duration", "size"]


def duration(seconds: float) -> str:
    """Two units of time at most: ``3d07h``, ``2h13m``, ``13m05s``, ``5.2s``, ``340us``."""
    if seconds < 0.001:
        return f"{seconds * 1_000_000:.0f}us"
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if minutes < 60:
        return f"{minutes}m{int(seconds) % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{days}d{hours % 24:02}h"


def size(quantity: float, unit: str = "B") -> str:
    """A number of bytes, or of another ``unit``, in powers of 1000: ``812B``, ``5.6kB``, ``31MB``."""
    for prefix in ("", "k", "M", "G"):
        if quantity < 999.5:
            digits = 1 if prefix and quantity < 9.95 else 0
            return f"{quantity:.{digits}f}{prefix}{unit}"
        quantity /= 1000
    return f"{quantity:.0f}T{unit}"
