-- One root table and one child table for every type a key may have.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext') THEN
        CREATE EXTENSION IF NOT EXISTS citext;
    ELSE
        CREATE DOMAIN citext AS text;
    END IF;
END
$$;

CREATE TYPE label AS ENUM ('z', 'a:b', '%', 'ü', 'a b');
CREATE DOMAIN code AS varchar(10) CHECK (VALUE LIKE 'C-%');

CREATE TABLE by_smallint (key smallint PRIMARY KEY, note text);
CREATE TABLE child_of_smallint (id integer PRIMARY KEY, key smallint);
CREATE INDEX ON child_of_smallint (key);

CREATE TABLE by_bigint (key bigint PRIMARY KEY, note text);
CREATE TABLE child_of_bigint (id integer PRIMARY KEY, key bigint);
CREATE INDEX ON child_of_bigint (key);

CREATE TABLE by_text (key text PRIMARY KEY, note text);
CREATE TABLE child_of_text (id integer PRIMARY KEY, key text);
CREATE INDEX ON child_of_text (key);

CREATE TABLE by_varchar (key varchar(12) PRIMARY KEY, note text);
CREATE TABLE child_of_varchar (id integer PRIMARY KEY, key varchar(12));
CREATE INDEX ON child_of_varchar (key);

CREATE TABLE by_char (key char(6) PRIMARY KEY, note text);
CREATE TABLE child_of_char (id integer PRIMARY KEY, key char(6));
CREATE INDEX ON child_of_char (key);

CREATE TABLE by_citext (key citext PRIMARY KEY, note text);
CREATE TABLE child_of_citext (id integer PRIMARY KEY, key citext);
CREATE INDEX ON child_of_citext (key);

CREATE TABLE by_uuid (key uuid PRIMARY KEY, note text);
CREATE TABLE child_of_uuid (id integer PRIMARY KEY, key uuid);
CREATE INDEX ON child_of_uuid (key);

CREATE TABLE by_boolean (key boolean PRIMARY KEY, note text);
CREATE TABLE child_of_boolean (id integer PRIMARY KEY, key boolean);
CREATE INDEX ON child_of_boolean (key);

CREATE TABLE by_bytea (key bytea PRIMARY KEY, note text);
CREATE TABLE child_of_bytea (id integer PRIMARY KEY, key bytea);
CREATE INDEX ON child_of_bytea (key);

CREATE TABLE by_date (key date PRIMARY KEY, note text);
CREATE TABLE child_of_date (id integer PRIMARY KEY, key date);
CREATE INDEX ON child_of_date (key);

CREATE TABLE by_time (key time PRIMARY KEY, note text);
CREATE TABLE child_of_time (id integer PRIMARY KEY, key time);
CREATE INDEX ON child_of_time (key);

CREATE TABLE by_timetz (key timetz PRIMARY KEY, note text);
CREATE TABLE child_of_timetz (id integer PRIMARY KEY, key timetz);
CREATE INDEX ON child_of_timetz (key);

CREATE TABLE by_timestamp (key timestamp PRIMARY KEY, note text);
CREATE TABLE child_of_timestamp (id integer PRIMARY KEY, key timestamp);
CREATE INDEX ON child_of_timestamp (key);

CREATE TABLE by_timestamptz (key timestamptz PRIMARY KEY, note text);
CREATE TABLE child_of_timestamptz (id integer PRIMARY KEY, key timestamptz);
CREATE INDEX ON child_of_timestamptz (key);

CREATE TABLE by_numeric (key numeric PRIMARY KEY, note text);
CREATE TABLE child_of_numeric (id integer PRIMARY KEY, key numeric);
CREATE INDEX ON child_of_numeric (key);

CREATE TABLE by_label (key label PRIMARY KEY, note text);
CREATE TABLE child_of_label (id integer PRIMARY KEY, key label);
CREATE INDEX ON child_of_label (key);

CREATE TABLE by_code (key code PRIMARY KEY, note text);
CREATE TABLE child_of_code (id integer PRIMARY KEY, key code);
CREATE INDEX ON child_of_code (key);
