"""Fault C6: tables that change their shape.  What nobody uses is ignored; an index whose column went stands still and
says so, keeps its documents, and is built anew once it fits again; the others never notice."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Sequence, Set

import pytest

from tests.deployment import Deployment
from tests.faults.conftest import Heals
from tests.fix_deployment import OWNER, MakeDeployment

pytestmark = [pytest.mark.pg, pytest.mark.opensearch, pytest.mark.fault]

EVERY = {"orders", "products", "users"}


class Drift(NamedTuple):
    """DDL, what undoes it, whom it concerns, and what the reason must name."""

    name: str
    break_it: str
    mend_it: str
    indexes: Set[str]
    named: Sequence[str]


DRIFTS = [
    Drift(
        "a column renamed",
        "ALTER TABLE items RENAME quantity TO amount",
        "ALTER TABLE items RENAME amount TO quantity",
        {"orders", "products"},
        ["public.items", "quantity"],
    ),
    Drift(
        "a column dropped",
        "ALTER TABLE users DROP COLUMN email",
        "ALTER TABLE users ADD COLUMN email text NOT NULL DEFAULT 'Gone@Example.org'",
        {"orders", "users"},
        ["public.users", "email"],
    ),
    Drift(
        "a link column of another type",
        "ALTER TABLE items ALTER product_id TYPE text",
        "ALTER TABLE items ALTER product_id TYPE integer USING product_id::integer",
        {"orders", "products"},
        ["public.items.product_id (text)", "public.products.id (integer)"],
    ),
    Drift(
        "a column that cannot be summed any more",
        "ALTER TABLE items ALTER price TYPE text",
        "ALTER TABLE items ALTER price TYPE numeric(10, 2) USING price::numeric",
        {"orders", "users"},
        ["public.items.price is text"],
    ),
    Drift(
        "a table renamed",
        "ALTER TABLE products RENAME TO former_products",
        "ALTER TABLE former_products RENAME TO products",
        {"orders", "products"},
        ["public.products", "does not exist"],
    ),
    Drift(
        "a primary key dropped",
        "ALTER TABLE products DROP CONSTRAINT products_pkey",
        "ALTER TABLE products ADD PRIMARY KEY (id)",
        {"orders", "products"},
        ["public.products", "primary key"],
    ),
    Drift(
        "a row-level policy turned on",
        "ALTER TABLE products ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "ALTER TABLE products DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
        {"orders", "products"},
        ["row-level security", "products"],
    ),
    Drift(
        "the right to read revoked",
        f"REVOKE SELECT ON products FROM {OWNER}",
        f"GRANT SELECT ON products TO {OWNER}",
        {"orders", "products"},
        ["may not read public.products"],
    ),
]

LIVE_CHANGES = """
    UPDATE users SET name = coalesce(name, '') || '!' WHERE id % 2 = 0;
    DELETE FROM items WHERE id % 5 = 0;
    INSERT INTO orders SELECT id + 700000, user_id, 'new', placed_at FROM orders WHERE id % 3 = 0;
