"""``bin/test histories``: histories of the random-history machine, one by its number or many one after another.

What was found is printed with its seed: ``bin/test histories --seed N`` carries the same history out again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter
from typing import List, Optional, Sequence

import hypothesis

from tests.guards import GUARDS
from tests.machine.draws import History, history
from tests.machine.forks import warm_up
from tests.machine.play import Difference, Play
from tests.machine.servers import Servers, own_servers


def carry_out(
    servers: Servers, drawn: History, guards: Sequence[str], counts: "Counter[str]", log: bool = False
) -> Optional[str]:
    """Carry one out; the difference as text, with the daemon's whole ``log``, or None."""
    play = Play(servers, drawn, guards)
    try:
        play.run()
    except Exception as error:
        # Whatever ended it early is shown, and the next one is carried out.
        said = str(error) if isinstance(error, Difference) else traceback.format_exc()
        return "\n".join([*([play.log] if log else []), said, f"what happened: {'; '.join(play.events)}"])
    finally:
        counts.update(play.counts)
        counts.update({f"ms: {what}": int(1000 * seconds) for what, seconds in play.seconds.items()})
    return None


def told(drawn: History, found: str) -> str:
    steps = "\n".join(f"  {number:3} {step}" for number, step in enumerate(drawn.steps, 1))
    return (
        f"history {drawn.number} (Hypothesis {hypothesis.__version__}):\n{drawn.script()}\n{steps}\n"
        f"history {drawn.number}: {found}\nagain: bin/test histories --seed {drawn.number}"
    )


def narrowed(servers: Servers, drawn: History, guards: Sequence[str], seconds: float) -> History:
    """The same history with as many steps left out as ``seconds`` allow while there still is a difference."""
    deadline = time.monotonic() + seconds
    size = len(drawn.steps) // 2
    while size and time.monotonic() < deadline:
        place = 1
        while place < len(drawn.steps) and time.monotonic() < deadline:
            fewer = drawn._replace(steps=drawn.steps[:place] + drawn.steps[place + size :])
            if carry_out(servers, fewer, guards, Counter()) is not None:
                drawn = fewer
            else:
                place += size
        size //= 2
    return drawn


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="bin/test histories", description=__doc__)
    parser.add_argument("--seed", type=int, help="the history to carry out, or the first of --count")
    parser.add_argument("--count", type=int, help="how many [1 with --seed, else 50]")
    parser.add_argument("--times", type=int, default=1, help="carry each out so often: what is rare shows up [1]")
    parser.add_argument("--guards-off", default="", metavar="NAMES", help="functions of tests/guards.py, by commas")
    parser.add_argument("--narrow", type=float, default=0.0, metavar="SECONDS", help="leave steps out of what differs")
    parser.add_argument("--within", type=float, metavar="SECONDS", help="begin no further history after so long")
    parser.add_argument("--stop", action="store_true", help="stop at the first difference")
    parser.add_argument("--log", action="store_true", help="print the daemon's log of what differs")
    parser.add_argument("--show", action="store_true", help="print the history, and carry nothing out")
    options = parser.parse_args(arguments)
    first = 1 if options.seed is None else options.seed
    count = options.count or (50 if options.seed is None else 1)
    guards = [name for name in options.guards_off.split(",") if name]
    unknown = sorted(set(guards) - GUARDS.keys())
    if unknown:
        parser.error(f"no such guard: {', '.join(unknown)}")
    if options.show:
        print(told(history(first), "not carried out"))
        return 0
    # The daemon of a fresh build runs here; what it warns of is its own.
    logging.getLogger("flusso_sync").addHandler(logging.NullHandler())
    warm_up()
    counts: Counter[str] = Counter()
    differing: List[int] = []
    began = time.monotonic()
    done = 0
    with own_servers() as servers:
        for number in (one for one in range(first, first + count) for _ in range(options.times)):
            if options.within and time.monotonic() > began + options.within:
                break
            done += 1
            drawn, started = history(number), time.monotonic()
            found = carry_out(servers, drawn, guards, counts, options.log)
            how = "right" if found is None else "DIFFERENT"
            print(f"history {number}: {how}, {time.monotonic() - started:.1f} s", flush=True)
            if found is None:
                continue
            differing.append(number)
            if options.narrow:
                drawn = narrowed(servers, drawn, guards, options.narrow)
            print(told(drawn, found), flush=True)
            if options.stop:
                break
    seconds = time.monotonic() - began
    for what, number in sorted(counts.items()):
        print(f"  {number:6} {what}")
    last = first + (max(1, done) - 1) // options.times
    listed = "".join(f"{': ' if place == 0 else ', '}{number}" for place, number in enumerate(differing))
    print(
        f"{done} histories, seeds {first} to {last}, {seconds / max(1, done):.1f} s each, Hypothesis "
        f"{hypothesis.__version__}: {len(differing)} differ{listed}"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
