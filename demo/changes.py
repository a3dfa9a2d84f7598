"""What the page lets one change, and why documents change by it.

Each change is one statement on one table, as an application would make it.  Nothing here knows of documents: which of
them change, the daemon finds out, and the page asks ``flussod explain``'s question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple


class Unfit(Exception):
    """What was asked for is no change of this shop; the sentence is for people."""


@dataclass(frozen=True)
class Kind:
    """A statement that the page can make.

    ``statement`` takes ``parameters`` by name: ``id``, ``other`` (both ids) and ``value`` (text).  ``key`` names those
    that are the row's primary key in ``table``; ``because`` says what makes it worth a look.
    """

    title: str
    table: str
    statement: str
    key: Tuple[str, ...]
    because: str
    parameters: Tuple[str, ...] = ()


#: Most characters of a name or note.
LONGEST = 200

STATUSES = ("new", "paid", "shipped", "delivered", "cancelled")

KINDS: Mapping[str, Kind] = {
    "rename_user": Kind(
        "Rename a customer",
        "users",
        "UPDATE users SET name = %(value)s WHERE id = %(id)s",
        ("id",),
        "One row of users, shown in the customer's document and in every order of theirs: all of them are built anew. "
        "Code that indexes an order when the order is saved does not run here.",
        ("id", "value"),
    ),
    "rename_product": Kind(
        "Rename a product",
        "products",
        "UPDATE products SET name = %(value)s WHERE id = %(id)s",
        ("id",),
        "Two joins away from the orders that show it: from the product to its items, from those to their orders, found "
        "by one query for each step.",
        ("id", "value"),
    ),
    "set_price": Kind(
        "Change a price",
        "products",
        "UPDATE products SET price = %(value)s WHERE id = %(id)s",
        ("id",),
        "Only the product's document shows products.price. An order shows what was paid, which is items.price, and "
        "stays as it is.",
        ("id", "value"),
    ),
    "set_status": Kind(
        "Change a status",
        "orders",
        "UPDATE orders SET status = %(value)s WHERE id = %(id)s",
        ("id",),
        "The order's own row, which the customer's document lists, too.",
        ("id", "value"),
    ),
    "move_order": Kind(
        "Give an order to another customer",
        "orders",
        "UPDATE orders SET user_id = %(other)s WHERE id = %(id)s",
        ("id",),
        "Three documents: the order, the customer who has it now, and the one who had it. The new row names only the "
        "customer of now; for the other one the old row is needed, and by default Postgres does not send it.",
        ("id", "other"),
    ),
    "delete_order": Kind(
        "Delete an order",
        "orders",
        "DELETE FROM orders WHERE id = %(id)s",
        ("id",),
        "Its items and notes go with it (ON DELETE CASCADE): four tables, one commit. Its document goes; the "
        "customer's and each product's figures are counted anew.",
        ("id",),
    ),
    "move_item": Kind(
        "Move an item to another order",
        "items",
        "UPDATE items SET order_id = %(other)s WHERE id = %(id)s",
        ("id",),
        "Two orders: the one it came to, which the new row names, and the one it left, which only the old row names. "
        "Who reads new rows alone leaves a ghost of the item in the old order, until something else touches that.",
        ("id", "other"),
    ),
    "delete_item": Kind(
        "Delete an item",
        "items",
        "DELETE FROM items WHERE id = %(id)s",
        ("id",),
        "By default Postgres sends of a deleted row its primary key alone, and nobody can tell from items.id which "
        "order it was in. The daemon saw that at its first start and set the table's replica identity.",
        ("id",),
    ),
    "add_item": Kind(
        "Add an item",
        "items",
        "INSERT INTO items (order_id, product_id, quantity, price) "
        "SELECT %(id)s, id, 1, price FROM products WHERE id = %(other)s RETURNING id",
        ("id",),
        "A new row of a child table. The order is built anew, and the product's figures (timesOrdered, unitsSold) "
        "with it.",
        ("id", "other"),
    ),
    "remove_tag": Kind(
        "Remove a tag",
        "product_tags",
        "DELETE FROM product_tags WHERE product_id = %(id)s AND tag_id = %(other)s",
        ("id", "other"),
        "A row of a table that only joins two others is gone. Neither the product's row nor the tag's has changed.",
        ("id", "other"),
    ),
    "rename_tag": Kind(
        "Rename a tag",
        "tags",
        "UPDATE tags SET label = %(value)s WHERE id = %(id)s",
        ("id",),
        "One row, shown in every product that has the tag, by way of product_tags.",
        ("id", "value"),
    ),
    "delete_tag": Kind(
        "Delete a tag",
        "tags",
        "DELETE FROM tags WHERE id = %(id)s",
        ("id",),
        "Its rows of product_tags go with it (ON DELETE CASCADE), in one commit. Every product that had the tag is "
        "built anew, although no row says any more which those were.",
        ("id",),
    ),
    "add_note": Kind(
        "Write a note",
        "notes",
        "INSERT INTO notes (order_id, text) VALUES (%(id)s, %(value)s) RETURNING id",
        ("id",),
        "A new row of a child table, and its words are found at once.",
        ("id", "value"),
    ),
    "delete_note": Kind(
        "Delete a note",
        "notes",
        "DELETE FROM notes WHERE id = %(id)s",
        ("id",),
        "As with an item: only the old row says which order it was a note of.",
        ("id",),
    ),
    "truncate_notes": Kind(
        "TRUNCATE notes",
        "notes",
        "TRUNCATE notes",
        (),
        "TRUNCATE names no rows, and triggers FOR EACH ROW do not fire. The whole index orders is built anew beside "
        "the one that is read; readers move over in one step when it is complete.",
    ),
}


class Change(NamedTuple):
    """A kind with its values."""

    kind: str
    values: Mapping[str, Any]

    @property
    def what(self) -> Kind:
        return KINDS[self.kind]

    @property
    def inserts(self) -> bool:
        return self.what.statement.startswith("INSERT")

    @property
    def key(self) -> Optional[str]:
        """The row as in ids; None for one that is not there yet, and for all at once."""
        if self.inserts or not self.what.key:
            return None
        return ":".join(str(self.values[name]) for name in self.what.key)

    @property
    def text(self) -> str:
        """The statement with its values, for people."""
        shown = {name: _literal(value) for name, value in self.values.items()}
        return (self.what.statement % shown).replace(" RETURNING id", "")


def change(given: Any) -> Change:
    """The change that a request asks for; raises ``Unfit``."""
    if not isinstance(given, dict) or given.get("kind") not in KINDS:
        raise Unfit("there is no such change")
    name: str = given["kind"]
    values: Dict[str, Any] = {}
    for parameter in KINDS[name].parameters:
        value = given.get(parameter)
        if parameter == "value":
            values[parameter] = _value(name, value)
        else:
            text = str(value).strip()
            if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
                raise Unfit("an id is a number")
            values[parameter] = int(text)
    return Change(name, values)


def _value(name: str, given: Any) -> str:
    text = given.strip() if isinstance(given, str) else ""
    if name == "set_price":
        text = text.replace(",", ".")
        if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,2})?", text, re.ASCII):
            raise Unfit("a price is a number such as 39.90")
        return text
    if name == "set_status":
        if text not in STATUSES:
            raise Unfit(f"a status is one of {', '.join(STATUSES)}")
        return text
    if not text or "\0" in text:
        raise Unfit("write something first")
    if len(text) > LONGEST:
        raise Unfit(f"at most {LONGEST} characters")
    return text


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
