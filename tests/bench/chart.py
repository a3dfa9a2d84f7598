"""``python -m tests.bench.chart``: the newest full run of ``history.jsonl`` as a picture, ``docs/pictures/bench.svg``.

Every bar is a share of what the same machine did in the same run without a daemon: the nearer to 1, the less is left
to gain.  Those of others are shares of what their machine did, too.
"""

from __future__ import annotations

import sys
from html import escape
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple

from tests.bench import history
from tests.fix_daemon import CHECKOUT

FILE = CHECKOUT / "docs" / "pictures" / "bench.svg"

#: design.md section 7, measured together on two cores with Postgres 15 and OpenSearch 2.19.1: what the others took,
#: and what the same took by hand.
OTHERS: Dict[str, Dict[str, float]] = {
    "build": {"flusso 0.15.1": 782 / 32_000, "pgsync 7.3.0": 3_640 / 32_000},
    "burst": {"flusso 0.15.1": 2.4 / 39, "pgsync 7.3.0": 2.4 / 25},
    "readable": {"flusso 0.15.1": 3.5 / 61, "pgsync 7.3.0": 3.5 / 65},
    "searchable": {"flusso 0.15.1": 11 / 104},
}

OURS = "flusso-sync"
COLORS = {OURS: "#1565c0", "pgsync 7.3.0": "#90a4ae", "flusso 0.15.1": "#b0bec5"}

WIDTH, LABEL, BAR, LINE, GAP, TOP = 900, 330, 440, 24, 14, 64


class Group(NamedTuple):
    """One kind of work: what it is, what it is compared with, and the share of each."""

    title: str
    limit: str
    shares: Mapping[str, float]


def groups(runs: Mapping[str, Any]) -> List[Group]:
    """What can be said of the figures of one run."""
    found: List[Group] = []

    def add(name: str, title: str, limit: str, share: float) -> None:
        found.append(Group(title, limit, {OURS: share, **OTHERS.get(name, {})}))

    if "all" in runs:
        built = runs["all"]
        share = built["of_lower_ceiling"]
        add("build", f"First build of {built['documents']:,} documents", "loading them ready-made", share)
    if "burst" in runs:
        burst = runs["burst"]
        add("burst", f"One UPDATE of {burst['rows']:,} items", "the same by hand", 1 / burst["of_by_hand"])
    if "latency" in runs:
        idle, hand = runs["latency"]["idle"], runs["latency"]["by_hand"]
        for kind, said in (("readable", "read by its id"), ("searchable", "found by a search")):
            share = hand[f"{kind}_p50_ms"] / idle[f"{kind}_p50_ms"]
            add(kind, f"A commit until {said}", "sent by whoever committed", share)
    if "capture" in runs:
        for kind, said in (("keys", "DEFAULT"), ("large", "FULL")):
            if kind in runs["capture"]:
                share = runs["capture"][kind]["of_pg_recvlogical"]
                add("capture", f"{runs['capture']['rows']:,} changes, identity {said}", "pg_recvlogical", share)
    return found


def draw(run: Mapping[str, Any]) -> str:
    """The picture of one run that was kept."""
    body: List[str] = []
    y = TOP
    for group in groups(run["runs"]):
        body.extend(_bars(group, y))
        y += LINE * len(group.shares) + GAP
    machine = run["machine"]
    said = (
        f"{run['date']}, version {run['version']}: {machine['processors']} processors, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Postgres {machine['postgres']}, "
        f"OpenSearch {machine['opensearch']}, Python {machine['python']}"
    )
    height = y + 26
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
            'aria-label="Shares of what the machine can do" font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
            '<text x="16" y="24" font-size="16" font-weight="bold" fill="#123">'
            "Share of what the same machine does without a daemon</text>",
            '<text x="16" y="44" fill="#456">1.00: as fast as doing only that work, by hand. '
            "The others: of what theirs did, on another day.</text>",
            f'<line x1="{LABEL + BAR}" y1="{TOP - 6}" x2="{LABEL + BAR}" y2="{y - GAP}" stroke="#789" '
            'stroke-dasharray="3 3"/>',
            *body,
            f'<text x="16" y="{y + 10}" font-size="11" fill="#678">{escape(said)}</text>',
            "</svg>",
            "",
        ]
    )


def _bars(group: Group, y: int) -> Iterator[str]:
    yield f'<text x="16" y="{y + 16}" fill="#123" font-weight="bold">{escape(group.title)}</text>'
    if len(group.shares) > 1:
        yield f'<text x="16" y="{y + 16 + LINE}" font-size="11" fill="#678">against {escape(group.limit)}</text>'
    for number, (name, share) in enumerate(group.shares.items()):
        top = y + LINE * number
        long = min(max(BAR * share, 2), WIDTH - LABEL - 16)
        said = f"{share:.2f}  {name}" + (f", against {group.limit}" if len(group.shares) == 1 else "")
        yield f'<rect x="{LABEL}" y="{top + 3}" width="{long:.1f}" height="{LINE - 7}" fill="{COLORS[name]}"/>'
        inside = long > BAR * 0.6
        x, anchor, color = (LABEL + long - 8, "end", "#fff") if inside else (LABEL + long + 8, "start", "#123")
        yield f'<text x="{x:.1f}" y="{top + 16}" text-anchor="{anchor}" fill="{color}">{escape(said)}</text>'


def main() -> int:
    full = [run for run in history.read() if {"all", "burst", "latency"} <= run["runs"].keys()]
    if not full:
        print("no full run is kept: bin/bench --save", file=sys.stderr)
        return 1
    FILE.write_text(draw(full[-1]), encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
