"""The SQLite sink keeps the contract, and what is its own: one file, many readers, words, a full disk, kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from flusso_sync.engine.source import Record
from flusso_sync.errors import (
    EXIT_SINK,
    DocumentRejected,
    IndexMissing,
    OwnerConflict,
    SinkBlocked,
    SinkError,
    SinkRefused,
    SinkUnavailable,
)
from flusso_sync.schema.plan import (
    AggregateField,
    ChildLink,
    ConstantField,
    IndexPlan,
    JoinField,
    ObjectField,
    ScalarField,
    Table,
    TargetLink,
)
from flusso_sync.sinks.base import FailureKind, Rejected, Request, Sink, Write
from flusso_sync.sinks.sqlite import file as file_module
from flusso_sync.sinks.sqlite import sink as sink_module
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from flusso_sync.sinks.sqlite.words import lacks
from flusso_sync.testing.sinks import ME, MakeSink, StatefulSinkContract, gone, plan, put
from tests.waiting import wait_for

CHECKOUT = Path(__file__).resolve().parent.parent

Make = Callable[..., SqliteSink]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a file?.sqlite"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    made: List[SqliteSink] = []

    def make(**settings: Any) -> SqliteSink:
        made.append(SqliteSink("file", SqliteSettings(**{"path": str(path), **settings})))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def drop_tables(path: Path, index: str) -> None:
    """What somebody does by hand with the program sqlite3."""
    connection = sqlite3.connect(path, isolation_level=None)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        if name in (f"{index}.{number}" for number in range(100)):
            connection.execute(f'DROP TABLE "{name}"')
    connection.close()


class Contract(StatefulSinkContract):
    def read(self, sink: Sink, index: str) -> Dict[str, Any]:
        return dict(sink.scan(index))

    def delete_index(self, sink: Sink, index: str) -> None:
        assert isinstance(sink, SqliteSink)
        drop_tables(Path(sink._settings.path), index)


class TestContract(Contract):
    @pytest.fixture
    def make_sink(self, make: Make) -> Iterator[MakeSink]:
        yield make

    @pytest.fixture
    def make_keeping(self, make: Make) -> Iterator[MakeSink]:
        yield lambda: make(keep_generations={"users": 1})


class TestContractWithoutWords(TestContract):
    """Without a full-text index, which only a search needs."""

    @pytest.fixture
    def make_sink(self, make: Make) -> Iterator[MakeSink]:
        yield lambda: make(search=False)

    def test_documents_are_read_without_a_lease(self, make_sink: MakeSink) -> None:
        sink = self.started(make_sink)
        sink.write([put("1", "ada lovelace")])
        reader = make_sink()
        assert reader.count("users") == 1 and reader.get("users", "1") is not None
        with pytest.raises(SinkRefused, match="keeps no full-text index"):
            reader.search("users", "ada")


def start(sink: SqliteSink, *plans: IndexPlan, build: bool = True) -> SqliteSink:
    sink.open(ME)
    sink.ensure(plans or [plan()])
    for one in plans or [plan()]:
        sink.begin_build(one.name)
        if build:
            sink.complete_build(one.name)
    return sink


def ask(path: Path, sql: str, *values: Any) -> List[Tuple[Any, ...]]:
    """What anybody finds with SQLite alone."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, values).fetchall()


# -- the file -----------------------------------------------------------------------------------------------


def test_what_is_written_is_synced_at_each_commit_and_readers_need_no_lock(make: Make, path: Path) -> None:
    sink = start(make())
    connection = sink._file._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    with make()._file.visit() as visitor:
        assert visitor is not None and visitor.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_document_read_back_is_the_bytes_that_were_written_and_json_to_sqlite(make: Make, path: Path) -> None:
    sink = start(make())
    text = '{"id": 1,\n "name":"\\u0007ä\U0001f600\\"", "n":12345678901234567890.000000000000000001}'.encode()
    sink.write([Write("users", "1", text, 1)])
    assert sink.get("users", "1") == text
    assert ask(path, "SELECT typeof(body), json_extract(body, '$.id') FROM users") == [("text", 1)]


