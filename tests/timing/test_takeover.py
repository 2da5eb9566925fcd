"""Contract, "Life of a binary", step 2: the probe of a holder and the takeover."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.events import CloseConnection, Event, Ping, TextMessage

from relayd.edge.pace import CONTROL_BURST
from relayd.ops.events import (
    BinaryReclaimed,
    BinaryReleased,
    BinaryTookOver,
    ClaimRefused,
    GraceExpired,
    RateLimited,
)
from tests.trio_client import Client, relay_under_test

TEXT = b"\x81\x82\0\0\0\0{}"


async def test_silent_holder_is_probed_for_10_s_then_taken_over_with_1011_and_its_phones_get_4404(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        phone = await relay.phone()
        asked = trio.current_time()
        newcomer = await relay.binary()
        assert isinstance(await holder.next_event(), Ping)
        assert trio.current_time() == asked
        assert await holder.closed() == (1011, "server-id taken over")
        assert trio.current_time() - asked == 10
        assert await phone.closed() == (4404, "binary reclaimed server-id")
        assert trio.current_time() - asked == 10
        assert [event.phones for event in relay.seen(BinaryTookOver)] == [1]
        newer = await relay.phone()
        await newer.send_text("1")
        assert (await newcomer.next_message()).endswith('"frame":1}')
        await newer.stream.aclose()
        await newcomer.stream.aclose()


async def test_release_of_the_one_taken_over_leaves_its_successor_alone(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        newcomer = await relay.binary()
        await holder.closed()
        phone = await relay.phone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(newcomer.answer_pings)
            nursery.start_soon(phone.answer_pings)
            await trio.sleep(100)
            assert len(relay.seen(BinaryReleased)) == 1
            assert not relay.seen(GraceExpired)
            assert relay.relay.registry.connected_binaries == 1
            assert relay.relay.registry.connected_phones == 1
            nursery.cancel_scope.cancel()
        await phone.stream.aclose()
        await newcomer.stream.aclose()


async def test_holder_that_pongs_keeps_its_claim_and_the_newcomer_gets_4409(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay, trio.open_nursery() as nursery:
        holder = await relay.binary()
        nursery.start_soon(holder.answer_pings)
        asked = trio.current_time()
        newcomer = await relay.binary()
        assert await newcomer.closed() == (4409, "server-id already claimed")
        assert trio.current_time() == asked
        assert len(relay.seen(ClaimRefused)) == 1
        assert not relay.seen(BinaryReleased)
        nursery.cancel_scope.cancel()
        await holder.stream.aclose()


@pytest.mark.parametrize("sign", [TEXT, TEXT[:1], b"\x89\x80\0\0\0\0"], ids=["text", "one byte", "ping"])
@pytest.mark.parametrize("after", [0.001, 9.999])
async def test_any_byte_of_the_holder_during_the_probe_counts_as_an_answer(
    autojump_clock: MockClock, sign: bytes, after: float
) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        asked = trio.current_time()
        newcomer = await relay.binary()
        await trio.sleep_until(asked + after)
        await holder.stream.send_all(sign)
        assert await newcomer.closed() == (4409, "server-id already claimed")
        assert trio.current_time() == asked + after
        assert not relay.seen(BinaryTookOver)
        await holder.stream.aclose()


async def test_byte_from_before_the_probe_is_no_answer(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        await holder.stream.send_all(TEXT)
        await trio.sleep(1)
        asked = trio.current_time()
        newcomer = await relay.binary()
        assert await holder.closed() == (1011, "server-id taken over")
        assert trio.current_time() - asked == 10
        await newcomer.stream.aclose()


@pytest.mark.parametrize(
    "farewell", [Client.close, lambda client: client.stream.aclose()], ids=["Close", "EOF"]
)
async def test_newcomer_gets_the_id_at_once_when_the_holders_connection_ends_during_the_probe(
    autojump_clock: MockClock, farewell: object
) -> None:
    assert callable(farewell)
    async with relay_under_test() as relay:
        holder = await relay.binary()
        newcomer = await relay.binary()
        await trio.sleep(5)
        left = trio.current_time()
        await farewell(holder)
        await relay.until(lambda: relay.seen(BinaryReclaimed) or relay.seen(BinaryTookOver))
        assert trio.current_time() == left
        phone = await relay.phone()
        await phone.send_text("1")
        assert (await newcomer.next_message()).endswith('"frame":1}')
        await phone.stream.aclose()
        await newcomer.stream.aclose()


async def test_of_two_newcomers_at_a_dead_holder_one_takes_over_and_the_other_gets_4409(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        asked = trio.current_time()
        newcomers = [await relay.binary(), await relay.binary()]
        assert await holder.closed() == (1011, "server-id taken over")
        assert trio.current_time() - asked == 10
        await relay.until(lambda: relay.seen(ClaimRefused))
        assert len(relay.seen(BinaryTookOver)) == 1
        assert len(relay.seen(ClaimRefused)) == 1
        lost = relay.seen(ClaimRefused)[0].remote
        ports = {f"127.0.0.1:{client.stream.socket.getsockname()[1]}": client for client in newcomers}
        loser = ports.pop(lost)
        assert await loser.closed() == (4409, "server-id already claimed")
        (winner,) = ports.values()
        phone = await relay.phone()
        await phone.send_text("1")
        assert (await winner.next_message()).endswith('"frame":1}')
        await phone.stream.aclose()
        await winner.stream.aclose()


async def test_newcomer_that_hangs_up_during_the_probe_takes_nothing_over(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        phone = await relay.phone()
        newcomer = await relay.binary()
        await trio.sleep(5)
        await newcomer.stream.aclose()
        await trio.sleep(6)
        assert len(relay.seen(ClaimRefused)) == 1
        assert not relay.seen(BinaryTookOver)
        await phone.send_text("1")
        while not isinstance(event := await holder.next_event(), TextMessage):
            pass
        assert event.data.endswith('"frame":1}')
        await phone.stream.aclose()
        await holder.stream.aclose()


async def test_claims_that_wait_together_share_one_ping(autojump_clock: MockClock) -> None:
    async with relay_under_test() as relay:
        holder = await relay.binary()
        newcomers = [await relay.binary() for _ in range(4)]
        await trio.sleep(4)
        newcomers += [await relay.binary() for _ in range(4)]
        await wait_all_tasks_blocked()
        assert relay.seen(ClaimRefused) == []
        asked = trio.current_time()
        async with trio.open_nursery() as nursery:
            pings: list[Event] = []

            async def read() -> None:
                while not isinstance(event := await holder.next_event(), CloseConnection):
                    pings.append(event)
                    await holder.send(event.response())  # type: ignore[attr-defined]

            nursery.start_soon(read)
            for newcomer in newcomers:
                assert await newcomer.closed() == (4409, "server-id already claimed")
            assert trio.current_time() == asked
            # Whoever comes after that has a ping of its own.
            assert await (await relay.binary()).closed() == (4409, "server-id already claimed")
            assert pings == [Ping(), Ping()]
            nursery.cancel_scope.cancel()
        await holder.stream.aclose()


async def test_claim_after_one_that_nobody_waited_for_has_a_ping_of_its_own(autojump_clock: MockClock) -> None:
    async with relay_under_test(heartbeat_interval=1_000) as relay:
        holder = await relay.binary()
        await (await relay.binary()).stream.aclose()
        await trio.sleep(11)
        assert len(relay.seen(ClaimRefused)) == 1
        newcomer = await relay.binary()
        asked = trio.current_time()
        await wait_all_tasks_blocked()
        assert await holder.next_event() == await holder.next_event() == Ping()
        await holder.send(Ping().response())
        assert await newcomer.closed() == (4409, "server-id already claimed")
        assert trio.current_time() == asked
        await holder.stream.aclose()


async def test_claims_by_the_hundred_take_no_time_from_the_holder_and_its_phone(
    autojump_clock: MockClock,
) -> None:
    async with relay_under_test(upgrade_rate=0, heartbeat_interval=100_000) as relay:
        holder = await relay.binary()
        phone = await relay.phone()
        begun = trio.current_time()
        # More pongs than anybody may send at once of his own accord.
        for _ in range(CONTROL_BURST + 20):
            newcomer = await relay.binary()
            assert await holder.next_event() == Ping()
            await holder.send(Ping().response())
            assert await newcomer.closed() == (4409, "server-id already claimed")
        await phone.send_text("1")
        conn_id = (await holder.next_message())[12:36]
        await holder.send_text(f'{{"conn_id":"{conn_id}","frame":2}}')
        assert await phone.next_message() == "2"
        assert trio.current_time() == begun
        assert relay.seen(RateLimited) == []
        # Those that nobody has asked for have their bound.
        for _ in range(CONTROL_BURST + 1):
            await holder.send(Ping().response())
        await relay.until(lambda: relay.seen(RateLimited))
        assert [(event.kind, event.bound) for event in relay.seen(RateLimited)] == [("binary", "control")]
        await phone.stream.aclose()
        await holder.stream.aclose()
