-- For every type: born, moved to, changed and gone.

-- change: smallint: a new root row
INSERT INTO by_smallint VALUES ('8', 'new');

-- change: smallint: children move to it
UPDATE child_of_smallint SET key = '8' WHERE id IN (2, 4);

-- change: smallint: its key changes
UPDATE by_smallint SET key = '32767' WHERE key = '8';

-- change: smallint: and its children follow
UPDATE child_of_smallint SET key = '32767' WHERE key = '8';

-- change: smallint: a root row and a child go
DELETE FROM by_smallint WHERE key = '-32768';
DELETE FROM child_of_smallint WHERE id = 4;

-- change: bigint: a new root row
INSERT INTO by_bigint VALUES ('6', 'new');

-- change: bigint: children move to it
UPDATE child_of_bigint SET key = '6' WHERE id IN (2, 4);

-- change: bigint: its key changes
UPDATE by_bigint SET key = '9223372036854775807' WHERE key = '6';

-- change: bigint: and its children follow
UPDATE child_of_bigint SET key = '9223372036854775807' WHERE key = '6';

-- change: bigint: a root row and a child go
DELETE FROM by_bigint WHERE key = '-1';
DELETE FROM child_of_bigint WHERE id = 4;

-- change: text: a new root row
INSERT INTO by_text VALUES (' x ', 'new');

-- change: text: children move to it
UPDATE child_of_text SET key = ' x ' WHERE id IN (2, 4);

-- change: text: its key changes
UPDATE by_text SET key = ' ' WHERE key = ' x ';

-- change: text: and its children follow
UPDATE child_of_text SET key = ' ' WHERE key = ' x ';

-- change: text: a root row and a child go
DELETE FROM by_text WHERE key = 'a:b';
DELETE FROM child_of_text WHERE id = 4;

-- change: varchar: a new root row
INSERT INTO by_varchar VALUES ('a''b', 'new');

-- change: varchar: children move to it
UPDATE child_of_varchar SET key = 'a''b' WHERE id IN (2, 4);

-- change: varchar: its key changes
UPDATE by_varchar SET key = 'a\b' WHERE key = 'a''b';

-- change: varchar: and its children follow
UPDATE child_of_varchar SET key = 'a\b' WHERE key = 'a''b';

-- change: varchar: a root row and a child go
DELETE FROM by_varchar WHERE key = 'A';
DELETE FROM child_of_varchar WHERE id = 4;

-- change: char: a new root row
INSERT INTO by_char VALUES ('d', 'new');

-- change: char: children move to it
UPDATE child_of_char SET key = 'd' WHERE id IN (2, 4);

-- change: char: its key changes
UPDATE by_char SET key = 'ef' WHERE key = 'd';

-- change: char: and its children follow
UPDATE child_of_char SET key = 'ef' WHERE key = 'd';

-- change: char: a root row and a child go
DELETE FROM by_char WHERE key = 'ab';
DELETE FROM child_of_char WHERE id = 4;

-- change: citext: a new root row
INSERT INTO by_citext VALUES ('AD', 'new');

-- change: citext: children move to it
UPDATE child_of_citext SET key = 'AD' WHERE id IN (2, 4);

-- change: citext: its key changes
UPDATE by_citext SET key = 'ae' WHERE key = 'AD';

-- change: citext: and its children follow
UPDATE child_of_citext SET key = 'ae' WHERE key = 'AD';

-- change: citext: a root row and a child go
DELETE FROM by_citext WHERE key = 'Ab';
DELETE FROM child_of_citext WHERE id = 4;

-- change: uuid: a new root row
INSERT INTO by_uuid VALUES ('d0000000-0000-4000-8000-000000000001', 'new');

-- change: uuid: children move to it
UPDATE child_of_uuid SET key = 'd0000000-0000-4000-8000-000000000001' WHERE id IN (2, 4);

-- change: uuid: its key changes
UPDATE by_uuid SET key = 'e0000000-0000-4000-8000-000000000001' WHERE key = 'd0000000-0000-4000-8000-000000000001';

-- change: uuid: and its children follow
UPDATE child_of_uuid SET key = 'e0000000-0000-4000-8000-000000000001' WHERE key = 'd0000000-0000-4000-8000-000000000001';

-- change: uuid: a root row and a child go
DELETE FROM by_uuid WHERE key = 'A0000000-0000-4000-8000-000000000001';
DELETE FROM child_of_uuid WHERE id = 4;

-- change: boolean: a new root row
INSERT INTO by_boolean VALUES ('false', 'new');

-- change: boolean: children move to it
UPDATE child_of_boolean SET key = 'false' WHERE id IN (2, 4);

-- change: boolean: a root row and a child go
DELETE FROM by_boolean WHERE key = 'true';
DELETE FROM child_of_boolean WHERE id = 4;

-- change: bytea: a new root row
INSERT INTO by_bytea VALUES ('\xbe', 'new');

-- change: bytea: children move to it
UPDATE child_of_bytea SET key = '\xbe' WHERE id IN (2, 4);

-- change: bytea: its key changes
UPDATE by_bytea SET key = '\xef' WHERE key = '\xbe';

-- change: bytea: and its children follow
UPDATE child_of_bytea SET key = '\xef' WHERE key = '\xbe';