def test_readers_find_a_view_called_like_the_index_and_the_prefix_goes_before_everything(
    make: Make, path: Path
) -> None:
    first, second = start(make(prefix="dev_")), start(make(prefix="prod_"))
    first.write([put("1", "of dev")])
    second.write([put("1", "of prod")])
    assert ask(path, "SELECT id, json_extract(body, '$.name') FROM dev_users") == [("1", "of dev")]
    assert ask(path, "SELECT id, json_extract(body, '$.name') FROM prod_users") == [("1", "of prod")]
    tables = [row[0] for row in ask(path, "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")]
    assert all(name.startswith(("dev_", "prod_")) for name in tables)


def test_former_tables_go_after_the_switch_except_those_that_are_kept(make: Make, path: Path) -> None:
    sink = start(make(keep_generations={"users": 1}))
    for _ in range(3):
        sink.begin_build("users")
        sink.complete_build("users")
    tables = ask(path, "SELECT name FROM sqlite_master WHERE name LIKE 'users._' ORDER BY name")
    assert [name for (name,) in tables] == ["users.3", "users.4"]


def test_a_changed_search_option_builds_anew_beside_what_is_read(make: Make) -> None:
    sink = start(make())
    sink.write([put("1", "ada")])
    sink.close()
    again = make(search=False)
    again.open(ME)
    (report,) = again.ensure([plan()])
    assert not report.seeded and report.readable and again.count("users") == 1
    again.begin_build("users")
    again.complete_build("users")
    again.close()
    third = make(search=False)
    third.open(ME)
    assert [report.seeded for report in third.ensure([plan()])] == [True]


# -- files that cannot be used --------------------------------------------------------------------------------


def not_a_database(path: Path) -> None:
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 100)


def of_another_program(path: Path) -> None:
    ask(path, "CREATE TABLE theirs (a)")


