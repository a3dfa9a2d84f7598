"""One sentence for each word of the schema language, for editors and for the manual.

Which keys there are is the language's own affair (``language.FIELD_KEYS`` and its neighbours); a test holds that each
of them, and nothing else, has its sentence here.
"""

from __future__ import annotations

from typing import Mapping

#: Type key -> what the field is.
KINDS: Mapping[str, str] = {
    "text": "Text that is searched by its words",
    "identifier": "A code such as ABC-123, found by its parts",
    "keyword": "Text that is compared as a whole",
    "enum": "One of a few words, sorted in the order of `variants`",
    "uuid": "A UUID",
    "boolean": "True or false",
    "short": "A smallint",
    "integer": "An integer",
    "long": "A bigint",
    "float": "A real",
    "double": "A double precision",
    "decimal": "A numeric or money, with every digit",
    "date": "A date",
    "timestamp": "A timestamp or a time of day, with or without time zone",
    "binary": "Bytes, as base64",
    "json": "A json or jsonb column, stored and not searched unless `options` say so",
    "map": "A json or jsonb column that is an object of values of one type",
    "geo": "A place: two columns (`lat`, `lon`), or one",
    "custom": "A column of any type, mapped as you say",
    "object": "Fields of the same row, one level deeper",
    "belongs_to": "The row that a column of this row points at: an object, or null",
    "has_one": "The first row that points at this row: an object, or null",
    "has_many": "The rows that point at this row: a list of objects",
    "many_to_many": "The rows that a junction table joins to this row: a list of objects",
    "count": "How many rows point at this row",
    "sum": "The sum over the rows that point at this row; null without any",
    "avg": "The average over the rows that point at this row, a double; null without any",
    "min": "The smallest value among the rows that point at this row; null without any",
    "max": "The largest value among the rows that point at this row; null without any",
    "ids": "The keys of the rows that point at this row, in their order",
    "constant": "The same value in every document",
}

#: Key of the file's top -> meaning.
TOP: Mapping[str, str] = {
    "version": "Version of the language: 1",
    "table": "The root table: one document for each of its rows; `schema.table` where it is elsewhere",
    "schema": "Database schema of every table that is named without one; default `public`",
    "primary_key": "Column or columns of the root's key; default: what the catalog says",
    "doc_id": "Column or columns the document's id is made of, unique and NOT NULL; default: the primary key",
    "soft_delete": "A marked row is no document",
    "filters": "A row that fails one of them is no document",
    "fields": "What stands in a document, in this order",
}

#: Key beside a type key -> meaning.
BESIDE: Mapping[str, str] = {
    "required": "The value is never null; `check` warns where the column may be",
    "column": "Column of the row; default: the field's name in lower case",
    "options": "Settings of the OpenSearch property; they win over ours",
    "transforms": "Done to a text, in this order",
    "default": "Stands for NULL",
    "variants": "The words, in the order they sort in",
    "postgres": "Types of Postgres the column may have",
    "opensearch": "Type of OpenSearch the property gets",
    "lat": "Column of the latitude; with `lon`",
    "lon": "Column of the longitude; with `lat`",
    "values": "What the object's values are",
    "fields": "What stands in it, in this order",
    "table": "The related table",
    "primary_key": "Key of the related table; default: what the catalog says",
    "foreign_key": "Column or columns of the related table that point at this row",
    "references": "What they point at, where that is not this row's primary key",
    "through": "The junction table that joins both",
    "filters": "Only related rows that pass all of them",
    "order_by": "Order of the related rows; ties by their key",
    "limit": "At most so many, from the first",
    "value_type": "Type of the result",
    "element_type": "Type of the keys",
    "value": "The value; any JSON",
}

#: Key of a junction -> meaning.
THROUGH: Mapping[str, str] = {
    "table": "The junction table",
    "left_key": "Its column or columns that point at this row",
    "right_key": "Its column or columns that point at the related row",
    "left_references": "What `left_key` points at, where that is not the primary key",
    "right_references": "What `right_key` points at, where that is not the primary key",
}

ORDER: Mapping[str, str] = {"column": "Column of the related table", "direction": "asc (default) or desc"}

SOFT_DELETE: Mapping[str, str] = {
    "column": "The mark: on when true, or anything but NULL in a column that is no boolean",
    "field": "Or the field whose column is the mark",
    "when": "The mark counts only where all of these hold",
}

FILTER: Mapping[str, str] = {
    "column": "Column of the row that is filtered",
    "op": "The comparison",
    "value": "What it is compared with",
    "raw": "A condition in SQL; in filters of the file's top the row is called `root`",
    "volatile": "Accept a condition that changes without any row changing; it stands outside the promises",
}
