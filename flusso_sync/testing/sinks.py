"""What every sink promises, ours and anybody's: subclass a contract, say how to make and read the sink, and run.

``SinkContract`` holds for all; ``StatefulSinkContract`` adds owner, lease, record, generations and quarantine.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Callable, Dict, Iterator

import pytest

from flusso_sync.engine.source import Record, SourceIdentity
from flusso_sync.errors import OwnerConflict, SinkRefused, SinkUnavailable
from flusso_sync.schema.plan import IndexPlan, ScalarField, Table
from flusso_sync.sinks.base import Answer, FailureKind, Found, Rejected, Request, Sink, Write

#: Another call makes another sink over the same documents, as a restart does.
MakeSink = Callable[[], Sink]

ME = SourceIdentity(system_identifier="7001", database="16384", slot="flusso", address="db.example:5432/shop")


def plan(name: str = "users", canonical: str = "1") -> IndexPlan:
    """An index of ids and names; another ``canonical`` is another schema."""
    fields = (ScalarField("id", "long", "id"), ScalarField("name", "keyword", "name"))
    return IndexPlan(name, Table("public", name), fields, primary_key=("id",), canonical=canonical)


def digits() -> IndexPlan:
    """An index whose names are numbers."""
    fields = (ScalarField("id", "long", "id"), ScalarField("name", "decimal", "name"))
    return IndexPlan("digits", Table("public", "digits"), fields, primary_key=("id",), canonical="1")


def body(id: str, name: str = "ada") -> bytes:
    return json.dumps({"id": int(id), "name": name}, separators=(",", ":")).encode()


def put(id: str, name: str = "ada", version: int = 1, *, build: bool = False, index: str = "users") -> Write:
    return Write(index, id, body(id, name), version, build)


def gone(id: str, version: int = 1, *, build: bool = False, index: str = "users") -> Write:
    return Write(index, id, None, version, build)


class SinkContract:
    """Give ``make_sink`` as a fixture and ``read``."""

    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        """What a reader finds now: id -> document."""
        raise NotImplementedError

    @pytest.fixture
    def make_sink(self) -> Iterator[MakeSink]:
        raise NotImplementedError

    def started(self, make_sink: MakeSink, *plans: IndexPlan, complete: bool = True) -> Sink:
        sink = make_sink()
        sink.open(ME)
        sink.ensure(plans or [plan()])
        for one in plans or [plan()]:
            sink.begin_build(one.name)
            if complete:
                sink.complete_build(one.name)
        return sink

    def test_a_new_index_must_be_built(self, make_sink: MakeSink) -> None:
        sink = make_sink()
        sink.open(ME)
        assert [(r.index, r.seeded) for r in sink.ensure([plan(), plan("orders")])] == [
            ("users", False),
            ("orders", False),
        ]

    def test_what_was_built_is_read_once_the_build_is_complete(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        assert list(sink.write([put("1", build=True), put("2", build=True)])) == []
        sink.complete_build("users")
        assert self.read(sink, "users") == {"1": {"id": 1, "name": "ada"}, "2": {"id": 2, "name": "ada"}}

    def test_completing_twice_is_the_same_as_once(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", build=True)])
        sink.complete_build("users")
        sink.complete_build("users")
        assert set(self.read(sink, "users")) == {"1"}

    def test_a_live_write_is_there_when_the_call_returns(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        assert list(sink.write([put("1"), put("2", "bob")])) == []
        sink.refresh(["users"])
        assert self.read(sink, "users")["2"] == {"id": 2, "name": "bob"}

    def test_a_delete_removes_and_one_of_a_missing_id_succeeds(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", version=1)])
        assert list(sink.write([gone("1", version=2), gone("2", version=2)])) == []
        sink.refresh(["users"])
        assert self.read(sink, "users") == {}

    def test_a_request_may_be_repeated(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        request = [put("1", version=5), gone("2", version=5)]
        assert [list(sink.write(request)) for _ in range(3)] == [[], [], []]
        sink.refresh(["users"])
        assert set(self.read(sink, "users")) == {"1"}

    @pytest.mark.parametrize("id", ["7", "a:b", "ä/ö ?#&%", '"quoted"\\', "line\nbreak", "\x01", "z" * 512])
    def test_any_id_up_to_512_bytes_is_kept_as_it_is(self, make_sink: MakeSink, id: str) -> None:
        sink = self.started(make_sink)
        assert list(sink.write([Write("users", id, b'{"id":1,"name":"x"}', 1), put("1")])) == []
        sink.refresh(["users"])
        assert set(self.read(sink, "users")) == {id, "1"}

    def test_documents_of_several_indexes_may_share_a_request(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, plan(), plan("orders"))
        sink.write([put("1"), put("2", index="orders")])
        sink.refresh(["users", "orders"])
        assert (set(self.read(sink, "users")), set(self.read(sink, "orders"))) == ({"1"}, {"2"})

    def test_a_raw_newline_in_a_body_breaks_nothing(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        assert list(sink.write([Write("users", "1", b'{"id":1,\n "name":"x"}', 1), put("2")])) == []
        sink.refresh(["users"])
        assert self.read(sink, "users")["1"] == {"id": 1, "name": "x"}

    def test_an_empty_request_is_no_request(self, make_sink: MakeSink) -> None:
        assert list(self.started(make_sink).write([])) == []

    def test_a_healthy_sink_has_nothing_to_rebuild(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.renew()
        assert sink.watch() == []

    def test_close_is_safe_twice(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.close()
        sink.close()


class StatefulSinkContract(SinkContract):
    """For sinks that remember; ``delete_index`` plays somebody who deletes an index by hand."""

    def delete_index(self, sink: Sink, index: str) -> None:
        raise NotImplementedError

    @pytest.fixture
    def make_keeping(self) -> Iterator[MakeSink]:
        """As ``make_sink``, of sinks that keep one former generation."""
        raise NotImplementedError

    # -- versions -------------------------------------------------------------------------------------------

    def test_an_older_write_is_a_conflict_and_changes_nothing(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "new", 9)])
        failures = sink.write([put("1", "old", 8), put("2", "other", 8)])
        assert [(f.position, f.kind) for f in failures] == [(0, FailureKind.CONFLICT)]
        sink.refresh(["users"])
        assert {id: d["name"] for id, d in self.read(sink, "users").items()} == {"1": "new", "2": "other"}

    def test_an_equal_version_wins(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "first", 9)])
        assert list(sink.write([put("1", "second", 9)])) == []
        sink.refresh(["users"])
        assert self.read(sink, "users")["1"]["name"] == "second"

    def test_an_older_write_does_not_bring_back_a_deleted_document(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", version=1)])
        sink.write([gone("1", version=5)])
        failures = sink.write([put("1", version=4)])
        assert [f.kind for f in failures] == [FailureKind.CONFLICT]
        sink.refresh(["users"])
        assert self.read(sink, "users") == {}

    def test_an_empty_or_too_long_id_is_rejected_and_its_neighbours_arrive(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        bad = [Write("users", "", b"{}", 1), Write("users", "", None, 1), Write("users", "ü" * 257, b"{}", 1)]
        failures = sink.write([*bad, put("1")])
        assert sorted((f.position, f.kind) for f in failures) == [(i, FailureKind.REJECTED) for i in range(3)]
        sink.refresh(["users"])
        assert set(self.read(sink, "users")) == {"1"}

    # -- generations ----------------------------------------------------------------------------------------

    def test_readers_find_nothing_before_the_first_build_is_complete(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", build=True), put("2")])
        sink.refresh(["users"])
        assert self.read(sink, "users") == {}

    def test_a_complete_index_is_seeded_after_a_restart(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1")])
        sink.refresh(["users"])
        sink.close()
        again = make_sink()
        again.open(ME)
        assert [r.seeded for r in again.ensure([plan()])] == [True]
        assert set(self.read(again, "users")) == {"1"}

    def test_an_unfinished_build_is_not_seeded_after_a_restart(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", build=True)])
        sink.close()
        again = make_sink()
        again.open(ME)
        assert [r.seeded for r in again.ensure([plan()])] == [False]
        again.begin_build("users")
        again.complete_build("users")
        assert self.read(again, "users") == {}

    def test_while_rebuilding_readers_see_the_old_generation_kept_current(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "old"), put("2", "leftover")])
        first = sink.begin_build("users")
        sink.write([put("1", "built", 5, build=True), put("3", "built", 5, build=True)])
        sink.write([put("1", "live", 6)])
        sink.refresh(["users"])
        assert {id: d["name"] for id, d in self.read(sink, "users").items()} == {"1": "live", "2": "leftover"}
        sink.complete_build("users")
        assert {id: d["name"] for id, d in self.read(sink, "users").items()} == {"1": "live", "3": "built"}
        assert sink.begin_build("users") > first

    def test_a_build_write_never_undoes_a_live_write_or_delete(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.begin_build("users")
        sink.write([put("1", "live", 6), gone("2", 6)])
        failures = sink.write([put("1", "built", 5, build=True), put("2", "built", 5, build=True)])
        assert [f.kind for f in failures] == [FailureKind.CONFLICT] * 2
        sink.complete_build("users")
        assert {id: d["name"] for id, d in self.read(sink, "users").items()} == {"1": "live"}

    def test_an_interrupted_rebuild_leaves_readers_on_the_old_generation(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1")])
        sink.refresh(["users"])
        sink.begin_build("users")
        sink.close()
        again = make_sink()
        again.open(ME)
        assert [r.seeded for r in again.ensure([plan()])] == [False]
        again.write([put("2")])
        again.refresh(["users"])
        assert set(self.read(again, "users")) == {"1", "2"}

    def test_beginning_a_build_twice_starts_it_over(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", build=True)])
        sink.begin_build("users")
        sink.write([put("2", build=True)])
        sink.complete_build("users")
        assert set(self.read(sink, "users")) == {"2"}

    def test_a_changed_schema_is_built_beside_the_old_one_that_is_read_on(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "old")])
        sink.refresh(["users"])
        sink.close()
        again = make_sink()
        again.open(ME)
        changed = plan(canonical="2")
        assert [r.seeded for r in again.ensure([changed])] == [False]
        again.begin_build("users")
        again.write([put("1", "new", 5)])
        again.refresh(["users"])
        assert {id: d["name"] for id, d in self.read(again, "users").items()} == {"1": "old"}
        again.complete_build("users")
        assert {id: d["name"] for id, d in self.read(again, "users").items()} == {"1": "new"}

    def test_without_a_build_the_index_is_read_at_once_and_the_next_start_builds_it(self, make_sink: MakeSink) -> None:
        sink = make_sink()
        sink.open(ME)
        assert [r.seeded for r in sink.ensure([plan()], skip_build=True)] == [False]
        sink.write([put("1")])
        sink.refresh(["users"])
        assert set(self.read(sink, "users")) == {"1"}
        sink.close()
        again = make_sink()
        again.open(ME)
        assert [r.seeded for r in again.ensure([plan()])] == [False]
        assert set(self.read(again, "users")) == {"1"}

    def test_an_index_deleted_while_stopped_is_built_again(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.close()
        self.delete_index(sink, "users")
        again = make_sink()
        again.open(ME)
        assert [r.seeded for r in again.ensure([plan()])] == [False]

    def test_an_index_deleted_while_running_is_named_by_the_watch_and_can_be_rebuilt(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, plan(), plan("orders"))
        self.delete_index(sink, "users")
        assert sink.watch() == ["users"]
        sink.begin_build("users")
        sink.write([put("1", build=True)])
        sink.complete_build("users")
        assert sink.watch() == []
        assert set(self.read(sink, "users")) == {"1"}

    # -- state ----------------------------------------------------------------------------------------------

    def test_the_record_outlives_the_sink(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        assert sink.read_record() is None
        record = Record(
            confirmed=2**63 + 1,
            version=2**62 + 3,
            timeline=4,
            slot="flusso",
            coverage={"public.orders": "a"},
            shapes={"orders": "b c"},
        )
        sink.write_record(Record(confirmed=1))
        sink.write_record(record)
        assert sink.read_record() == record
        sink.close()
        again = make_sink()
        again.open(ME)
        assert again.read_record() == record

    def test_quarantined_documents_outlive_the_sink_until_they_are_released(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        parked = [Rejected("users", id, "too odd", 7) for id in ("a", "ö/2", "z" * 512)]
        sink.quarantine(parked)
        sink.quarantine([Rejected("users", "a", "still odd", 8, delete=True), Rejected("orders", "1", "odd", 9)])
        sink.close()
        again = make_sink()
        again.open(ME)
        assert {i: sorted(ids) for i, ids in again.quarantined().items()} == {
            "users": ["a", "z" * 512, "ö/2"],
            "orders": ["1"],
        }
        again.release("users", ["a", "never parked"])
        assert sorted(again.quarantined()["users"]) == ["z" * 512, "ö/2"]

    # -- builds that go on ------------------------------------------------------------------------------------

    def test_an_unfinished_build_is_gone_on_with_where_its_progress_was_stored(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", "built", 5, build=True)])
        sink.save_progress("users", {"rows": 1, "next": ["1", "ö"]})
        sink.save_progress("users", {"rows": 2, "next": ["2", None]})
        sink.write([put("2", "built", 5, build=True)])
        sink.close()
        again = make_sink()
        again.open(ME)
        (report,) = again.ensure([plan()])
        assert not report.seeded and not report.readable
        assert report.progress == {"rows": 2, "next": ["2", None]}
        # Whatever comes from the stream before the build goes on is written to it, too.
        again.write([put("1", "live", 6)])
        again.resume_build("users")
        again.write([put("3", "built", 7, build=True)])
        again.complete_build("users")
        assert {id: d["name"] for id, d in self.read(again, "users").items()} == {
            "1": "live",
            "2": "built",
            "3": "built",
        }
        again.close()
        third = make_sink()
        third.open(ME)
        assert [(r.seeded, r.readable, r.progress) for r in third.ensure([plan()])] == [(True, True, None)]

    def test_a_rebuild_that_was_cut_off_goes_on_beside_what_is_read(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "old")])
        sink.begin_build("users")
        sink.save_progress("users", {"rows": 0})
        sink.close()
        again = make_sink()
        again.open(ME)
        (report,) = again.ensure([plan()])
        assert not report.seeded and report.readable and report.progress == {"rows": 0}
        again.resume_build("users")
        again.refresh(["users"])
        assert set(self.read(again, "users")) == {"1"}
        again.complete_build("users")
        assert self.read(again, "users") == {}

    def test_a_build_begun_anew_forgets_the_progress_of_the_one_before(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.write([put("1", build=True)])
        sink.save_progress("users", {"rows": 1})
        sink.close()
        again = make_sink()
        again.open(ME)
        again.ensure([plan()])
        again.begin_build("users")
        again.close()
        third = make_sink()
        third.open(ME)
        assert [r.progress for r in third.ensure([plan()])] == [None]
        third.begin_build("users")
        third.complete_build("users")
        assert self.read(third, "users") == {}

    def test_progress_of_another_schema_is_not_gone_on_with(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        sink.save_progress("users", {"rows": 1})
        sink.close()
        again = make_sink()
        again.open(ME)
        assert [r.progress for r in again.ensure([plan(canonical="2")])] == [None]

    def test_writes_of_a_build_that_was_given_up_go_nowhere(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        older = sink.begin_build("users")
        sink.write([put("0", build=True)])
        newer = sink.begin_build("users")
        late, right = put("1", build=True), put("2", build=True)
        late.generation, right.generation = older, newer
        assert list(sink.write([late, right])) == []
        sink.complete_build("users")
        assert set(self.read(sink, "users")) == {"2"}

    # -- generations ------------------------------------------------------------------------------------------

    def test_a_kept_generation_is_rolled_back_to_at_once_and_stands_still(self, make_keeping: MakeSink) -> None:
        sink = self.started(make_keeping)
        sink.write_record(Record(confirmed=500))
        sink.write([put("1", "first")])
        first = sink.generations()["users"][0].number
        sink.begin_build("users")
        sink.write([put("1", "second", 5, build=True)])
        sink.complete_build("users")
        kept = {report.number: report for report in sink.generations()["users"]}
        assert (kept[first].state, kept[first].frozen_lsn) == ("kept", 500)
        assert kept[max(kept)].state == "read" and kept[max(kept)].frozen_lsn is None
        back = sink.rollback("users")
        assert back.read == first and back.building > max(kept)
        sink.write([put("1", "live", 6), put("2", "live", 6)])
        sink.refresh(["users"])
        assert {id: d["name"] for id, d in self.read(sink, "users").items()} == {"1": "first"}
        states = {report.number: report.state for report in sink.generations()["users"]}
        assert states == {first: "rolled back to", max(kept): "kept", back.building: "building"}
        assert sink.watch() == []
        # A crash changes nothing of it.
        sink.close()
        again = make_keeping()
        again.open(ME)
        (report,) = again.ensure([plan()])
        assert not report.seeded and report.readable
        assert {id: d["name"] for id, d in self.read(again, "users").items()} == {"1": "first"}
        again.begin_build("users")
        again.write([put("2", "fresh", 7, build=True)])
        again.complete_build("users")
        assert {id: d["name"] for id, d in self.read(again, "users").items()} == {"2": "fresh"}
        # Of the former ones, what readers had last is the first to be kept.
        reports = again.generations()["users"]
        assert [report.state for report in reports] == ["read", "kept"] and reports[1].number == first

    def test_without_a_kept_generation_a_rollback_is_refused_and_changes_nothing(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1")])
        sink.refresh(["users"])
        with pytest.raises(SinkRefused, match="keeps no former generation"):
            sink.rollback("users")
        assert set(self.read(sink, "users")) == {"1"}
        assert [report.state for report in sink.generations()["users"]] == ["read"]

    # -- what commands ask for and read -----------------------------------------------------------------------

    def test_a_request_is_found_once_answered_once_and_its_asker_needs_no_lease(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        asker = make_sink()
        one = Request("r1", "reindex", "users", at="2026-01-01T00:00:00Z")
        two = Request("r2", "retry", "users", ("a", "ö/2"), at="2026-01-01T00:00:01Z", lasts_seconds=90.5)
        asker.post(one)
        asker.post(two)
        assert asker.answer_to("r1") is None
        assert list(sink.requests()) == [one, two]
        sink.answer("r1", Answer(True, "begun"))
        assert list(sink.requests()) == [two]
        assert asker.answer_to("r1") == Answer(True, "begun")
        sink.answer("r2", Answer(False, "no"))
        assert asker.answer_to("r2") == Answer(False, "no")
        assert asker.answer_to("never asked") is None

    def test_jobs_outlive_the_sink_until_they_are_forgotten(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write_job("a", {"index": "users", "cursor": None, "values": [["1", "ö"]]})
        sink.write_job("b", {"index": "users", "cursor": ["7"]})
        sink.write_job("a", {"index": "users", "cursor": ["3"], "values": [["1", "ö"]]})
        sink.close()
        again = make_sink()
        again.open(ME)
        assert again.jobs() == {
            "a": {"index": "users", "cursor": ["3"], "values": [["1", "ö"]]},
            "b": {"index": "users", "cursor": ["7"]},
        }
        again.write_job("a", None)
        again.write_job("never there", None)
        assert set(again.jobs()) == {"b"}

    def test_who_holds_the_lease_is_told_to_somebody_without_one(self, make_sink: MakeSink) -> None:
        asker = make_sink()
        assert asker.holder() is None
        sink = self.started(make_sink)
        assert asker.holder()
        sink.close()
        assert asker.holder() is None

    def test_what_is_parked_tells_when_why_and_how_often(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.quarantine([Rejected("users", "a", "too odd", 7), Rejected("orders", "1", "odd", 9)])
        (first,) = sink.parked("users")
        sink.quarantine([Rejected("users", "a", "still odd", 8, delete=True)])
        reader = make_sink()
        (again,) = reader.parked("users")
        assert (again.id, again.reason, again.lsn, again.tries, again.delete) == ("a", "still odd", 8, 2, True)
        assert again.first == first.first and again.last >= first.last and (first.tries, first.lsn) == (1, 7)
        assert len(list(reader.parked())) == 2

    def test_many_documents_are_read_at_once_with_the_versions_of_their_writes(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        big = b'{"id":9007199254740993,"name":"x"}'
        ids = [str(n) for n in range(2500)]
        for start in range(0, 2500, 500):
            sink.write([put(id, version=7) for id in ids[start : start + 500]])
        sink.write([Write("users", "a:b/ ?#%\u00e4", big, 9), gone("0", version=8)])
        other = make_sink()
        # Nothing was refreshed.
        found = other.get_many("users", [*ids, "a:b/ ?#%\u00e4", "nobody's", "", "z" * 600])
        assert set(found) == {*ids[1:], "a:b/ ?#%\u00e4"}
        assert found["7"] == Found({"id": 7, "name": "ada"}, 7)
        assert found["a:b/ ?#%\u00e4"] == Found({"id": 9007199254740993, "name": "x"}, 9)
        assert other.get_many("users", []) == {}

    def test_documents_are_read_with_every_digit(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, digits())
        bytes_ = b'{"id":1,"name":123456789012345678901234567890.12345678901234567890}'
        sink.write([Write("digits", "1", bytes_, 1)])
        expected = {"id": 1, "name": Decimal("123456789012345678901234567890.12345678901234567890")}
        assert sink.get_many("digits", ["1"])["1"].document == expected
        sink.refresh(["digits"])
        assert dict(sink.scan("digits")) == {"1": expected}

    def test_all_ids_come_in_pages(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put(str(n)) for n in range(250)])
        pages = list(make_sink().scan_ids("users", 100))
        assert [len(page) for page in pages] == [100, 100, 50]
        assert {id for page in pages for id in page} == {str(n) for n in range(250)}

    def test_readers_of_an_index_that_is_not_there_are_told_so(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink, complete=False)
        with pytest.raises(SinkRefused, match="readers find no index"):
            sink.get_many("users", ["1"])

    def test_documents_are_read_without_a_lease(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "ada lovelace"), put("2", "grace hopper"), put("3", "gone")])
        sink.write([gone("3", 2)])
        sink.refresh(["users"])
        reader = make_sink()
        assert json.loads(reader.get("users", "1") or b"") == {"id": 1, "name": "ada lovelace"}
        assert reader.get("users", "3") is None and reader.get("users", "never") is None
        assert reader.count("users") == 2
        assert dict(reader.scan("users")) == {
            "1": {"id": 1, "name": "ada lovelace"},
            "2": {"id": 2, "name": "grace hopper"},
        }
        assert [(id, document["id"]) for id, document in reader.search("users", "grace hopper", 1)] == [("2", 2)]

    def test_a_foreign_owner_is_refused_until_it_is_adopted(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1")])
        sink.refresh(["users"])
        sink.write_record(Record(confirmed=5))
        sink.close()
        stranger = SourceIdentity("9999", ME.database, ME.slot, "staging:5432/shop")
        other = make_sink()
        with pytest.raises(OwnerConflict, match="db.example:5432/shop"):
            other.open(stranger)
        other.open(stranger, adopt=True)
        assert other.read_record() is None, "positions of another server mean nothing here"
        assert [r.seeded for r in other.ensure([plan()])] == [False], "documents of another server are not ours"
        assert set(self.read(other, "users")) == {"1"}, "readers keep what they have until the build is complete"

    def test_another_address_of_the_same_server_is_another_owner_that_keeps_its_history(
        self, make_sink: MakeSink
    ) -> None:
        sink = self.started(make_sink)
        sink.write_record(Record(confirmed=5))
        sink.close()
        moved = SourceIdentity(ME.system_identifier, ME.database, ME.slot, "new.example:5432/shop")
        other = make_sink()
        with pytest.raises(OwnerConflict):
            other.open(moved)
        other.open(moved, adopt=True)
        record = other.read_record()
        assert record is not None and record.confirmed == 5
        assert [r.seeded for r in other.ensure([plan()])] == [True]

    def test_a_second_sink_does_not_get_in_while_the_first_is_open(self, make_sink: MakeSink) -> None:
        first = self.started(make_sink)
        with pytest.raises((SinkUnavailable, OwnerConflict)):
            make_sink().open(ME)
        first.close()
        make_sink().open(ME)
