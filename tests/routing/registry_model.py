"""The contract's "Life of a binary" and "Life of a phone" as a model: what ought to be, without loop or socket.

It is told what happens, one thing at a time, and says who holds which server-id, who is closed and how, and
what everybody is sent. It is written from the contract, and shares not even a constant with relayd.
"""

from attrs import Factory, define

__all__ = ["Binary", "Claim", "Peer", "Phone", "RelayModel"]

Ending = tuple[int, str]
"""A close code and its reason."""

TAKEN: Ending = 4409, "server-id already claimed"
TAKEN_OVER: Ending = 1011, "server-id taken over"
RECLAIMED: Ending = 4404, "binary reclaimed server-id"
GONE: Ending = 4404, "binary is gone"
NO_SERVER: Ending = 4404, "no server with that id"
CROWDED: Ending = 4429, "too many phones"
BAD_JSON: Ending = 1007, "not one JSON document in UTF-8"
EVICTED: Ending = 1001, "closed by operator"

GRACE = 30.0


@define(eq=False)
class Peer:
    """A connection, as it ought to be."""

    server_id: str
    lingers: bool
    """Once it has ended, it keeps its place until it is let go: tasks take their time."""
    ended: bool = False
    closed_with: Ending | None = None
    """What the relay ends it with; None if the peer does."""
    refused: Ending | None = None
    left: bool = False
    sent: list[bytes] = Factory(list)
    """The messages that it is sent, also between its end and when it leaves."""
    drained: bool = False
    """Whether all have ended at one moment: in which order it is told so is chance."""
    claim: "Claim | None" = None
    """Where it has its place."""

    def close(self, ending: Ending) -> None:
        """The relay ends it. The first verdict wins."""
        if not self.ended:
            self.closed_with = ending
            self.ended = True

    def refuse(self, ending: Ending) -> None:
        """It gets no place."""
        self.refused = ending
        self.left = True


@define(eq=False)
class Binary(Peer):
    """A binary, or one that wants to be."""

    probed: "Claim | None" = None
    """Whose holder is being pinged for it."""
    patience: float = 0
    """Until when."""
    hung_up: bool = False
    """It has given up while it waited, which nobody has noticed."""
    stalled: bool = False
    """Nothing more reaches it."""


@define(eq=False)
class Phone(Peer):
    """A phone."""

    conn_id: str = ""
    dismissed: bool = False
    """Its binary has ordered its close."""
    unheard: bool = False
    """A message of it has not reached its binary."""
    goodbye: int = 1001
    """The code that its binary is told."""


@define(eq=False)
class Claim:
    """One binary's time on a server-id."""

    binary: Binary | None
    phones: list[Phone] = Factory(list)
    grace_ends: float | None = None


