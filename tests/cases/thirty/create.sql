-- A natural history collection: smallint, text and uuid keys, an ENUM, citext, a domain, self-relations,
-- junctions with and without a key of their own, links with and without a constraint.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext') THEN
        CREATE EXTENSION IF NOT EXISTS citext;
    ELSE
        CREATE DOMAIN citext AS text;
    END IF;
END
$$;

-- Neither order of labels is the alphabet's.
CREATE TYPE taxon_rank AS ENUM ('species', 'genus', 'family', 'order');
CREATE TYPE specimen_state AS ENUM ('shown', 'stored', 'draft', 'lost');
CREATE DOMAIN percentage AS numeric(5, 2) CHECK (VALUE BETWEEN 0 AND 100);

CREATE TABLE taxon (
    code text PRIMARY KEY,
    parent_code text REFERENCES taxon ON UPDATE CASCADE ON DELETE SET NULL,
    rank taxon_rank NOT NULL,
    latin citext NOT NULL,
    common varchar(80),
    extinct boolean NOT NULL DEFAULT false,
    named_on date
);

CREATE TABLE collector (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    initials char(4),
    mentor_id uuid,
    retired boolean,
    retired_reason text,
    joined_at timestamptz NOT NULL,
    fee numeric(12, 4),
    stipend money,
    settings jsonb
);

CREATE TABLE specimen (
    nr smallint PRIMARY KEY,
    taxon_code text REFERENCES taxon ON UPDATE CASCADE ON DELETE SET NULL,
    collector_id uuid,
    ext_id uuid,
    title text NOT NULL,
    alias citext,
    shelf_mark varchar(40),
    lang char(3),
    state specimen_state NOT NULL,
    preservation text,
    pieces integer,
    weight_ug bigint,
    length_mm real,
    density double precision,
    worth numeric(14, 3),
    digits numeric,
    price money,
    purity percentage,
    fragile boolean,
    found_on date,
    registered_at timestamptz,
    seen_at timestamp(3),
    opens time,
    closes timetz,
    dna bytea,
    notes json,
    extra jsonb,
    names jsonb,
    latitude double precision,
    longitude numeric(9, 6),
    area jsonb,
    spot text,
    address inet,
    age interval,
    marks text[],
    counts integer[],
    removed_at timestamptz,
    legal_hold boolean NOT NULL DEFAULT false,
    -- An update may concern a column that no index reads.
    unread text,
    thousandfold bigint GENERATED ALWAYS AS (pieces * 1000::bigint) STORED
);
CREATE INDEX ON specimen (taxon_code);
CREATE INDEX ON specimen (collector_id);

CREATE TABLE maker (
    id smallint PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE device (
    serial text PRIMARY KEY,
    maker_id smallint,
    calibrated_on date
);

CREATE TABLE measurement (
    id bigint PRIMARY KEY,
    specimen_nr smallint,
    device_serial text REFERENCES device ON UPDATE CASCADE ON DELETE SET NULL,
    kind text,
    amount numeric,
    ratio real,
    score double precision,
    steps integer,
    taken_at timestamptz,
    valid boolean
);
CREATE INDEX ON measurement (specimen_nr);
CREATE INDEX ON measurement (device_serial);

CREATE TABLE reading (
    id bigint PRIMARY KEY,
    measurement_id bigint REFERENCES measurement ON UPDATE CASCADE ON DELETE CASCADE,
    taken time,
    amount numeric
);
CREATE INDEX ON reading (measurement_id);

CREATE TABLE loan (
    id integer PRIMARY KEY,
    specimen_nr smallint,
    borrower text NOT NULL,
    due date,
    returned date,
    fee numeric(8, 2)
);
CREATE INDEX ON loan (specimen_nr);

CREATE TABLE tag (
    id integer PRIMARY KEY,
    label text NOT NULL,
    weight smallint,
    hidden boolean NOT NULL DEFAULT false
);

-- A junction whose key is its two links.
CREATE TABLE specimen_tag (
    specimen_nr smallint NOT NULL REFERENCES specimen ON UPDATE CASCADE ON DELETE CASCADE,
    tag_id integer NOT NULL,
    PRIMARY KEY (specimen_nr, tag_id)
);
CREATE INDEX ON specimen_tag (tag_id);

CREATE TABLE expedition (
    code varchar(20) PRIMARY KEY,
    name text NOT NULL,
    starts date,
    budget numeric(12, 2),
    days integer
);

-- A junction with a key of its own: the same two may meet twice, and either side may be missing.
CREATE TABLE membership (
    id integer PRIMARY KEY,
    collector_id uuid,
    expedition_code varchar(20),
    role text
);
CREATE INDEX ON membership (collector_id);
CREATE INDEX ON membership (expedition_code);