def of_a_newer_version(path: Path) -> None:
    ask(path, f"PRAGMA application_id = {file_module.APPLICATION_ID}")
    ask(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda path: path.mkdir(), "is a folder, and should be a file"),
        (not_a_database, "cannot be used: file is not a database"),
        (of_another_program, "is a database of another program"),
        (of_a_newer_version, "was written by a newer flusso-sync"),
    ],
    ids=["a folder", "no database", "another program", "a newer version"],
)
def test_a_file_that_is_not_ours_is_refused_with_a_sentence_and_left_alone(
    make: Make, path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(SinkRefused, match=sentence) as caught:
        make().open(ME)
    assert caught.value.exit_code == EXIT_SINK and str(path) in caught.value.message
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_folder_that_does_not_exist_is_refused_with_a_sentence(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SinkRefused, match="its folder does not exist"):
        make(path=str(tmp_path / "none" / "x.sqlite")).open(ME)


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """As a user who may not do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("there", [True, False], ids=["the file", "its folder"])
def test_what_may_not_be_written_is_refused_with_a_sentence(make: Make, there: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        sink = make(path=str(folder / "x.sqlite"))
        if there:
            start(sink).close()
            (folder / "x.sqlite").chmod(0o444)
        folder.chmod(0o755 if os.geteuid() == 0 else 0o555)
        with without_rights(), pytest.raises(SinkRefused, match="cannot be used: (attempt to write|unable to open)"):
            make(path=str(folder / "x.sqlite")).open(ME)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("lacking", ["FTS5", "JSON functions"])
def test_a_sqlite_without_what_search_needs_is_refused_unless_nobody_wants_to_search(
    make: Make, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setattr(sink_module, "lacks", lambda connection: lacking)
    with pytest.raises(SinkRefused, match=f"was built without {lacking}.*search: false") as caught:
        make().open(ME)
    assert caught.value.exit_code == EXIT_SINK
    start(make(search=False))


def test_what_is_lacking_is_found_by_trying_it() -> None:
    class Poor:
        def __init__(self, says: str) -> None:
            self.says = says

        def execute(self, sql: str) -> None:
            if self.says in sql:
                raise sqlite3.OperationalError(f"no such module: {self.says}")

    assert lacks(Poor("fts5")) == "FTS5"  # type: ignore[arg-type]
    assert lacks(Poor("json_tree")) == "JSON functions"  # type: ignore[arg-type]
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        assert lacks(connection) is None


def test_a_name_that_sqlite_keeps_or_somebody_has_is_refused(make: Make, path: Path) -> None:
    sink = make()
    sink.open(ME)
    with pytest.raises(SinkRefused, match="begins with sqlite_"):
        sink.ensure([plan("sqlite_users")])
    ask(path, "CREATE TABLE users (a)")
    with pytest.raises(SinkRefused, match="holds a table users that is not ours"):
        sink.ensure([plan()])
    assert ask(path, "SELECT * FROM users") == []


def test_a_damaged_file_ends_the_run_with_a_sentence(make: Make, path: Path) -> None:
    sink = start(make())
    sink.write([put(str(number), "x" * 2000) for number in range(500)])
    sink.close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(size - 8192))
    again = make()
    with pytest.raises(SinkRefused, match="can be deleted; it is built again|cannot be used") as caught:
        again.open(ME)
        again.ensure([plan()])
        again.write([put(str(number)) for number in range(500)])
    assert caught.value.exit_code == EXIT_SINK


# -- writing ------------------------------------------------------------------------------------------------


def test_an_older_write_does_not_bring_back_a_deleted_document_after_a_restart_either(make: Make) -> None:
    sink = start(make())
    sink.write([put("1", version=1), gone("1", version=5), gone("7", version=5)])
    sink.close()
    again = make()
    again.open(ME)
    again.ensure([plan()])
    failures = again.write([put("1", version=4), put("7", version=4), put("2", version=4)])
    assert [(f.position, f.kind) for f in failures] == [(0, FailureKind.CONFLICT), (1, FailureKind.CONFLICT)]
    assert set(dict(again.scan("users"))) == {"2"} and again.count("users") == 1


def test_what_was_deleted_long_ago_is_forgotten(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = start(make())
    sink.write([put("1"), gone("1", 2), gone("2", 2), put("3")])
    sink.watch()
    assert ask(path, 'SELECT count(*) FROM "users.1"') == [(3,)]
    monkeypatch.setattr(sink_module, "TOMBSTONE_SECONDS", -1)
    sink.begin_build("users")
    sink.watch()
    assert ask(path, 'SELECT count(*) FROM "users.1"') == [(3,)], "not while a build may write something old"
    sink.write([gone("1", 2), gone("2", 2), put("3", version=2)])
    sink.complete_build("users")
    sink.watch()
    assert ask(path, 'SELECT id FROM "users.2"') == [("3",)] and sink.count("users") == 1


def test_a_document_too_deep_for_sqlite_is_rejected_and_its_neighbours_arrive(make: Make) -> None:
    sink = start(make())
    deep = b'{"name":"x","deep":' + b"[" * 5000 + b"]" * 5000 + b"}"
    failures = sink.write([put("1"), Write("users", "2", deep, 1), put("3"), put("1", "older", 0)])
    assert [(f.position, f.kind) for f in failures] == [(1, FailureKind.REJECTED)]
    assert set(dict(sink.scan("users"))) == {"1", "3"}
    assert [id for id, _ in sink.search("users", "older")] == ["1"], "version 0 leaves it to the order"


def test_a_number_of_more_digits_than_python_reads_is_read(make: Make) -> None:
    sink = start(make())
    sink.write([Write("users", "1", b'{"name":"x","n":%s}' % (b"7" * 5000), 1)])
    expected = {"name": "x", "n": Decimal("7" * 5000)}
    assert dict(sink.scan("users")) == {"1": expected} == dict(sink.search("users", "x"))
    assert sink.get_many("users", ["1"])["1"].document == expected


def test_writes_from_several_threads_all_arrive(make: Make) -> None:
    sink = start(make())
    errors: List[BaseException] = []

    def work(start: int) -> None:
        try:
            for number in range(start, start + 200, 20):
                assert list(sink.write([put(str(one)) for one in range(number, number + 20)])) == []
                sink.renew()
                sink.write_record(Record(confirmed=number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 800, 200)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        sink.begin_build("users")
        sink.watch()
    for thread in threads:
        thread.join()
    assert errors == [] and sink.count("users") == 800


def test_somebody_who_writes_for_long_is_waited_for_and_then_named(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "BUSY_SECONDS", 0.1)
    sink = start(make())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkUnavailable, match="another process has been writing") as caught:
            sink.write([put("1")])
        assert not caught.value.in_doubt
        assert sink.get("users", "1") is None and sink.count("users") == 0, "readers do not even wait"
        other.execute("ROLLBACK")
    assert list(sink.write([put("1")])) == []


# -- words --------------------------------------------------------------------------------------------------


def rich() -> IndexPlan:
    """Words everywhere: alone, in objects, joins of joins, lists, maps, aggregates, custom fields."""
    there = Table("public", "there")
    link, target = ChildLink(("x_id",)), TargetLink(("y_id",))
    inner = JoinField(
        "parts", "many_to_many", there, link, (ScalarField("code", "identifier", "code"), ScalarField("n", "long", "n"))
    )
    return IndexPlan(
        "rich",
        Table("public", "rich"),
        (
            ScalarField("id", "long", "id"),
            ScalarField("title", "text", "title"),
            ScalarField("status", "enum", "status", variants=("open", "shut")),
            ScalarField("tags", "keyword", "tags"),
            ScalarField("secret", "binary", "secret"),
            ScalarField("day", "date", "day"),
            ScalarField("labels", "map", "labels", values="text"),
            ScalarField("amounts", "map", "amounts", values="long"),
            ScalarField("mine", "custom", "mine", postgres=("text",), opensearch="keyword"),
            ScalarField("their", "custom", "their", postgres=("text",), opensearch="ip"),
            ConstantField("constant", "everywhere"),
            ObjectField("box", (ScalarField("inside", "keyword", "inside"),)),
            JoinField("owner", "belongs_to", there, target, (ScalarField("name", "text", "name"), inner)),
            JoinField("lines", "has_many", there, link, (ScalarField("note", "text", "note"), inner)),
            AggregateField("skus", "ids", there, link, column="sku", value_type="keyword"),
            AggregateField("many", "count", there, link),
        ),
        canonical="rich",
    )


RICH: Dict[str, Any] = {
    "id": 1,
    "title": "titular ÉLAN",
    "status": "opened",
    "tags": ["tagged", "re\nlined", None, ["deeper"]],
    "secret": "YmluYXJ5",
    "day": "2026-02-03",
    "labels": {"key": "labelled", "none": None},
    "amounts": {"key": 778899},
    "mine": "customised",
    "their": "addressed",
    "constant": "everywhere",
    "box": {"inside": "boxed"},
    "owner": {"name": "owned", "parts": [{"code": "AB-123", "n": 5}, None]},
    "lines": [{"note": "lined", "parts": [{"code": "deep/inside", "n": 6}]}, {"note": None, "parts": []}],
    "skus": ["sku1", "sku2"],
    "many": 3,
}


def test_texts_of_every_kind_are_found_at_any_depth_and_nothing_else(make: Make) -> None:
    sink = start(make(), rich(), plan("plain"))
    empty = {key: None for key in RICH}
    bodies = {"1": RICH, "2": empty, "3": {**empty, "owner": {"name": None, "parts": None}, "lines": []}}
    sink.write([Write("rich", id, json.dumps(body, ensure_ascii=False).encode(), 1) for id, body in bodies.items()])
    sink.write([Write("rich", "4", json.dumps({"title": "escaped \\ and \u00e9lan"}).encode(), 1)])
    found = [
        *["titular", "elan", "opened", "tagged", "lined", "deeper", "labelled", "customised", "boxed", "owned"],
        *["AB-123", "ab", "123", "deep/inside", "sku2", "note? lined!"],
    ]
    assert {word for word in found if "1" not in dict(sink.search("rich", word))} == set()
    other = ["YmluYXJ5", "2026", "778899", "addressed", "everywhere", "key", "5", "nlined", "title", "u00e9lan"]
    assert {word: sink.search("rich", word) for word in other if sink.search("rich", word)} == {}
    assert {id for id, _ in sink.search("rich", "élan")} == {"1", "4"}
    ((_, document),) = sink.search("rich", "boxed")
    assert document == RICH


def test_plain_words_mean_nothing_but_themselves(make: Make) -> None:
    sink = start(make())
    sink.write([put("1", 'say "hello" AND NOT near'), put("2", "c++ (really)"), put("3", "hello world hello")])
    for words in [
        '"',
        "'",
        "*",
        "AND",
        "NOT",
        "(",
        "name:",
        "^x",
        "a OR",
        "-",
        "+",
        "{}",
        "\0",
        "\ud800",
        "",
        " \n",
        "NEAR(",
    ]:
        sink.search("users", words)
    assert sink.search("users", '* - ( "') == []
    assert {id for id, _ in sink.search("users", '"hello')} == {"1", "3"}
    assert {id for id, _ in sink.search("users", "c++")} == {"2"}
    assert {id for id, _ in sink.search("users", "NOT")} == {"1"}
    assert {id for id, _ in sink.search("users", "name:hello")} == set(), "two words side by side, and nobody has them"
    assert {id for id, _ in sink.search("users", "hello\0really")} == {"1", "2", "3"}
    assert sink.search("users", "unheard of") == [] and sink.search("strangers", "hello") == []


def test_the_best_match_comes_first_and_no_more_than_asked_for(make: Make) -> None:
    sink = start(make())
    sink.write([put(str(number), "lamp for a desk") for number in range(10, 20)])
    sink.write([put("1", "blue lamp"), put("2", "blue blue blue whale of a very long description of the sea")])
    assert [id for id, _ in sink.search("users", "blue lamp", 1)] == ["1"]
    assert len(sink.search("users", "lamp", 5)) == 5


def test_a_star_at_the_end_of_a_word_stands_for_any_end(make: Make) -> None:
    sink = start(make())
    sink.write([put("1", "Grace Hopper"), put("2", "hop-on bus"), put("3", "a shop")])
    assert {id for id, _ in sink.search("users", "hop*")} == {"1", "2"}
    assert {id for id, _ in sink.search("users", "HOPP**")} == {"1"}
    assert {id for id, _ in sink.search("users", "hop")} == {"2"}, "without one, whole words alone"
    assert {id for id, _ in sink.search("users", 'hop"*')} == {"2"}
    assert {id for id, _ in sink.search("users", "*hop")} == {"2"}, "in front of a word it means nothing"


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_the_words_found_are_those_of_the_documents(make: Make, path: Path, seed: int) -> None:
    """Inserts, updates, deletes, refusals, builds and restarts at random, against the documents themselves."""
    draw = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(12)]
    sink = start(make())
    for round in range(30):
        request: List[Write] = []
        for _ in range(draw.randint(1, 12)):
            id, version = str(draw.randint(1, 15)), draw.randint(1, 6) + round // 3
            name = " ".join(draw.choices(vocabulary, k=draw.randint(0, 4)))
            request.append(gone(id, version) if draw.random() < 0.3 else put(id, name, version))
        sink.write(request)
        if draw.random() < 0.15:
            sink.begin_build("users")
        if draw.random() < 0.15:
            sink.complete_build("users")
        if draw.random() < 0.1:
            sink.close()
            sink = make()
            sink.open(ME)
            if not sink.ensure([plan()])[0].seeded:
                sink.begin_build("users")
        documents = dict(sink.scan("users"))
        for word in vocabulary:
            expected = {id for id, document in documents.items() if word in document["name"].split()}
            assert {id for id, _ in sink.search("users", word, 100)} == expected, (seed, round, word)


# -- deleted by hand ----------------------------------------------------------------------------------------


def test_a_dropped_view_is_put_back_and_a_dropped_word_table_is_rebuilt(make: Make, path: Path) -> None:
    sink = start(make())
    sink.write([put("1")])
    ask(path, "DROP VIEW users")
    assert sink.get("users", "1") is None and sink.search("users", "ada") == [] and dict(sink.scan("users")) == {}
    assert sink.watch() == []
    assert sink.get("users", "1") is not None
    ask(path, 'DROP TABLE "users.1.text"')
    with pytest.raises(SinkRefused, match="no full-text index"):
        sink.search("users", "ada")
    assert sink.watch() == ["users"]
    with pytest.raises(IndexMissing):
        sink.write([put("2")])


def test_a_table_dropped_while_it_is_built_is_not_completed(make: Make, path: Path) -> None:
    sink = start(make(), build=False)
    drop_tables(path, "users")
    with pytest.raises(IndexMissing):
        sink.write([put("1", build=True)])
    with pytest.raises(IndexMissing, match="vanished while it was built"):
        sink.complete_build("users")
    assert sink.watch() == ["users"]


@pytest.mark.parametrize("replace", [False, True], ids=["deleted", "replaced"])
def test_a_file_that_goes_while_we_run_is_noticed_before_anything_more_is_confirmed(
    make: Make, path: Path, replace: bool
) -> None:
    sink = start(make())
    sink.write([put("1")])
    path.unlink()
    if replace:
        path.touch()
    for attempt in (lambda: sink.write([put("2")]), lambda: sink.write_record(Record(confirmed=5)), sink.watch):
        with pytest.raises(IndexMissing, match="deleted or replaced while we run") as caught:
            attempt()
        assert caught.value.relay, "the pipeline is laid anew"
    sink.close()
    for leftover in (Path(f"{path}-wal"), Path(f"{path}-shm")):
        leftover.unlink(missing_ok=True)
    again = make()
    again.open(ME)
    assert again.read_record() is None and not again.ensure([plan()])[0].seeded


# -- the lease ------------------------------------------------------------------------------------------------


def test_an_adoption_forgets_what_the_former_owner_was_at(make: Make) -> None:
    sink = start(make(), build=False)
    sink.write_record(Record(confirmed=5))
    sink.save_progress("users", {"rows": 1})
    sink.write_job("a", {"cursor": None})
    sink.close()
    other = make()
    other.open(replace(ME, system_identifier="666"), adopt=True)
    assert other.read_record() is None and dict(other.jobs()) == {}
    assert [report.progress for report in other.ensure([plan()])] == [None]


def test_two_sinks_of_one_process_on_one_file_are_refused(make: Make) -> None:
    start(make())
    with pytest.raises(OwnerConflict, match="another sink of this process"):
        make().open(ME)


def python(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=str(CHECKOUT),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(script: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    process = python(script, *arguments)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


OPENED = """
import sys
from flusso_sync.sinks.sqlite.settings import SqliteSettings
from flusso_sync.sinks.sqlite.sink import SqliteSink
from flusso_sync.testing.sinks import ME, body, plan, put
from flusso_sync.sinks.base import Write
sink = SqliteSink("file", SqliteSettings(sys.argv[1]))
"""

WRITER = (
    OPENED
    + """
sink.open(ME)
sink.ensure([plan()])
sink.begin_build("users")
sink.complete_build("users")
print("held", flush=True)
round = 0
while True:
    round += 1
    if round % 40 == 0:
        # Another generation, complete with this round's documents.
        number = sink.begin_build("users")
        sink.write([put(str(id), f"round{round}", round, build=True) for id in range(50)])
        sink.complete_build("users")
    sink.write([put(str(id), f"round{round}", round) for id in range(50)])
    print(round, flush=True)
"""
)

READER = (
    OPENED
    + """
import time
print("reading", flush=True)
seen = set()
deadline = time.monotonic() + float(sys.argv[2])
reads = 0
while time.monotonic() < deadline:
    found = dict(sink.scan("users"))
    names = {document["name"] for document in found.values()}
    assert len(names) <= 1, names
    assert len(found) in (0, 50), len(found)
    seen |= names
    name = names.pop() if names else "none"
    assert sink.count("users") in (0, 50)
    assert len(sink.search("users", name, 100)) in (0, 50)
    assert seen == set() or sink.get("users", "7") is not None
    reads += 1
print(reads, len(seen), flush=True)
"""
)


def test_several_processes_read_while_another_writes_and_none_sees_half_a_request(path: Path) -> None:
    with running(WRITER, str(path)) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        with running(READER, str(path), "4") as one, running(READER, str(path), "4") as two:
            for reader in (one, two):
                assert reader.stdout is not None and reader.stdout.readline() == "reading\n"
            while one.poll() is None or two.poll() is None:
                assert writer.stdout.readline().strip().isdigit()
            for reader in (one, two):
                assert reader.returncode == 0 and reader.stdout is not None
                reads, rounds = map(int, reader.stdout.readline().split())
                assert reads >= 5 and rounds >= 3, (reads, rounds)


@pytest.mark.parametrize("pause", [0.1, 0.35, 0.8])
def test_kill_9_in_mid_write_loses_nothing_confirmed_and_keeps_no_half_request(
    make: Make, path: Path, pause: float
) -> None:
    with running(WRITER, str(path)) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        confirmed = [writer.stdout.readline()]
        reader = threading.Thread(target=lambda: confirmed.extend(writer.stdout or []))
        reader.start()
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        reader.join()
    last = max(int(line) for line in confirmed if line.endswith("\n"))
    sink = make()
    # The dead process is of this host, so nobody waits for its lease.
    wait_for(lambda: not refused(sink), message="the lease of a dead process is taken at once")
    sink.ensure([plan()])
    rounds = {document["name"] for document in dict(sink.scan("users")).values()}
    (only,) = rounds
    assert int(only[len("round") :]) >= last and sink.count("users") == 50
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert len(sink.search("users", only, 100)) == 50


def refused(sink: SqliteSink) -> bool:
    try:
        sink.open(ME)
    except SinkUnavailable:
        return True
    return False


def test_a_live_process_is_named_and_waited_for(make: Make, path: Path) -> None:
    with running(WRITER, str(path)) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "held\n"
        with pytest.raises(SinkUnavailable, match=f"process {writer.pid} ") as caught:
            make().open(ME)
        assert not caught.value.in_doubt
        request = Request("r1", "reindex", "users")
        make().post(request)
        assert make().requests() == [request], "others leave requests while it writes"


def test_requests_have_no_place_before_there_is_a_file(make: Make, path: Path) -> None:
    with pytest.raises(SinkRefused, match="no meta store"):
        make().post(Request("r1", "reindex", "users"))
    assert not path.exists()
    reader = make()
    assert reader.get("users", "1") is None and reader.count("users") == 0 and dict(reader.scan("users")) == {}
    assert reader.search("users", "x") == [] and dict(reader.generations()) == {} and list(reader.parked()) == []
    assert not path.exists(), "a read creates nothing"


def test_another_programs_file_is_not_read_as_ours(make: Make, path: Path) -> None:
    of_another_program(path)
    with pytest.raises(SinkRefused, match="another program"):
        make().count("users")
    path.unlink()
    not_a_database(path)
    with pytest.raises(SinkRefused, match="cannot be read"):
        make().count("users")


def test_a_full_quarantine_stops_and_keeps_what_it_has(make: Make) -> None:
    sink = start(make(quarantine_limit=2))
    sink.quarantine([Rejected("users", "1", "odd", 5), Rejected("users", "2", "odd", 6)])
    sink.quarantine([Rejected("users", "2", "odder", 7), Rejected("orders", "2", "odd", 7)])
    with pytest.raises(DocumentRejected, match="limit of 2 documents.*`flussod quarantine retry users`"):
        sink.quarantine([Rejected("orders", "3", "odd", 8), Rejected("users", "3", "odd", 8)])
    parked = {(p.index, p.id): (p.reason, p.lsn) for p in sink.parked()}
    assert parked.pop(("orders", "3")) == ("odd", 8), "whose place is not full"
    assert parked == {("users", "1"): ("odd", 5), ("users", "2"): ("odder", 7), ("orders", "2"): ("odd", 7)}


def test_an_index_that_was_never_ensured_is_an_error_of_the_caller(make: Make) -> None:
    with pytest.raises(SinkError, match="ensured"):
        start(make()).write([put("1", index="strangers")])


# -- no room, a bad disk ----------------------------------------------------------------------------------------


def fill(sink: SqliteSink) -> int:
    """Write until there is no room; returns how many requests of ten documents were confirmed."""
    for round in range(10_000):
        try:
            sink.write([put(str(round * 10 + number), "x" * 1000) for number in range(10)])
        except SinkBlocked as error:
            assert "no room left" in str(error) and not error.in_doubt
            return round
    raise AssertionError("it never filled up")


def test_no_room_in_the_file_is_waited_out_and_nothing_unsaved_is_confirmed(make: Make, path: Path) -> None:
    """SQLite's own limit of pages gives the error that a full disk gives."""
    sink = start(make())
    sink.write_record(Record(confirmed=1))
    connection = sink._file._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 150")
    confirmed = fill(sink)
    assert confirmed > 0
    with pytest.raises(SinkBlocked):
        for confirmed_lsn in range(2, 1000):
            sink.quarantine([Rejected("users", f"{confirmed_lsn}" * 100, "odd" * 100, 1)])
    assert sink.count("users") == confirmed * 10 and set(dict(sink.scan("users"))) == set(
        map(str, range(confirmed * 10))
    )
    assert len(sink.search("users", "x" * 1000, 10_000)) == confirmed * 10
    connection.execute("PRAGMA max_page_count = 1000000")
    assert list(sink.write([put("99999")])) == []
    assert sink.get("users", "99999") is not None
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_full_disk_is_waited_out_and_heals_when_there_is_room(make: Make, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "flusso-test", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a small tmpfs needs root and the right to mount; the test above stands in for a full disk")
    try:
        sink = start(make(path=str(mount / "x.sqlite")))
        ballast = mount / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        confirmed = fill(sink)
        with pytest.raises(SinkBlocked):
            sink.write([put("99999", "y" * 100_000)])
        assert sink.count("users") == confirmed * 10
        ballast.unlink()
        assert list(sink.write([put("99999", "y" * 100_000)])) == []
        assert sink.count("users") == confirmed * 10 + 1
        sink.close()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


LIMITED = (
    OPENED
    + """
import resource, signal
from flusso_sync.errors import SinkUnavailable
sink.open(ME)
sink.ensure([plan()])
sink.begin_build("users")
sink.complete_build("users")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
confirmed = 0
try:
    for round in range(1000):
        sink.write([put(str(round * 10 + number), "x" * 1000) for number in range(10)])
        confirmed += 10
except SinkUnavailable as error:
    assert "disk I/O error" in error.message and error.in_doubt, error
assert 0 < confirmed < 10_000
print("failed", sink.count("users") == confirmed, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert list(sink.write([put("99999")])) == []
print("healed", sink.count("users") == confirmed + 1, flush=True)
sink.close()
"""
)


def test_an_error_of_the_disk_is_waited_out_and_the_file_is_well_again(path: Path) -> None:
    """A limit on the size of files makes the write itself fail, as a bad disk does."""
    with running(LIMITED, str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "failed True\nhealed True\n"
        assert process.wait() == 0
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