@define
class RelayModel:
    """Who holds what."""

    max_phones: int
    probe_timeout: float
    now: float
    claims: dict[str, Claim] = Factory(dict)
    newcomers: list[Binary] = Factory(list)
    """Binaries that have no place yet."""
    residents: list[Peer] = Factory(list)
    """Whoever has a place."""

    def next_deadline(self) -> float:
        """When something happens by itself."""
        graces = [claim.grace_ends for claim in self.claims.values() if claim.grace_ends is not None]
        return min([*graces, *(newcomer.patience for newcomer in self.newcomers)], default=float("inf"))

    def answer(self, claim: Claim) -> None:
        """The holder gives a sign of life (step 2)."""
        for newcomer in [one for one in self.newcomers if one.probed is claim]:
            self._refuse(newcomer)

    def register(self, phone: Phone) -> None:
        """A phone comes."""
        claim = self.claims.get(phone.server_id)
        if claim is None:
            phone.refuse(NO_SERVER)
        elif len(claim.phones) >= self.max_phones:
            phone.refuse(CROWDED)
        else:
            phone.claim = claim
            claim.phones.append(phone)
            self.residents.append(phone)

    def phone_says(self, phone: Phone, message: bytes, *, valid: bool) -> None:
        """A message of a phone's."""
        assert phone.claim is not None
        binary = phone.claim.binary
        if binary is None:
            phone.close(GONE)
        elif not valid:
            phone.close(BAD_JSON)
        elif binary.stalled:
            phone.unheard = True
        else:
            binary.sent.append(b'{"conn_id":"%b","frame":%b}' % (phone.conn_id.encode(), message))

    def binary_says(self, binary: Binary, phone: Phone, frame: bytes, code: int) -> None:
        """An envelope of a binary's for whatever phone; ``frame`` may be empty, ``code`` 0, not both."""
        if phone.left or phone.claim is not binary.claim or phone.dismissed:
            return
        if frame:
            phone.sent.append(frame)
        if code:
            phone.dismissed = True
            phone.close((code, ""))

    def evict(self, server_id: str) -> int | None:
        """An operator frees the id; how many phones there were."""
        claim = self.claims.pop(server_id, None)
        if claim is None:
            return None
        if claim.binary is not None:
            claim.binary.close(EVICTED)
        self._abandon(claim, GONE)
        return len(claim.phones)

    def settle(self, holders: dict[str, Binary]) -> None:
        """Let everything happen that follows.

        Of several newcomers at one moment any may be the first: ``holders`` tells who it was.
        """
        before = None
        while before != (before := self._state()):
            self._expire()
            for peer in [one for one in self.residents if one.ended and not one.lingers]:
                self._leave(peer)
            for newcomer in [one for one in self.newcomers if one.ended]:
                newcomer.left = True
                self.newcomers.remove(newcomer)
            for server_id in {newcomer.server_id for newcomer in self.newcomers}:
                self._contend(server_id, holders.get(server_id))

    def _state(self) -> object:
        probes = [newcomer.probed for newcomer in self.newcomers]
        return len(self.claims), len(self.residents), probes

    def _expire(self) -> None:
        """Step 5: the window passes unclaimed."""
        for server_id, claim in list(self.claims.items()):
            if claim.grace_ends is not None and claim.grace_ends <= self.now:
                del self.claims[server_id]
                self._abandon(claim, GONE)

    def _contend(self, server_id: str, winner: Binary | None) -> None:
        """Steps 1, 2 and 5: who has a claim to the id now."""
        here = [newcomer for newcomer in self.newcomers if newcomer.server_id == server_id]
        claim = self.claims.get(server_id)
        entitled = [one for one in here if self._waited_in_vain(one, claim)]
        if claim is None or claim.binary is None or any(one.probed is claim for one in entitled):
            # One that has given up must not take anything over.
            serious = [one for one in entitled if not one.hung_up]
            if serious:
                assert winner in serious, "nobody got a server-id that was free to take"
                self._hold(winner)
        for newcomer in entitled:
            if newcomer.claim is not None:
                continue
            if newcomer.probed is None:
                newcomer.probed = self.claims[server_id]
                newcomer.patience = self.now + self.probe_timeout
            else:
                self._refuse(newcomer)

    def _waited_in_vain(self, newcomer: Binary, claim: Claim | None) -> bool:
        """Whether its probe is over without an answer, or there is nobody to ping, or none has begun."""
        probed = newcomer.probed
        if probed is None:
            return True
        gone = probed is not claim or probed.binary is None or probed.binary.ended
        return gone or newcomer.patience <= self.now

    def _hold(self, binary: Binary) -> None:
        old = self.claims.get(binary.server_id)
        if old is not None:
            if old.binary is not None:
                old.binary.close(TAKEN_OVER)
            self._abandon(old, RECLAIMED)
        binary.claim = self.claims[binary.server_id] = Claim(binary)
        self.newcomers.remove(binary)
        self.residents.append(binary)

    def _abandon(self, claim: Claim, ending: Ending) -> None:
        claim.binary = None
        for phone in claim.phones:
            phone.close(ending)

    def _refuse(self, newcomer: Binary) -> None:
        self.newcomers.remove(newcomer)
        newcomer.refuse(TAKEN)

    def _leave(self, peer: Peer) -> None:
        peer.left = True
        self.residents.remove(peer)
        claim = peer.claim
        assert claim is not None
        if isinstance(peer, Phone):
            claim.phones.remove(peer)
            binary = claim.binary
            if binary is not None and not peer.dismissed and not binary.stalled:
                notice = b'{"conn_id":"%b","close_code":%d}' % (peer.conn_id.encode(), peer.goodbye)
                binary.sent.append(notice)
        elif claim.binary is peer:
            # Step 4. One that was taken over has released nothing: its claim knows it no more.
            claim.binary = None
            claim.grace_ends = self.now + GRACE
            for phone in claim.phones:
                if phone.unheard:
                    phone.close(GONE)
