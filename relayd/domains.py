"""``--domain``: what joins ACME, the certificates of the edge, and port 80. Imported only if it is set."""

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import trio

from relayd.acme.authority import Challenge, Kind
from relayd.acme.binding import BadBinding, Binding, read_binding
from relayd.acme.cache import AnotherUsers, CannotCache, examine_cache, open_cache, state_directory
from relayd.acme.certificate import BadCertificate, Certificate
from relayd.acme.client import AcmeAuthority
from relayd.acme.keeper import Keeper, account_key, one_thread
from relayd.configuration import BadSetting
from relayd.edge import certificates as edge
from relayd.edge.challenges import serve_challenges
from relayd.edge.listener import Listener
from relayd.ops.events import Emit
from relayd.settings import Settings

__all__ = ["Domains"]


class Domains:
    """Has a certificate of each domain: at first from the state directory, then from the CA."""

    def __init__(
        self,
        settings: Settings,
        certificates: edge.Certificates,
        environment: Mapping[str, str],
        emit: Emit,
    ) -> None:
        """Install in ``certificates`` what there is. Raises `BadSetting`."""
        self._certificates = certificates
        self._emit = emit
        self._timeout = settings.handshake_timeout
        #: Of http-01, by token, while a CA may look.
        self._responses: dict[str, str] = {}
        kinds: tuple[Kind, ...] = ("http-01", "tls-alpn-01") if settings.http_listen else ("tls-alpn-01",)
        with _refusals():
            binding = _binding(settings)
            directory = state_directory(settings.state_dir, environment)
            self._cache = open_cache(directory, settings.acme_directory)
        _check_ca_file(settings.acme_ca_file)
        self._keeper = Keeper(
            settings.domain,
            kinds,
            name=settings.acme_directory,
            authority=AcmeAuthority(
                settings.acme_directory,
                account_key(self._cache, emit),
                settings.acme_ca_file,
                settings.acme_email,
                binding,
            ),
            cache=self._cache,
            offering=self._offering,
            install=self._install,
            emit=emit,
            ask=one_thread(),
        )

    @staticmethod
    def examine(settings: Settings, environment: Mapping[str, str]) -> str:
        """Raises `BadSetting` as a `Domains` of ``settings`` would, but makes nothing.

        Returns what root, who may ask for somebody else, is to know of the state directory; else nothing.
        """
        remark = ""
        with _refusals():
            _binding(settings)
            directory = state_directory(settings.state_dir, environment)
            try:
                examine_cache(directory, settings.acme_directory)
            except AnotherUsers:
                if os.geteuid() != 0:
                    raise
                remark = (
                    f"who runs it is looked at when it starts, not here: the state directory {directory} is "
                    "another user's, and relayd starts as that user alone"
                )
        _check_ca_file(settings.acme_ca_file)
        return remark

    async def serve(self, listeners: Sequence[Listener]) -> None:
        """Keep the certificates until cancelled, and answer http-01 on ``listeners``."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_challenges, listeners, self._responses, self._timeout, self._emit)
            nursery.start_soon(self._keeper.run)

    def restore(self) -> None:
        """Install what is in the state directory."""
        self._keeper.restore()

    @property
    def complete(self) -> bool:
        """Whether every domain has a certificate."""
        return self._keeper.complete

    def close(self) -> None:
        """Let go of the state directory."""
        self._cache.close()

    def _install(self, certificate: Certificate) -> None:
        try:
            self._certificates.install(certificate.domain, certificate.chain_pem, certificate.key_pem)
        except edge.BadCertificate as refusal:
            raise BadCertificate(str(refusal)) from None

    @contextmanager
    def _offering(self, challenge: Challenge) -> Iterator[None]:
        if challenge.kind == "http-01":
            self._responses[challenge.token] = challenge.authorization
        else:
            self._certificates.offer_challenge(challenge.domain, challenge.pem, challenge.pem)
        try:
            yield
        finally:
            self._responses.pop(challenge.token, None)
            self._certificates.withdraw_challenge(challenge.domain)


def _binding(settings: Settings) -> Binding | None:
    return read_binding(settings.acme_eab_file) if settings.acme_eab_file else None


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what is wrong with a file or a directory into a `BadSetting`."""
    try:
        yield
    except BadBinding as refusal:
        raise BadSetting(f"acme-eab-file: {refusal}") from None
    except CannotCache as refusal:
        raise BadSetting(f"state-dir: {refusal}") from None


def _check_ca_file(path: str) -> None:
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise BadSetting(f"acme-ca-file: {path}: there is no certificate in PEM in it") from None
    except OSError as error:
        raise BadSetting(f"acme-ca-file: {path}: cannot be read: {error.strerror}") from None
