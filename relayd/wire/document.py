"""The envelope's document as msgspec reads it: apart, since mypyc cannot compile a `msgspec.Struct`."""

import msgspec

__all__ = ["Document"]


class Document(msgspec.Struct, gc=False):
    """The envelope as JSON has it; unknown fields are skipped, and the last of equal keys counts."""

    conn_id: str | msgspec.UnsetType = msgspec.UNSET
    frame: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    close_code: int | msgspec.UnsetType = msgspec.UNSET
    push_wake: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
