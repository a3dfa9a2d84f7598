"""The rows: those of ``examples/shop.sql``, and a few thousand more, the same on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import psycopg

SHOP = Path(__file__).resolve().parent.parent / "examples" / "shop.sql"

#: Draws a number below ``n``, or one of ``words``, from ``seed``: unlike random(), the same on every machine.
DRAW = """
CREATE FUNCTION pg_temp.draw(seed text, n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
    $$SELECT (('x' || left(md5(seed), 8))::bit(32)::bigint & 2147483647) % n$$;
CREATE FUNCTION pg_temp.pick(seed text, words text[]) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$SELECT words[1 + pg_temp.draw(seed, cardinality(words))]$$;
"""

#: In an order in which every row finds those it points to; ``%(users)s`` is how many users are added.
FILL = [
    """
INSERT INTO users (email, name, city, created_at)
SELECT lower(first) || i || '@example.com', first || ' ' || pg_temp.pick('last' || i,
           '{Hopper,Turing,Liskov,Shannon,Knuth,Allen,Lamarr,Rhodes,Noether,Franklin,Curie,Germain}'),
       pg_temp.pick('city' || i, '{Amsterdam,Berlin,Kraków,Lisbon,London,Lyon,Málaga,Oslo,Rotterdam,Turin,Wien}'),
       timestamptz '2024-01-01 00:00:00+00' + pg_temp.draw('created' || i, 63072000) * interval '1 second'
FROM generate_series(1, %(users)s::bigint) i, LATERAL (SELECT pg_temp.pick('first' || i,
     '{Ada,Alan,Barbara,Claude,Donald,Edsger,Frances,Grace,Hedy,Ida,John,Katherine,Lise,Mary,Niklaus}')) f (first)
""",
    """
INSERT INTO tags (label) VALUES
    ('kitchen'), ('garden'), ('bath'), ('bedroom'), ('sale'), ('new'), ('handmade'), ('large'), ('gift'), ('outdoor')
""",
    """
INSERT INTO products (sku, name, price, stock)
SELECT 'SKU-' || lpad(i::text, 5, '0'),
       initcap(pg_temp.pick('colour' || i, '{red,green,blue,black,white,grey,yellow,orange}')) || ' '
           || pg_temp.pick('stuff' || i, '{steel,oak,linen,glass,paper,copper,wool,clay}') || ' '
           || pg_temp.pick('thing' || i, '{lamp,chair,table,bowl,shelf,clock,kettle,mirror,blanket,vase}'),
       (199 + pg_temp.draw('price' || i, 30000)) / 100.0, pg_temp.draw('stock' || i, 500)
FROM generate_series(1, greatest(1, %(users)s::bigint * 2 / 5)) i
""",
    """
INSERT INTO product_tags (product_id, tag_id)
SELECT DISTINCT p.id, 1 + pg_temp.draw('tag' || p.id || n, 12) FROM products p, generate_series(1, 2) n
WHERE p.sku LIKE 'SKU-%%'
""",
    """
INSERT INTO orders (user_id, status, total, created_at)
SELECT 1 + pg_temp.draw('buyer' || i, %(users)s::bigint),
       pg_temp.pick('status' || i, '{new,paid,shipped,delivered,delivered,delivered,cancelled}')::order_status, 0,
       timestamptz '2025-01-01 00:00:00+00' + pg_temp.draw('placed' || i, 31536000) * interval '1 second'
FROM generate_series(1, %(users)s::bigint * 3) i
""",
    # Every order has one to three items, at the price that its product has now.
    """
INSERT INTO items (order_id, product_id, quantity, price)
SELECT o.id, p.id, 1 + pg_temp.draw('quantity' || o.id || n, 4), p.price
FROM orders o, LATERAL generate_series(1, 1 + pg_temp.draw('items' || o.id, 3)) n,
     LATERAL (SELECT 1 + pg_temp.draw('product' || o.id || n, (SELECT max(id) FROM products)) AS id) d
     JOIN products p USING (id)
WHERE o.id > 3
""",
    """
UPDATE orders o SET total = (SELECT sum(quantity * price) FROM items WHERE order_id = o.id) WHERE o.id > 3
""",
    """
INSERT INTO notes (order_id, text)
SELECT id, pg_temp.pick('note' || id, ARRAY['Please ring twice.', 'Leave it with the neighbours.',
       'A gift: no invoice.', 'Second floor, no lift.', 'Call before you come.', 'Behind the blue gate.'])
FROM orders WHERE id > 3 AND id %% 3 = 0
""",
]

TABLES = ("users", "orders", "items", "products", "notes", "tags", "product_tags")


def fill(connection: "psycopg.Connection[Any]", users: int, told: Callable[[int], None]) -> Dict[str, int]:
    """Create the tables and their rows in an empty database; returns rows by table.

    ``connection`` must be in autocommit.  ``told`` is called now and then with the rows so far.
    """
    written = 0
    with connection.transaction():
        connection.execute(SHOP.read_text(encoding="utf-8"))
        connection.execute(DRAW)
        for statement in FILL:
            cursor = connection.execute(statement, {"users": users})
            if "INSERT INTO" in statement:
                written += cursor.rowcount
                told(written)
    connection.execute("VACUUM ANALYZE")
    return count(connection)


def is_filled(connection: "psycopg.Connection[Any]") -> bool:
    """Whether an earlier run filled this database; that was one transaction."""
    row = connection.execute("SELECT to_regclass('public.product_tags') IS NOT NULL").fetchone()
    return bool(row and row[0])


def count(connection: "psycopg.Connection[Any]") -> Dict[str, int]:
    """Rows by table."""
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
    row = connection.execute(f"SELECT {counts}").fetchone()
    assert row is not None
    return dict(zip(TABLES, row))
