"""One bound for all that is buffered in the process, whoever holds it.

Each connection has an `Account`, and tells it what waits there: once for a batch, and not at all while
nothing is left behind. Who holds most is only looked for when all of them together hold too much.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Final

__all__ = ["Account", "Budget"]

_RELIEF: Final = 8
"""Over the limit, a part of one in so many is freed at once, so that looking through all accounts is
paid for by the bytes that it takes to make it necessary again."""

_AT_ONCE: Final = 512
"""Accounts given up at most before other tasks have their turn, unless there is still too much."""


class Account:
    """What one connection holds."""

    __slots__ = ("_budget", "_give_up", "held")

    def __init__(self, budget: "Budget", give_up: Callable[[], None]) -> None:
        """``give_up`` is called when this account holds most and there is too much.

        It must let go of what is held before it returns. If something is left, it is called again
        when there is too much again, and then it must let go of everything.
        """
        self._budget = budget
        self._give_up: Callable[[], None] | None = give_up
        #: Bytes.
        self.held = 0

    def change(self, by: int) -> None:
        """There are ``by`` bytes more here, or fewer. May call ``give_up`` of any account, this one's too."""
        if self._give_up is None:
            return
        held = self.held + by
        self.held = held
        budget = self._budget
        budget.used += by
        if by <= 0:
            if not held:
                budget.holders.discard(self)
            return
        if held == by:
            budget.holders.add(self)
        if budget.used > budget.limit:
            budget.relieve()

    def give_up(self) -> None:
        """Have the holder let go of what it holds."""
        if self._give_up is not None:
            self._give_up()

    def close(self) -> None:
        """Nothing is held any more, and nothing will be. Lets go of the holder."""
        self.change(-self.held)
        self._give_up = None


class Budget:
    """The bound, and what is held in all."""

    __slots__ = ("holders", "limit", "used")

    def __init__(self, limit: int) -> None:
        #: Bytes that all accounts may hold together. Whoever lowers it calls `relieve`.
        self.limit = limit
        #: Bytes that they hold now.
        self.used = 0
        #: Those that hold anything.
        self.holders: set[Account] = set()

    def relieve(self) -> None:
        """Over the limit: have those that hold most let go, until there is room for some time."""
        if self.used <= self.limit:
            return
        enough = self.limit - self.limit // _RELIEF
        for number, account in enumerate(sorted(self.holders, key=attrgetter("held"), reverse=True)):
            if self.used <= enough or (number >= _AT_ONCE and self.used <= self.limit):
                return
            account.give_up()