-- change: bytea: a root row and a child go
DELETE FROM by_bytea WHERE key = '\xdead';
DELETE FROM child_of_bytea WHERE id = 4;

-- change: date: a new root row
INSERT INTO by_date VALUES ('1999-12-31', 'new');

-- change: date: children move to it
UPDATE child_of_date SET key = '1999-12-31' WHERE id IN (2, 4);

-- change: date: its key changes
UPDATE by_date SET key = '2000-01-01' WHERE key = '1999-12-31';

-- change: date: and its children follow
UPDATE child_of_date SET key = '2000-01-01' WHERE key = '1999-12-31';

-- change: date: a root row and a child go
DELETE FROM by_date WHERE key = '2024-01-02';
DELETE FROM child_of_date WHERE id = 4;

-- change: time: a new root row
INSERT INTO by_time VALUES ('12:00', 'new');

-- change: time: children move to it
UPDATE child_of_time SET key = '12:00' WHERE id IN (2, 4);

-- change: time: its key changes
UPDATE by_time SET key = '12:00:00.5' WHERE key = '12:00';

-- change: time: and its children follow
UPDATE child_of_time SET key = '12:00:00.5' WHERE key = '12:00';

-- change: time: a root row and a child go
DELETE FROM by_time WHERE key = '03:04:05';
DELETE FROM child_of_time WHERE id = 4;

-- change: timetz: a new root row
INSERT INTO by_timetz VALUES ('13:00+01:30', 'new');

-- change: timetz: children move to it
UPDATE child_of_timetz SET key = '13:00+01:30' WHERE id IN (2, 4);

-- change: timetz: its key changes
UPDATE by_timetz SET key = '14:00-03' WHERE key = '13:00+01:30';

-- change: timetz: and its children follow
UPDATE child_of_timetz SET key = '14:00-03' WHERE key = '13:00+01:30';

-- change: timetz: a root row and a child go
DELETE FROM by_timetz WHERE key = '03:04:05+02';
DELETE FROM child_of_timetz WHERE id = 4;

-- change: timestamp: a new root row
INSERT INTO by_timestamp VALUES ('2025-01-01', 'new');

-- change: timestamp: children move to it
UPDATE child_of_timestamp SET key = '2025-01-01' WHERE id IN (2, 4);

-- change: timestamp: its key changes
UPDATE by_timestamp SET key = '2025-01-01 00:00:00.001' WHERE key = '2025-01-01';

-- change: timestamp: and its children follow
UPDATE child_of_timestamp SET key = '2025-01-01 00:00:00.001' WHERE key = '2025-01-01';

-- change: timestamp: a root row and a child go
DELETE FROM by_timestamp WHERE key = '2024-01-02 03:04:05.5';
DELETE FROM child_of_timestamp WHERE id = 4;

-- change: timestamptz: a new root row
INSERT INTO by_timestamptz VALUES ('2025-01-01 00:00+00', 'new');

-- change: timestamptz: children move to it
UPDATE child_of_timestamptz SET key = '2025-01-01 00:00+00' WHERE id IN (2, 4);

-- change: timestamptz: its key changes
UPDATE by_timestamptz SET key = '2025-01-01 00:00-11:30' WHERE key = '2025-01-01 00:00+00';

-- change: timestamptz: and its children follow
UPDATE child_of_timestamptz SET key = '2025-01-01 00:00-11:30' WHERE key = '2025-01-01 00:00+00';

-- change: timestamptz: a root row and a child go
DELETE FROM by_timestamptz WHERE key = '2024-01-02 03:04:05.5+02';
DELETE FROM child_of_timestamptz WHERE id = 4;

-- change: numeric: a new root row
INSERT INTO by_numeric VALUES ('12345678901234567890.10', 'new');

-- change: numeric: children move to it
UPDATE child_of_numeric SET key = '12345678901234567890.10' WHERE id IN (2, 4);

-- change: numeric: its key changes
UPDATE by_numeric SET key = '1e3' WHERE key = '12345678901234567890.10';

-- change: numeric: and its children follow
UPDATE child_of_numeric SET key = '1e3' WHERE key = '12345678901234567890.10';

-- change: numeric: a root row and a child go
DELETE FROM by_numeric WHERE key = '10.500';
DELETE FROM child_of_numeric WHERE id = 4;

-- change: label: a new root row
INSERT INTO by_label VALUES ('ü', 'new');

-- change: label: children move to it
UPDATE child_of_label SET key = 'ü' WHERE id IN (2, 4);

-- change: label: its key changes
UPDATE by_label SET key = 'a b' WHERE key = 'ü';

-- change: label: and its children follow
UPDATE child_of_label SET key = 'a b' WHERE key = 'ü';

-- change: label: a root row and a child go
DELETE FROM by_label WHERE key = 'z';
DELETE FROM child_of_label WHERE id = 4;

-- change: code: a new root row
INSERT INTO by_code VALUES ('C-4', 'new');

-- change: code: children move to it
UPDATE child_of_code SET key = 'C-4' WHERE id IN (2, 4);

-- change: code: its key changes
UPDATE by_code SET key = 'C-5' WHERE key = 'C-4';

-- change: code: and its children follow
UPDATE child_of_code SET key = 'C-5' WHERE key = 'C-4';

-- change: code: a root row and a child go
DELETE FROM by_code WHERE key = 'C-1';
DELETE FROM child_of_code WHERE id = 4;
