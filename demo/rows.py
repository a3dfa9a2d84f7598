"""The rows a document is made of, for the page to show and to change."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import psycopg
from psycopg.rows import dict_row

#: Rows shown of each table.
MOST_ROWS = 6

#: Index -> for each table: its name, and the query of its rows; ``%(id)s`` is the document's id.
QUERIES: Mapping[str, Sequence[Tuple[str, str]]] = {
    "orders": [
        ("orders", "SELECT id, user_id, status, total FROM orders WHERE id = %(id)s"),
        ("users", "SELECT u.id, u.name, u.city FROM users u JOIN orders o ON o.user_id = u.id WHERE o.id = %(id)s"),
        ("items", "SELECT id, order_id, product_id, quantity, price FROM items WHERE order_id = %(id)s ORDER BY id"),
        (
            "products",
            "SELECT id, name, price, stock FROM products"
            " WHERE id IN (SELECT product_id FROM items WHERE order_id = %(id)s) ORDER BY id",
        ),
        ("notes", "SELECT id, order_id, text FROM notes WHERE order_id = %(id)s ORDER BY id"),
    ],
    "users": [
        ("users", "SELECT id, name, city, email FROM users WHERE id = %(id)s"),
        (
            "orders",
            "SELECT id, user_id, status, total FROM orders WHERE user_id = %(id)s ORDER BY created_at DESC, id",
        ),
    ],
    "products": [
        ("products", "SELECT id, name, price, stock FROM products WHERE id = %(id)s"),
        (
            "product_tags",
            "SELECT product_id, tag_id, label FROM product_tags JOIN tags ON tags.id = tag_id"
            " WHERE product_id = %(id)s ORDER BY label",
        ),
        (
            "tags",
            "SELECT id, label FROM tags WHERE id IN (SELECT tag_id FROM product_tags WHERE product_id = %(id)s)"
            " ORDER BY label",
        ),
        ("items", "SELECT id, order_id, product_id, quantity, price FROM items WHERE product_id = %(id)s ORDER BY id"),
    ],
}


def rows_of(connection: "psycopg.Connection[Any]", index: str, id: int) -> List[Dict[str, Any]]:
    """Per table: ``table``, ``rows`` (values as text, None for null) and how many ``more`` there are."""
    tables = []
    with connection.cursor(row_factory=dict_row) as cursor:
        for table, query in QUERIES[index]:
            rows = cursor.execute(query, {"id": id}).fetchall()
            told = [{name: None if value is None else str(value) for name, value in row.items()} for row in rows]
            tables.append({"table": table, "rows": told[:MOST_ROWS], "more": max(0, len(told) - MOST_ROWS)})
    return tables


def neighbours(connection: "psycopg.Connection[Any]", index: str, id: int) -> Dict[str, int]:
    """Ids to begin with when something is moved: another order, another customer, some product."""
    queries = {
        "order": "SELECT id FROM orders WHERE id <> %(id)s ORDER BY id < %(id)s, id LIMIT 1",
        "user": "SELECT id FROM users WHERE id <> coalesce((SELECT user_id FROM orders WHERE id = %(id)s), 0)"
        " ORDER BY id < %(id)s, id LIMIT 1",
        "product": "SELECT id FROM products WHERE id NOT IN (SELECT product_id FROM items WHERE order_id = %(id)s)"
        " ORDER BY id LIMIT 1",
    }
    found = {}
    for name, query in queries.items():
        row = connection.execute(query, {"id": id}).fetchone()
        if row is not None:
            found[name] = int(row[0])
    return found
