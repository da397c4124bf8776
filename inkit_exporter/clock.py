"""The clock that ages are measured by."""

import time
from typing import Final

# macOS and the BSDs have no such clock in Python. There, the time of a suspend does not count.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)


def boot_time() -> float:
    """Seconds of a clock that only goes forward. Where the system can tell, it counts the time of a suspend too.

    The event loop's own timers use `time.monotonic`, which stops during a suspend.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
