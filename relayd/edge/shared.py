"""What all connections of a relay share."""

from attrs import frozen

from relayd.edge.pace import Pauses
from relayd.edge.timing import Timing
from relayd.edge.turns import Turns
from relayd.ops.events import Emit
from relayd.routing.budget import Budget

__all__ = ["Shared"]


@frozen
class Shared:
    """One for each relay."""

    turns: Turns
    budget: Budget
    pauses: Pauses
    emit: Emit
    timing: Timing | None = None
