"""One CA, by the acme library. Every call blocks on the network, for `_CALL` at most.

The library takes documents as they come, and fails in its own ways where one is not what it should be.
All of that becomes `Failed` here, and nothing that a CA has written goes further than this.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import acme.errors
import josepy.errors
import requests
from acme import challenges, messages
from acme.client import ClientNetwork, ClientV2
from acme.crypto_util import make_csr
from attrs import frozen
from josepy.jwa import ES256
from josepy.jwk import JWK

from relayd import __version__
from relayd.acme.authority import Challenge, Kind
from relayd.acme.binding import Binding
from relayd.acme.certificate import challenge_pem
from relayd.acme.problems import ADVICE, Failed
from relayd.acme.schedule import retry_after
from relayd.acme.transport import bound

__all__ = ["AcmeAuthority"]

_TIMEOUT: Final = 15
"""Seconds for a connection, and for each wait for its bytes."""

_CALL: Final = 60.0
"""Seconds in which all that one call asks for has to have come. A failed attempt is not repeated any sooner,
so no thread is still at work for the one before."""

_BYTES: Final = 1024 * 1024
"""What a CA may send us for one call, in all. A document has some 10 KB at most, and a call some five."""

_POSTS: Final = 5
"""Attempts to post something whose nonce is not accepted; the library makes two of each."""

_PREFIX: Final = "urn:ietf:params:acme:error:"

_KINDS: Final[tuple[Kind, ...]] = ("http-01", "tls-alpn-01")

# What it would say goes to stderr otherwise, where only events belong.
logging.getLogger("acme").addHandler(logging.NullHandler())


@challenges.ChallengeResponse.register
class _TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    typ = "tls-alpn-01"


@challenges.Challenge.register
class _TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """The library has had none of its own since its version 5."""

    typ = "tls-alpn-01"
    response_cls = _TlsAlpn01Response

    def validation(self, account_key: JWK, **kwargs: Any) -> str:
        return self.key_authorization(account_key)


@frozen
class AcmeAuthority:
    """The CA whose directory is at a URL, and our key for it."""

    directory: str
    account_key_pem: bytes
    ca_file: str = ""
    """Whom to trust for its TLS, in PEM; without it, the public authorities."""
    email: str = ""
    binding: Binding | None = None

    def sign_in(self) -> "AcmeSession":
        """See `relayd.acme.authority.Authority`."""
        key = JWK.load(self.account_key_pem)
        net = _Network(key, alg=ES256, user_agent=f"relayd/{__version__}", timeout=_TIMEOUT)
        if self.ca_file:
            # requests takes a path here, and then asks nobody else.
            net.verify_ssl = self.ca_file  # type: ignore[assignment]
        session = AcmeSession(net, key)
        try:
            with _translated(net):
                session.sign_in(self)
        except BaseException:
            session.close()
            raise
        return session


class AcmeSession:
    """See `relayd.acme.authority.Session`."""

    def __init__(self, net: "_Network", key: JWK) -> None:
        self._net = net
        self._key = key
        self._client: ClientV2
        self.opened = False
        self.terms = ""

    def sign_in(self, authority: AcmeAuthority) -> None:
        """Find the account of our key, or open one."""
        directory = ClientV2.get_directory(authority.directory, self._net)
        self._client = ClientV2(directory, self._net)
        self.terms = _shown_url(directory.meta.terms_of_service)
        wanted = messages.NewRegistration.from_data(email=authority.email or None)
        try:
            # A key to bind it to may be good for once only, so it is not shown without need.
            unknown = messages.RegistrationResource(body=messages.NewRegistration(), uri="")
            account = self._client.query_registration(unknown)
            if authority.email and account.body.contact != wanted.contact:
                self._client.update_registration(account, messages.UpdateRegistration(contact=wanted.contact))
        except messages.Error as error:
            if error.code != "accountDoesNotExist":
                raise
            self._open_account(wanted, authority.binding)

    def _open_account(self, wanted: messages.NewRegistration, binding: Binding | None) -> None:
        wanted = wanted.update(terms_of_service_agreed=True)
        if binding is not None:
            bound = messages.ExternalAccountBinding.from_data(
                self._key.public_key(), binding.key_id, binding.hmac_key, self._client.directory
            )
            wanted = wanted.update(external_account_binding=bound)
        self._client.new_account(wanted)
        self.opened = True

    def order(self, domain: str, key_pem: bytes) -> "AcmeOrder":
        """See `relayd.acme.authority.Session`."""
        with _translated(self._net):
            order = self._client.new_order(make_csr(key_pem, [domain]))
            return AcmeOrder(self._net, self._client, self._key, domain, order)

    def close(self) -> None:
        """See `relayd.acme.authority.Session`."""
        self._net.session.close()


class AcmeOrder:
    """See `relayd.acme.authority.Order`."""

    def __init__(
        self,
        net: "_Network",
        client: ClientV2,
        key: JWK,
        domain: str,
        order: messages.OrderResource,
    ) -> None:
        self._net = net
        self._client = client
        self._key = key
        self._order = order
        self._asked: dict[Kind, messages.ChallengeBody] = {}
        (self._authorization,) = order.authorizations
        if self._authorization.body.status != messages.STATUS_VALID:
            self._asked = {
                body.chall.typ: body
                for body in self._authorization.body.challenges
                if getattr(body.chall, "typ", None) in _KINDS
            }
            if not self._asked:
                raise Failed("noChallenge")
        self.challenges: Mapping[Kind, Challenge] = {
            kind: self._challenge(kind, body, domain) for kind, body in self._asked.items()
        }

    @property
    def wait(self) -> float:
        """See `relayd.acme.authority.Order`."""
        return self._net.retry_after

    def _challenge(self, kind: Kind, body: messages.ChallengeBody, domain: str) -> Challenge:
        authorization = body.chall.key_authorization(self._key)
        pem = challenge_pem(domain, authorization) if kind == "tls-alpn-01" else b""
        return Challenge(kind, domain, body.chall.encode("token"), authorization, pem)

    def answer(self, kind: Kind) -> None:
        """See `relayd.acme.authority.Order`."""
        with _translated(self._net):
            body = self._asked[kind]
            self._client.answer_challenge(body, body.chall.response(self._key))

    def proven(self) -> bool:
        """See `relayd.acme.authority.Order`."""
        with _translated(self._net):
            authorization, _ = self._client.poll(self._authorization)
            if authorization.body.status == messages.STATUS_VALID:
                return True
            if authorization.body.status == messages.STATUS_PENDING:
                return False
            errors = [body.error for body in authorization.body.challenges if body.error is not None]
            raise errors[0] if errors else Failed("unauthorized")

    def finalize(self) -> None:
        """See `relayd.acme.authority.Order`."""
        with _translated(self._net):
            # The answer may have no URL of its own.
            self._order = self._client.begin_finalization(self._order).update(uri=self._order.uri)

    def chain(self) -> bytes | None:
        """See `relayd.acme.authority.Order`."""
        with _translated(self._net):
            order = messages.Order.from_json(self._get(self._order.uri).json())
            if order.status == messages.STATUS_INVALID:
                raise order.error or Failed("other")
            if order.status != messages.STATUS_VALID or order.certificate is None:
                return None
            return self._get(order.certificate).content

    def _get(self, url: str) -> requests.Response:
        # POST-as-GET: a signed request without a body.
        return self._net.post(url, None, new_nonce_url=self._client.directory["newNonce"])


class _Network(ClientNetwork):
    """The library's, with more patience for nonces, an eye on ``Retry-After``, and bounds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Of the last answer, in seconds.
        self.retry_after = 0.0
        self.session.hooks["response"].append(self._note)
        self._bounds = bound(self.session)

    def begin(self) -> None:
        """A call begins."""
        self.retry_after = 0.0
        self._bounds.begin(_CALL, _BYTES)

    def _note(self, response: requests.Response, *args: object, **kwargs: object) -> None:
        self.retry_after = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """POST what is signed, again and again if it is only the nonce that is not accepted."""
        for _ in range(_POSTS - 1):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)


@contextmanager
def _translated(net: _Network) -> Iterator[None]:
    """Around one call: make every way in which it can fail because of the CA a `Failed`."""
    net.begin()
    try:
        yield
    except messages.Error as error:
        problem = str(error.typ).removeprefix(_PREFIX)
        raise Failed(problem if problem in ADVICE else "other", net.retry_after) from None
    except requests.exceptions.SSLError:
        raise Failed("caUntrusted") from None
    except requests.exceptions.Timeout:
        raise Failed("caUnreachable") from None
    except requests.exceptions.ConnectionError as error:
        raise Failed("caUnknown" if _is_about_names(error) else "caUnreachable") from None
    except (acme.errors.Error, josepy.errors.Error, requests.exceptions.RequestException):
        raise Failed("caMalformed", net.retry_after) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        # What the library makes of documents that have not the shape that they should have.
        raise Failed("caMalformed") from None


def _is_about_names(error: requests.exceptions.ConnectionError) -> bool:
    """Whether it failed before there was an address."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return type(reason).__name__ == "NameResolutionError"


def _shown_url(url: object) -> str:
    """``url`` if it is one that can be shown, else nothing."""
    if isinstance(url, str) and len(url) <= 200 and url.isascii() and url.isprintable():
        return url
    return ""
