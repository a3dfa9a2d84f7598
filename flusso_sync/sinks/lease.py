"""Who owns the sink, and which process writes for the owner.

The owner is the source: system identifier, database, slot, and the address the connection URL names (clones carry
the same identifiers).  The lease is one process of it, renewed until it is given back.  Both live in one document,
written only on top of the one that was read.

A lease counts as over when it was given back, when its process is known to be dead, or when nobody renewed it while
we watched for its whole length by our own clock; wall clocks are believed only when they say it ended long ago.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from typing import Any, Callable, Dict, Mapping, Optional, Set

from flusso_sync.engine.source import SourceIdentity
from flusso_sync.errors import OwnerConflict, SinkUnavailable
from flusso_sync.sinks.base import CLOCK_DOUBT_SECONDS
from flusso_sync.sinks.meta import Meta, MetaConflict, MetaMissing, Stored

LEASE_SECONDS = 30.0

#: Writing ends this long before the lease, so that a request that is sent is also answered within it.
SAFETY_SECONDS = 3.0

OWNER = "owner"

_IDENTITY = ("system_identifier", "database", "slot", "address")

#: Leases held by sinks of this process; one of its own that is not among them was left behind.
_held: Set[str] = set()
_held_lock = threading.Lock()


class Process:
    """What tells one process from another, on one host and across hosts."""

    def __init__(self) -> None:
        self.host = socket.gethostname()
        self.pid = os.getpid()
        self.started = started(self.pid)
        self.boot_id = _read("/proc/sys/kernel/random/boot_id")
        self.pid_namespace = _link("/proc/self/ns/pid")

    def described(self) -> Dict[str, Any]:
        return {
            "host": self.host,
            "pid": self.pid,
            "started": self.started,
            "boot_id": self.boot_id,
            "pid_namespace": self.pid_namespace,
        }

    def knows_dead(self, other: Mapping[str, Any]) -> bool:
        """Whether ``other`` is a process that surely runs no more.

        Believed only of a process we could see: containers share a boot id, and a pid means something only in its
        own namespace.
        """
        if not self.boot_id or not self.pid_namespace:
            return False
        if other.get("host") != self.host or other.get("pid_namespace") != self.pid_namespace:
            return False
        if other.get("boot_id") != self.boot_id:
            # The same host, booted again since; a container of that name on another host has another boot id, too.
            return False
        pid = other.get("pid")
        if not isinstance(pid, int) or pid <= 0:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return started(pid) != other.get("started")


class Lease:
    """The owner document, seen from one sink; ``elsewhere`` says what another deployment should be given instead."""

    def __init__(self, meta: Meta, *, elsewhere: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._meta = meta
        self._elsewhere = elsewhere
        self._clock = clock
        self._process = Process()
        self._token = secrets.token_hex(8)
        self._identity: Optional[SourceIdentity] = None
        self._stored: Optional[Stored] = None
        self._until = float("-inf")
        self._lost: Optional[str] = None
        self._seen: Optional[Stored] = None
        self._seen_at = 0.0
        #: Taken from an owner whose positions mean nothing here, and not yet cleared of them.
        self.starts_over = False

    @property
    def identity(self) -> SourceIdentity:
        assert self._identity is not None
        return self._identity

    def take(self, identity: SourceIdentity, *, adopt: bool) -> Optional[Mapping[str, Any]]:
        """Become the one that writes; returns the owner document that stood there before, if any.

        Raises ``OwnerConflict`` for a foreign owner (unless ``adopt``), ``SinkUnavailable`` while another process
        holds the lease.
        """
        with _held_lock:
            _held.add(self._token)
        self._identity = identity
        before = self._meta.read(OWNER)
        if before is not None:
            conflict = None if adopt else self._foreign(before.source, identity)
            if conflict is not None:
                raise conflict
            self._check_lease(before)
            # Kept in the document until it is done, so that a crash in between does not forget it.
            self.starts_over = bool(before.source.get("starts_over")) or not same_history(before.source, identity)
        self._store(before)
        return before.source if before is not None else None

    def started_over(self) -> None:
        """What the former owner left is forgotten."""
        self.starts_over = False
        self._store(self._stored)

    def renew(self) -> None:
        """Hold the lease for its whole length from now on; raises ``OwnerConflict`` when it is somebody else's.

        Raises ``MetaMissing`` when the store is gone.
        """
        self._refuse_if_lost()
        self._store(self._stored)

    def restore(self) -> None:
        """Write the document into a store made anew."""
        self._stored = None
        self._store(None)

    def check(self) -> None:
        """Raise unless we hold the lease for certain: ``OwnerConflict`` when it is lost, else ``SinkUnavailable``."""
        self._refuse_if_lost()
        if self._clock() > self._until - SAFETY_SECONDS:
            raise SinkUnavailable(
                "the lease of the sink could not be renewed, so nothing is written until it is",
                in_doubt=False,
                hint="See whether the meta store can be written",
            )

    def holder(self) -> Optional[str]:
        """Who holds the lease now, for people; None when it was given back or is known to be over."""
        stored = self._meta.read(OWNER)
        lease = None if stored is None else stored.source.get("lease")
        if not isinstance(lease, dict) or self._process.knows_dead(lease):
            return None
        if time.time() > float(lease.get("until") or 0) + CLOCK_DOUBT_SECONDS:
            return None
        return _holder(lease)

    def give_back(self) -> None:
        """Let the next one in at once; safe to call twice.  Errors of the sink are the caller's to ignore."""
        held, self._until = self._until, float("-inf")
        with _held_lock:
            _held.discard(self._token)
        if self._stored is not None and self._lost is None and held > float("-inf"):
            try:
                self._meta.write(OWNER, self._document(None), after=self._stored)
            except (MetaConflict, MetaMissing):
                # Somebody else's by now, or gone: nothing is left to give back.
                pass
            self._stored = None

    # -- the document -----------------------------------------------------------------------------------

    def _document(self, until: Optional[float]) -> Dict[str, Any]:
        document: Dict[str, Any] = dict(owner_of(self.identity))
        if self.starts_over:
            document["starts_over"] = True
        if until is not None:
            document["lease"] = {**self._process.described(), "token": self._token, "until": until}
        return document

    def _store(self, after: Optional[Stored]) -> None:
        # Counted from before the request: what the server does with it later can only lengthen the truth.
        now = self._clock()
        document = self._document(time.time() + LEASE_SECONDS)
        try:
            self._stored = self._meta.write(OWNER, document, after=after, create=after is None)
        except MetaConflict:
            found = self._meta.read(OWNER)
            if found is not None and found.source.get("lease", {}).get("token") == self._token:
                # An earlier renewal whose answer never came.
                self._stored = found
                self._until = self._clock_of(found)
                return
            holder = _holder(found.source.get("lease", {}) if found else {})
            if self._stored is None:
                raise SinkUnavailable(f"the sink is being taken by {holder}", in_doubt=False) from None
            self._lost = f"the lease of the sink was taken over by {holder}"
            self._refuse_if_lost()
        self._until = now + LEASE_SECONDS

    def _clock_of(self, found: Stored) -> float:
        """When a lease of our own ends by our monotonic clock; both times were taken on this host."""
        left = float(found.source["lease"]["until"]) - time.time()
        return self._clock() + min(max(left, 0.0), LEASE_SECONDS)

    def _refuse_if_lost(self) -> None:
        if self._lost is not None:
            raise OwnerConflict(self._lost, hint="Run one daemon per slot and sink")

    def conflict(self, identity: SourceIdentity) -> Optional[OwnerConflict]:
        """What ``take`` would refuse ``identity`` for, without ``adopt``; needs no lease."""
        stored = self._meta.read(OWNER)
        return None if stored is None else self._foreign(stored.source, identity)

    def _foreign(self, source: Mapping[str, Any], identity: SourceIdentity) -> Optional[OwnerConflict]:
        if same_owner(source, identity):
            return None
        return OwnerConflict(
            f"the sink belongs to {_owner(source)}, and this is {_owner(vars(identity))}",
            hint=f"Give this deployment {self._elsewhere}, or run once with --adopt to take it over",
        )

    def _check_lease(self, stored: Stored) -> None:
        """Raise ``SinkUnavailable`` while the lease in ``stored`` may be alive."""
        lease = stored.source.get("lease")
        if not isinstance(lease, dict):
            return
        token = lease.get("token")
        if token == self._token:
            return
        with _held_lock:
            ours = token in _held
        if ours:
            raise OwnerConflict(
                "another sink of this process writes to the same place",
                hint="Name each cluster, or file, in one sink only",
            )
        if self._is_left_behind(lease) or self._process.knows_dead(lease):
            return
        if time.time() > float(lease.get("until") or 0) + CLOCK_DOUBT_SECONDS:
            return
        if self._seen is None or stored.revision != self._seen.revision:
            self._seen, self._seen_at = stored, self._clock()
        if self._clock() > self._seen_at + LEASE_SECONDS:
            return
        raise SinkUnavailable(
            f"the sink is held by {_holder(lease)}",
            in_doubt=False,
            hint="This daemon takes over when that one stops, or has not renewed its lease for "
            f"{LEASE_SECONDS:.0f} seconds",
            holder=_holder(lease),
        )

    def _is_left_behind(self, lease: Mapping[str, Any]) -> bool:
        """Whether the lease is of a sink of this very process that could not give it back."""
        mine = self._process.described()
        return bool(mine["boot_id"]) and all(lease.get(name) == value for name, value in mine.items())


def owner_of(identity: SourceIdentity) -> Dict[str, str]:
    """What is stored of an owner."""
    return {name: getattr(identity, name) for name in _IDENTITY}


def same_owner(source: Mapping[str, Any], identity: SourceIdentity) -> bool:
    return all(source.get(name) == value for name, value in owner_of(identity).items())


def same_history(source: Mapping[str, Any], identity: SourceIdentity) -> bool:
    """Whether positions and versions of the owner mean the same to ``identity``, whatever its address."""
    return all(source.get(name) == getattr(identity, name) for name in _IDENTITY if name != "address")


def _owner(source: Mapping[str, Any]) -> str:
    return (
        f"slot {source.get('slot')} of {source.get('address')} "
        f"(system {source.get('system_identifier')}, database {source.get('database')})"
    )


def _holder(lease: Mapping[str, Any]) -> str:
    return f"process {lease.get('pid')} on {lease.get('host')}"


def started(pid: int) -> str:
    """When a process started, in the kernel's own count; tells it from a later one of the same pid.

    Empty for one that has ended and only waits for its parent to ask.
    """
    stat = _read(f"/proc/{pid}/stat")
    # The name may hold blanks and parentheses; fields count from behind it.
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
