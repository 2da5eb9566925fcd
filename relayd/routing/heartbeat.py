"""The heartbeat (contract: "Heartbeat"): a ping every interval, and a dead peer is gone."""

import trio

from relayd.routing.connection import Connection
from relayd.settings import Settings
from relayd.wire.close import HEARTBEAT_TIMEOUT

__all__ = ["heartbeat"]


async def heartbeat(connection: Connection, settings: Settings) -> None:
    """Ping ``connection`` every interval; end it when the timeout passes without a sign of life.

    Returns once it has done so. Cancelling it closes nothing: teardown belongs to the nursery.
    """
    while True:
        await trio.sleep(settings.heartbeat_interval)
        if not await connection.answers(settings.heartbeat_timeout):
            connection.end(HEARTBEAT_TIMEOUT)
            return