"""


def drifted(deployment: Deployment) -> Set[str]:
    return {name for name, state in deployment.daemon.status()["indexes"].items() if state == "drifted"}


def wait_drifted(deployment: Deployment, indexes: Set[str]) -> Dict[str, Any]:
    states = {name: "drifted" if name in indexes else "seeded" for name in EVERY}
    return deployment.daemon.wait_for_status(
        lambda s: s["indexes"] == states and s["phase"] == "live", 90, f"{sorted(indexes)} stand still, alone"
    )


def wait_mended(deployment: Deployment) -> None:
    deployment.daemon.wait_for_status(
        lambda s: set(s["indexes"].values()) == {"seeded"} and s["phase"] == "live", 90, "built anew"
    )
    deployment.settle()
    deployment.assert_right()


@pytest.mark.parametrize("drift", DRIFTS, ids=[drift.name for drift in DRIFTS])
def test_what_does_not_fit_any_more_stands_still_alone_and_is_built_anew_once_it_fits(
    deploy: MakeDeployment, heals: Heals, drift: Drift
) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    before = {name: deployment.documents(name) for name in drift.indexes}
    # Changes on both sides of the DDL are in one backlog.
    deployment.database.execute("UPDATE items SET order_id = order_id + 1 WHERE id % 7 = 0 AND order_id < 10")
    deployment.database.execute(drift.break_it)
    if drift.break_it.startswith("REVOKE"):
        # Of rights only a read tells, and those before it may be over already.
        deployment.database.execute("UPDATE items SET order_id = order_id + 1 WHERE id % 7 = 1 AND order_id < 10")
    with heals("the others go on"):
        status = wait_drifted(deployment, drift.indexes)
    for name in drift.indexes:
        details = status["index_details"][name]
        assert all(word in details["reason"] for word in drift.named), details["reason"]
        assert details["todo"]
        (trouble,) = [t for t in status["trouble"] if t["key"] == f"drift {name}"]
        assert not trouble["blocking"] and details["reason"] in trouble["what"]
        metrics = daemon.get("/metrics")[1].replace(".0", "")
        assert f'flusso_index_state{{index="{name}",state="drifted"}} 1' in metrics
    assert daemon.get("/readyz")[0] == 200
    # The LSN moves on, the others get everything, and those that stand still keep every document they had.
    deployment.database.execute(LIVE_CHANGES)
    deployment.settle()
    others = EVERY - drift.indexes
    deployment.assert_right(*others)
    for name in drift.indexes:
        now = deployment.documents(name)
        assert now.keys() == before[name].keys()
    assert drifted(deployment) == drift.indexes
    # Nothing is laid anew while nothing changes.
    laid = daemon.log.count("phase is live")
    # When it is mended, those are built anew beside what is read, and nobody else.
    deployment.database.execute(drift.mend_it)
    with heals("built anew once it fits"):
        wait_mended(deployment)
    assert daemon.log.count("phase is live") == laid + 1, daemon.log_tail()
    assert not [t for t in daemon.status()["trouble"] if t["key"].startswith("drift")]
    for name in others:
        assert daemon.log.count(f"building index {name}:") == 1, daemon.log_tail()
    assert "Traceback" not in daemon.log, daemon.log_tail()


@pytest.mark.parametrize("drift", DRIFTS[:3], ids=[drift.name for drift in DRIFTS[:3]])
def test_a_drift_while_stopped_is_found_at_the_start_and_remembered_over_kills(
    deploy: MakeDeployment, drift: Drift
) -> None:
    deployment = deploy()
    daemon = deployment.start()
    deployment.settle()
    assert daemon.stop() == 0
    before = {name: deployment.documents(name) for name in drift.indexes}
    deployment.database.execute("UPDATE items SET order_id = order_id + 1 WHERE id % 7 = 0 AND order_id < 10")
    deployment.database.execute(drift.break_it)
    deployment.start()
    wait_drifted(deployment, drift.indexes)
    # What happens now, nobody will ever send again to those that stand still.
    deployment.database.execute(LIVE_CHANGES)
    deployment.settle()
    deployment.assert_right(*(EVERY - drift.indexes))
    assert all(deployment.documents(name).keys() == before[name].keys() for name in drift.indexes)
    daemon.kill()
    # Mended while nobody looks: the tables are as they were, and only the record knows what was missed.
    deployment.database.execute(drift.mend_it)
    deployment.start()
    wait_mended(deployment)
    for name in EVERY - drift.indexes:
        assert f"building index {name}:" not in daemon.log


UNUSED = [
    "ALTER TABLE items ADD COLUMN note text DEFAULT 'none'",
    "ALTER TABLE items ALTER note TYPE varchar(10)",
    "ALTER TABLE items RENAME note TO remark",
    "ALTER TABLE items DROP COLUMN remark",
]


@pytest.mark.parametrize("moment", ["live", "while stopped"])
def test_a_column_that_nobody_uses_is_nobodys_business(deploy: MakeDeployment, moment: str) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    for statement in UNUSED:
        if moment != "live":
            assert daemon.stop() == 0
        deployment.database.execute(statement)
        deployment.database.execute("UPDATE items SET quantity = quantity + 1 WHERE id % 3 = 0")
        if moment != "live":
            deployment.start(["frequent_watch"])
        deployment.settle()
        deployment.assert_right()
        if moment != "live":
            assert "building index" not in daemon.log
    if moment == "live":
        assert daemon.log.count("building index") == 3 and "WARNING" not in daemon.log, daemon.log_tail()


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("moment", ["live", "while stopped"])
@pytest.mark.parametrize("type_", ["bigint", "integer"], ids=["another type", "the same type"])
def test_a_type_that_the_plan_accepts_is_planned_anew_without_a_word_from_any_row(
    deploy: MakeDeployment, type_: str, moment: str, guarded: bool
) -> None:
    deployment = deploy()
    guards = ["frequent_watch"] + ([] if guarded else ["shapes_forgotten"])
    daemon = deployment.start(guards)
    deployment.settle()
    if moment != "live":
        assert daemon.stop() == 0
    # Every value is another one now, and not one row was in the stream.
    deployment.database.execute(f"ALTER TABLE items ALTER quantity TYPE {type_} USING quantity * 100")
    if moment != "live":
        deployment.start(guards)
        daemon.wait_until_live()
    if not guarded:
        deployment.settle()
        assert deployment.differences(), "the guard is off and no difference was found: the test proves nothing"
        return
    builds = 2 if moment == "live" else 1
    daemon.wait_for(
        lambda: all(daemon.log.count(f"building index {name}:") == builds for name in ("orders", "products")), 60
    )
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, 60)
    deployment.settle()
    deployment.assert_right()
    assert daemon.log.count("building index users:") == (1 if moment == "live" else 0)


def test_columns_that_change_names_with_each_other_are_noticed(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    told = daemon.log.count("building index products:")
    deployment.database.execute(
        "BEGIN; ALTER TABLE products RENAME sku TO other; ALTER TABLE products RENAME title TO sku;"
        " ALTER TABLE products RENAME other TO title; COMMIT"
    )
    daemon.wait_for(lambda: daemon.log.count("building index products:") > told, 60, "built anew")
    wait_mended(deployment)


def test_a_file_that_is_mended_after_a_rename_builds_its_index_beside_the_old_one(
    deploy: MakeDeployment, tmp_path: Any
) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    # A backlog under the old names, then the rename: the stream tells each change under the names of its time.
    assert daemon.stop() == 0
    deployment.database.execute("UPDATE items SET order_id = 2 WHERE order_id = 1; DELETE FROM items WHERE id % 4 = 0")
    deployment.database.execute("ALTER TABLE items RENAME order_id TO belongs_to_order")
    deployment.database.execute("UPDATE items SET belongs_to_order = 3 WHERE id % 6 = 1")
    mended = {}
    for name, path in deployment.case.indexes.items():
        file = tmp_path / f"{name}.schema.yml"
        file.write_text(path.read_text().replace("order_id", "belongs_to_order"))
        mended[name] = file
    # Each index of the file that knows the new name fits; one that does not is refused, for it never fitted.
    deployment.config["index"] = [{"name": name, "schema": str(path)} for name, path in mended.items()]
    wrong = mended["products"].read_text()
    mended["products"].write_text(wrong.replace("belongs_to_order", "no_such_column"))
    daemon = deployment.restart_anew()
    assert daemon.wait(60) == 3
    assert "no_such_column" in daemon.log and "public.items" in daemon.log
    mended["products"].write_text(wrong)
    daemon = deployment.restart_anew()
    daemon.wait_for_status(lambda s: set(s["indexes"].values()) == {"seeded"}, 90)
    deployment.settle()

    class Mended:
        indexes = mended

    deployment.case = Mended()  # type: ignore[assignment]
    deployment.assert_right()


def test_a_key_that_goes_does_not_refuse_the_applications_updates(deploy: MakeDeployment) -> None:
    deployment = deploy()
    daemon = deployment.start(["frequent_watch"])
    deployment.settle()
    deployment.database.execute("ALTER TABLE products DROP CONSTRAINT products_pkey")
    wait_drifted(deployment, {"orders", "products"})
    # Published without a key, it would refuse them.
    deployment.database.execute("UPDATE products SET title = title || '!'")
    deployment.database.execute("ALTER TABLE products ADD PRIMARY KEY (id)")
    wait_mended(deployment)
    assert "Traceback" not in daemon.log
