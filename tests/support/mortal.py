"""A poller and its storage in a process of their own, which is killed at random moments, again and again.

    PYTHONPATH=.:tests python -m support.mortal FOLDER SEED ROUNDS

The process appends a line to `FOLDER/reports` for each state that it publishes; `read_reports` reads them.
"""

import asyncio
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from inkit_exporter import logs
from inkit_exporter.api.batches import Batch, Page, PageRequest
from inkit_exporter.api.statuses import read_status
from inkit_exporter.api.usage import Usage
from inkit_exporter.config import AccountSettings, PollSettings, Seconds
from inkit_exporter.polling.poller import Poller
from inkit_exporter.rate_limit import RateLimiter
from inkit_exporter.state import AccountState, States
from inkit_exporter.storage.storage import open_storage
from inkit_exporter.window.totals import Totals
from inkit_exporter.window.window import Snapshot
from support.conversation import page_of
from support.world import SEEN_AT_ONCE, World

SETTINGS = PollSettings(interval=Seconds(0.001), lookback=Seconds(80 * 365 * 86_400), max_batches=10**6)
PAGE_SIZE = 20
MOST_POLLS = 20
"""Of a process, so that all together do not run out of steps."""
EVENTS = sorted({*SEEN_AT_ONCE} - {"future", "burst"})


class Report(msgspec.Struct):
    """A state that was published: before the first poll of a process, or after one of its polls."""

    restored: bool
    snapshot: Snapshot
    totals: Totals


def listings(seed: int, steps: int) -> list[list[Batch]]:
    """What the API lists, step by step. Each step begins with a batch of its own, by which it is known."""
    world = World(random.Random(seed), ties=False)
    found = []
    for _ in range(steps):
        for _ in range(world.chance.randint(0, 3)):
            world.happen(world.chance.choice(EVENTS))
        world.create()
        found.append([replace(batch, final=read_status(batch.status)[1]) for batch in world.batches])
    return found


def read_reports(folder: Path) -> list[Report]:
    """What all the processes have published, in order, but for lines that their process did not live to complete."""
    decode = msgspec.msgpack.Decoder(Report).decode
    lines = [line.split() for line in (folder / "reports").read_text().splitlines()]
    return [decode(bytes.fromhex(line[1])) for line in lines if len(line) > 1 and len(line[1]) == int(line[0])]


class _Reporting(States):
    def __init__(self, reports: int) -> None:
        super().__init__()
        self._reports = reports

    def publish(self, state: AccountState) -> None:
        super().publish(state)
        if state.snapshot:
            report = Report(state.polls == 0, state.snapshot, state.totals)
            line = msgspec.msgpack.encode(report).hex()
            os.write(self._reports, f"\n{len(line)} {line}".encode())


class _Api:
    """Stands in for the client. Each poll finds the API a step further, and after some it hangs.

    The memory `step` outlives the process: the number of the step, and a byte that tells that it polls.
    """

    alive_at = patience = 0.0

    def __init__(self, states: States, steps: Sequence[list[Batch]], step: mmap.mmap) -> None:
        self._states = states
        self._steps = steps
        self._step = step
        self._polls = -1

    async def page(self, request: PageRequest) -> Iterator[Page]:
        """A page of the list as it is during this poll."""
        self._step[8] = 1
        step = int.from_bytes(self._step[:8])
        if self._states["a"].polls != self._polls:
            self._polls = self._states["a"].polls
            if self._polls == MOST_POLLS:  # the machine stood still before the kill
                await asyncio.Event().wait()
            step += 1
            self._step[:8] = step.to_bytes(8)
        self._states["a"].usage.add("200", 0.0)
        return iter([page_of(self._steps[min(step, len(self._steps) - 1)], request.number, PAGE_SIZE)])


async def live(folder: Path, steps: Sequence[list[Batch]], step: mmap.mmap) -> None:
    """Poll and store until killed."""
    states = _Reporting(os.open(folder / "reports", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    states.publish(AccountState(account="a", settings=SETTINGS, usage=Usage(RateLimiter(10**6))))
    storage = await open_storage(folder / "storage")
    storage.follow(AccountSettings(name="a", api_token_env="T"), states)
    await storage.loaded(60)
    api = _Api(states, steps, step)
    await Poller("a", api, states, storage["a"]).run(0.0)  # type: ignore[arg-type]


def main() -> None:
    """Let a process live and die that many times."""
    folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    logs.configure("error", "logfmt")
    steps, step, chance = listings(seed, 4 * rounds), mmap.mmap(-1, 9), random.Random(seed)
    for number in range(rounds):
        step[8] = number % 4 == 0  # every fourth is killed at any moment, the others when they poll
        child = os.fork()
        if not child:
            asyncio.run(live(folder, steps, step))
        while not step[8]:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it ended by itself"


if __name__ == "__main__":
    main()
