"""One bound for everything buffered: who is told to let go, when, and what it costs to find out."""

from collections.abc import Iterator

import pytest

from relayd.routing.budget import Account, Budget
from relayd.routing.outbox import FRAME_OVERHEAD
from tests.routing.test_outbox import Wire, outbox_on


class Holder:
    """Holds bytes; told to let go, it keeps ``keeps`` of them the first time."""

    def __init__(self, budget: Budget, keeps: int = 0) -> None:
        self.account = Account(budget, self._let_go)
        self.keeps = keeps
        self.asked = 0

    def _let_go(self) -> None:
        self.asked += 1
        self.account.change(self.keeps - self.account.held if self.asked == 1 else -self.account.held)


class Walked(set[Account]):
    """Accounts, and how many were looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Account]:
        self.looks += len(self)
        return super().__iter__()


def test_the_largest_let_go_first_and_no_more_than_gives_room_for_an_eighth() -> None:
    budget = Budget(8_000)
    holders = [Holder(budget) for _ in range(4)]
    for holder, size in zip(holders, (1_000, 3_000, 3_500, 499), strict=True):
        holder.account.change(size)
    assert not any(holder.asked for holder in holders)
    holders[3].account.change(2)
    assert [holder.asked for holder in holders] == [0, 0, 1, 0]
    assert budget.used == 1_000 + 3_000 + 501


def test_one_that_holds_too_much_by_itself_lets_go_itself() -> None:
    budget = Budget(1_000)
    small, large = Holder(budget), Holder(budget)
    small.account.change(500)
    large.account.change(501)
    assert (small.asked, large.asked, budget.used) == (0, 1, 500)


def test_who_keeps_something_is_asked_again_when_there_is_too_much_again() -> None:
    budget = Budget(1_000)
    holder, other = Holder(budget, keeps=300), Holder(budget)
    holder.account.change(1_001)
    assert (holder.asked, budget.used) == (1, 300)
    other.account.change(200)
    holder.account.change(501)
    assert (holder.asked, other.asked, budget.used) == (2, 0, 200)


def test_a_lower_limit_counts_at_once() -> None:
    budget = Budget(1_000)
    holders = [Holder(budget) for _ in range(10)]
    for number, holder in enumerate(holders):
        holder.account.change(90 + number)
    budget.limit = 500
    budget.relieve()
    assert budget.used <= 500
    assert [holder.asked for holder in holders] == [0] * 4 + [1] * 6


def test_a_closed_account_holds_nothing_and_is_never_asked() -> None:
    budget = Budget(1_000)
    holder = Holder(budget)
    holder.account.change(900)
    holder.account.close()
    assert (budget.used, budget.holders) == (0, set())
    holder.account.change(5_000)
    assert (holder.asked, budget.used) == (0, 0)


@pytest.mark.parametrize("keeps", [0, 90])
def test_thousands_that_let_go_in_a_row_are_not_looked_at_each_time(keeps: int) -> None:
    budget = Budget(1_000_000)
    budget.holders = walked = Walked()
    holders = [Holder(budget, keeps) for _ in range(30_000)]
    for holder in holders:
        # 10,000 of them fill it.
        holder.account.change(100)
        assert budget.used <= budget.limit
    asked = sum(holder.asked for holder in holders)
    assert asked >= 20_000
    assert walked.looks < 30 * asked


def test_an_outbox_that_drains_at_once_tells_nobody() -> None:
    # With no byte to spare, to be told of any would be to have it given up.
    holder = Holder(Budget(0))
    outbox = outbox_on(Wire(open_for=10**9), account=holder.account)
    for _ in range(100):
        outbox.put(b"x" * 90)
        outbox.flush()
    outbox.put_unbounded(b"x" * 90)
    outbox.put_control(b"x")
    outbox.flush()
    assert holder.asked == 0


async def test_what_waits_in_an_outbox_is_told_until_it_has_gone() -> None:
    budget = Budget(10**9)
    account = Account(budget, lambda: None)
    wire = Wire(open_for=150)
    outbox = outbox_on(wire, account=account)
    for _ in range(3):
        outbox.put(b"x" * 98)
    outbox.flush()
    assert account.held == budget.used == outbox.charge == 2 * (98 + FRAME_OVERHEAD)
    # The socket is known to be full, so this is not tried; but it is told.
    outbox.put(b"y" * 98)
    outbox.flush()
    assert account.held == budget.used == 3 * (98 + FRAME_OVERHEAD)
    wire.widen(10_000)
    await outbox.write()
    assert account.held == budget.used == outbox.charge == 0
    assert budget.holders == set()


@pytest.mark.parametrize("sent", [0, 1, 100, 101])
def test_discarded_is_told_at_once_but_for_a_frame_that_has_begun(sent: int) -> None:
    budget = Budget(10**9)
    outbox = outbox_on(Wire(open_for=sent), account=Account(budget, lambda: None))
    for _ in range(10):
        outbox.put(b"x" * 98)
    outbox.flush()
    outbox.discard()
    assert budget.used == (98 + FRAME_OVERHEAD if sent % 100 else 0)
    outbox.give_up()
    assert budget.used == 0
    assert outbox.waiting == 0


def test_nothing_gets_into_an_outbox_that_was_given_up_while_a_put_made_room() -> None:
    budget = Budget(10_000)
    account = Account(budget, lambda: outbox.discard())
    outbox = outbox_on(Wire(open_for=10), limit=9_000, account=account)
    other = Account(budget, lambda: None)
    other.change(1_100)
    assert outbox.put(b"x" * 4_000)
    assert outbox.put(b"x" * 4_800)
    # This one does not fit, so the socket is tried; and what is left then is too much for all together.
    assert not outbox.put(b"x" * 4_000)
    assert outbox.waiting == 1
    assert budget.used == 1_100 + 4_000 + FRAME_OVERHEAD


def test_what_tls_has_encrypted_and_the_kernel_has_not_taken_counts_too() -> None:
    budget = Budget(10**9)
    wire = Wire(open_for=50)
    wire.kept_bytes = 5_000
    outbox = outbox_on(wire, account=Account(budget, lambda: None))
    outbox.put(b"x" * 98)
    outbox.flush()
    assert budget.used == 98 + FRAME_OVERHEAD + 5_000
    outbox.give_up()
    assert budget.used == 0
