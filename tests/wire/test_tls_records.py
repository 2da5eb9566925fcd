"""Records are counted before they are decrypted, however they come."""

from hypothesis import given
from hypothesis import strategies as st

from relayd.wire.tls_records import RecordCounter


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size)


@given(st.lists(st.integers(0, 300), max_size=40), st.data())
def test_whatever_the_reads_and_the_turns_all_is_taken_and_no_turn_begins_more_records_than_it_may(
    sizes: list[int], choice: st.DataObject
) -> None:
    stream = b"".join(map(record, sizes))
    begins = [sum(5 + size for size in sizes[:number]) for number in range(len(sizes))]
    counter, taken, read = RecordCounter(), 0, 0
    while taken < len(stream):
        counter.left = most = choice.draw(st.integers(1, 5))
        before = taken
        while counter.left:
            rest = stream[taken:read]
            end = counter.advance(b"old" + rest, 3) - 3
            assert 0 <= end <= len(rest)
            taken += end
            if not end:
                # A header in part at most: the next read brings more.
                assert read - taken < 5
                if read == len(stream):
                    break
                read += choice.draw(st.integers(1, len(stream) - read))
        assert sum(before <= begin < taken for begin in begins) <= most
        # Nor does it stop before.
        assert counter.left == 0 or taken == len(stream)


def test_what_is_no_record_is_taken_all_the_same() -> None:
    counter = RecordCounter()
    counter.left = 1
    assert counter.advance(b"\xff" * 100, 0) == 100
