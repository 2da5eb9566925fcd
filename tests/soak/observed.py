"""``python -m tests.soak.observed FILE …``: relayd with the flags ``…``, which on SIGUSR1 writes to FILE
how many trio tasks it has.
"""

import os
import signal
import sys
from pathlib import Path

import trio

from relayd.cli import main

if __name__ == "__main__":
    target = Path(sys.argv[1])
    fresh = target.with_suffix(".new")

    def write_tasks(*_: object) -> None:
        fresh.write_text(str(trio.lowlevel.current_statistics().tasks_living))
        os.replace(fresh, target)

    signal.signal(signal.SIGUSR1, write_tasks)
    sys.exit(main(sys.argv[2:]))
