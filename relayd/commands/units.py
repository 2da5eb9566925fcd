"""Durations, sizes and counts as people read them: at most six characters each."""

__all__ = ["duration", "size"]


def duration(seconds: float) -> str:
    """Two units of time at most: ``3d07h``, ``2h13m``, ``13m05s``, ``5.2s``, ``246ms``."""
    if seconds < 0.0009995:
        return f"{seconds * 1_000_000:.0f}us"
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.09995 else 0}f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = max(int(seconds), 60)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes < 60:
        return f"{minutes}m{whole % 60:02}s"
    if hours < 24:
        return f"{hours}h{minutes % 60:02}m"
    return f"{days}d{hours % 24:02}h" if days < 100 else f"{days}d"


def size(quantity: float, unit: str = "B") -> str:
    """A number of bytes, or of another ``unit``, in powers of 1000: ``812B``, ``5.6kB``, ``31MB``."""
    for prefix in ("", "k", "M", "G"):
        if quantity < 999.5:
            digits = 1 if prefix and quantity < 9.95 else 0
            return f"{quantity:.{digits}f}{prefix}{unit}"
        quantity /= 1000
    return f"{quantity:.0f}T{unit}"
