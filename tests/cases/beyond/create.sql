-- What reaches beyond flusso's schema language: composite keys, doc_id, names that need quotes, several database
-- schemas, partitions, links to other columns than the key.

CREATE SCHEMA depot;
CREATE SCHEMA "Old.Depot";

CREATE TABLE depot.shelf (
    room text NOT NULL,
    place integer NOT NULL,
    barcode varchar(20) NOT NULL UNIQUE,
    "Load" numeric,
    keeper_code text,
    neighbour_room text,
    neighbour_place integer,
    PRIMARY KEY (room, place)
);

-- Not the same table, whatever its name.
CREATE TABLE public.shelf (id integer PRIMARY KEY, room text);

CREATE TABLE "Old.Depot"."Crate" (
    "Id" bigint PRIMARY KEY,
    shelf_room text,
    shelf_place integer,
    "weight kg" real,
    UNIQUE ("Id", shelf_room)
);
CREATE INDEX ON "Old.Depot"."Crate" (shelf_room, shelf_place);

CREATE TABLE keeper (
    id integer PRIMARY KEY,
    code text NOT NULL UNIQUE,
    name text
);

CREATE TABLE keeper_crate (
    keeper_code text,
    crate_id bigint,
    since date NOT NULL,
    PRIMARY KEY (keeper_code, crate_id, since)
);
CREATE INDEX ON keeper_crate (crate_id);

CREATE TABLE visit (
    day date NOT NULL,
    nr integer NOT NULL,
    room text,
    place integer,
    visitor text,
    PRIMARY KEY (day, nr)
) PARTITION BY RANGE (day);
CREATE TABLE visit_2023 PARTITION OF visit FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE visit_2024 PARTITION OF visit FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (nr);
CREATE TABLE visit_2024_first PARTITION OF visit_2024 FOR VALUES IN (1, 2, 3);
CREATE TABLE depot.visit_2024_rest PARTITION OF visit_2024 DEFAULT;
CREATE TABLE visit_other PARTITION OF visit DEFAULT;
CREATE INDEX ON visit (room, place);
