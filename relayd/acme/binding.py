"""The key of an account that one has with a CA already (external account binding, RFC 8555, section 7.3.4)."""

import os
import re
import stat
import tomllib

from attrs import frozen

__all__ = ["BadBinding", "Binding", "read_binding"]

_LARGEST = 16 * 1024


class BadBinding(Exception):
    """The file is of no use; the text is the one line to show."""


@frozen
class Binding:
    """What a CA gives out for it."""

    key_id: str
    hmac_key: str
    """In base64url."""


def read_binding(path: str) -> Binding:
    """Read ``key-id`` and ``hmac-key`` from a file in TOML. Raises `BadBinding`, never with what is in it."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                raise BadBinding(f"{path}: others can read this key; mend it with: chmod o= {path}")
            document = tomllib.loads(file.read(_LARGEST).decode("utf-8"))
    except OSError as error:
        raise BadBinding(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BadBinding(f'{path}: is not TOML: key-id = "…" and hmac-key = "…" are expected') from None
    if set(document) != {"key-id", "hmac-key"} or not all(isinstance(each, str) for each in document.values()):
        raise BadBinding(f'{path}: key-id = "…" and hmac-key = "…" are expected, and nothing else')
    key_id, hmac_key = document["key-id"], document["hmac-key"].rstrip("=")
    if not key_id.isprintable() or not 0 < len(key_id) <= 1000:
        raise BadBinding(f"{path}: key-id is not what a CA gives out")
    if re.fullmatch(r"[A-Za-z0-9_-]{16,2000}", hmac_key) is None or len(hmac_key) % 4 == 1:
        raise BadBinding(f"{path}: hmac-key is not in base64url, as a CA gives it out")
    return Binding(key_id, hmac_key)
