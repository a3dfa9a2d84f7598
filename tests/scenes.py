"""What a status may look like, for whatever draws it: a calm one, one that builds, one in trouble, one that begins."""

from __future__ import annotations

import math
import time
from typing import Callable, Dict

from flusso_sync.history import POINT_SECONDS, Point
from flusso_sync.observer import BatchStats
from flusso_sync.status import IndexState, Phase, Status

GB = 1024**3
MB = 1024**2


class Scene(Status):
    """A status with an hour behind it that nobody has to wait for."""

    def __init__(self, *indexes: str) -> None:
        super().__init__(indexes)
        self.past: "tuple[Point, ...]" = ()
        # Up for a while.
        self._started -= 4 * 3600 + 1234

    def history(self) -> "tuple[Point, ...]":
        return self.past or super().history()


def calm() -> Scene:
    scene = Scene("users", "orders", "products")
    scene.set_phase(Phase.LIVE)
    _run(scene)
    for index, documents in (("users", 50_000), ("orders", 150_000), ("products", 20_000)):
        scene.set_index_state(index, IndexState.SEEDED, generation=3)
        scene.set_index_sinks(index, "search", {"generation": 3, "documents": documents, "kept": index == "users"})
    scene.captured(12_400)
    scene.committed(BatchStats(12_390, 4_310, {"users": 2_000, "orders": 2_290, "products": 20}, 0.0042))
    scene.committed(BatchStats(10, 9, {"users": 9}, 0.0031))
    scene.past = _hour(lambda minute: 0.006 + 0.004 * math.sin(minute) ** 2 + (0.4 if int(minute) == 23 else 0))
    return scene


def building() -> Scene:
    scene = calm()
    scene.set_build_workers(2)
    scene.set_index_state("orders", IndexState.REBUILDING, building=4)
    scene.set_index_state("products", IndexState.BACKFILLING)
    scene.set_phase(Phase.BACKFILLING)
    for index, done, total in (("orders", 92_500, 150_000), ("products", 4_000, 20_000)):
        scene.set_build_progress(index, done // 2, total)
        time.sleep(0.02)
        scene.set_build_progress(index, done, total, exact=index == "orders")
    scene.quarantined("users", 3)
    scene.set_fact("fan_out.jobs", [{"index": "orders", "done": 12_000, "of": 90_000}])
    scene.set_fact("fan_out.waiting", 1)
    seen = {
        "state": "running",
        "started": "2026-01-02T03:04:05Z",
        "ended": None,
        "seen": 4000,
        "total": 9000,
        "found": 0,
    }
    scene.set_fact("verify.users", seen)
    return scene


def troubled() -> Scene:
    scene = calm()
    scene.set_index_state(
        "products",
        IndexState.DRIFTED,
        reason="column public.products.price_in_an_unusually_long_name is gone",
        todo="Mend the table, or the schema file",
    )
    scene.set_blind("users", ["public.addresses: its changes are not told (replica identity)"])
    for _ in range(41):
        scene.trouble(
            "sink search",
            "sink search is away: connection to http://search.internal.example:9200 refused",
            "Start it, or look at its log; it is asked again all the time.",
            blocking=True,
        )
    scene.trouble(
        "blind public.addresses",
        "table public.addresses has no replica identity, so deletes of it are not heard",
        "Run: ALTER TABLE public.addresses REPLICA IDENTITY FULL",
    )
    scene.captured(16_384)
    scene.set_figures("queue", lambda: {"changes": 16_384, "capacity": 16_384})
    scene.set_gap("replication slot flusso was lost")
    scene.past = _hour(lambda minute: 0.006 if minute < 51 else (minute - 51) * 60)
    return scene


def beginning() -> Scene:
    scene = Scene("users", "orders", "products")
    scene.trouble("source", "db.internal.example:5432 refuses connections", "It is waited for.", blocking=True)
    return scene


SCENES: Dict[str, Callable[[], Scene]] = {
    "calm": calm,
    "building": building,
    "troubled": troubled,
    "beginning": beginning,
}


def _run(scene: Scene) -> None:
    scene.lag(11_056)
    scene.set_confirmed(0x16B374D848)
    scene.set_fact(
        "slot",
        {
            "name": "flusso",
            "wal_status": "reserved",
            "retained_bytes": 48 * MB,
            "safe_wal_bytes": 9 * GB,
            "active_pid": 4711,
        },
    )
    scene.set_figures("queue", lambda: {"changes": 10, "capacity": 16_384})
    search = {"waiting": 3, "waiting_bytes": 8000, "requests_in_flight": 1, "concurrency": 2}
    counts = {"requests": 900, "written": 431_000, "retries": 12}
    beside = {"waiting": 0, "waiting_bytes": 0, "requests_in_flight": 0, "concurrency": 1}
    scene.set_figures(
        "sinks",
        lambda: {
            "search": {**search, **counts},
            "archive": {**beside, **counts, "written": 431_000 + int(250 * time.monotonic()), "retries": 0},
        },
    )
    scene.set_figures("connections", lambda: {"documents": 3})
    for name, seconds in (("snapshot", 0.0004), ("resolve", 0.0007), ("build", 0.0021), ("bulk", 0.0034)):
        scene.stage(name, seconds)
    scene.waited_for_visibility(0.0125)
    for name in ("capture", "engine", "confirm", "watch", "watch-search", "lag", "sink-search-1", "sink-search-2"):
        scene.expect_heartbeat(f"flusso-{name}", 60)


def _hour(lag: Callable[[float], float]) -> "tuple[Point, ...]":
    now = int(time.time())
    points = []
    for number in range(359, -1, -1):
        minute = 60 - number / 6
        busy = 400 + 350 * math.sin(minute / 6) ** 2
        points.append(
            Point(now - int(number * POINT_SECONDS), lag(minute), int(3000 * lag(minute) + 9000), busy, busy / 3)
        )
    return tuple(points)
