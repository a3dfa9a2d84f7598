-- One block per kind of change; each block is sent at once and is one transaction unless it says otherwise.
-- Blocks rely on the ones before them.

-- change: insert a root row
INSERT INTO specimen (nr, taxon_code, title, state, pieces) VALUES (1000, 's/1', '  new  ', 'shown', 3);

-- change: insert a root row that a filter hides
INSERT INTO specimen (nr, title, state) VALUES (1001, 'hidden', 'lost');

-- change: insert a root row with an extreme key
INSERT INTO specimen (nr, title, state) VALUES (-32768, 'lowest', 'draft'), (32767, 'highest', 'draft');

-- change: insert root rows with text keys that need care
INSERT INTO taxon (code, parent_code, rank, latin) VALUES
    (' leading blank', 'O', 'genus', 'Blancus'), ('a:b%c', 'O', 'genus', 'Signum'), ('🪲', 'O', 'genus', 'Emotus'),
    ('"quoted"', 'O', 'species', 'Citatus'), (E'new\nline', 'O', 'species', 'Ruptus');

-- change: update a root row
UPDATE specimen SET title = 'changed', price = 99.95, notes = '{"changed": true}', counts = '{9}' WHERE nr = 1000;

-- change: update many root rows in one statement
UPDATE specimen SET purity = purity / 2 WHERE nr BETWEEN 0 AND 30;

-- change: update a column that no index reads
UPDATE specimen SET unread = 'x' WHERE nr < 20;

-- change: update without any difference
UPDATE specimen SET title = title;

-- change: delete a root row
DELETE FROM specimen WHERE nr = 7;

-- change: delete a root row and insert it again in one transaction
BEGIN;
DELETE FROM taxon WHERE code = 's/2';
INSERT INTO taxon (code, parent_code, rank, latin) VALUES ('s/2', 'G-B', 'species', 'born again');
COMMIT;

-- change: insert and delete a row in one transaction
BEGIN;
INSERT INTO collector (id, name, joined_at, settings) VALUES ('c0000000-0000-4000-8000-0000000000ff', 'gone', '2020-01-01Z', '{}');
DELETE FROM collector WHERE id = 'c0000000-0000-4000-8000-0000000000ff';
COMMIT;

-- change: insert a direct child
INSERT INTO measurement (id, specimen_nr, kind, amount, ratio, taken_at, valid)
VALUES (1000, 1000, 'length', 1.5, 0.5, '2024-06-01Z', true), (900, 1000, 'Aaa', 9, 0.25, NULL, true);

-- change: insert a child before its parent
INSERT INTO loan (id, specimen_nr, borrower, due) VALUES (1000, 1002, 'early', '2024-07-01');

-- change: insert the parent of a waiting child
INSERT INTO specimen (nr, title, state) VALUES (1002, 'late', 'stored');

-- change: update a direct child
UPDATE measurement SET amount = 2.5, kind = 'width' WHERE id = 1000;

-- change: update many children of many parents
UPDATE measurement SET amount = amount + 0.001 WHERE id % 3 = 0;

-- change: delete a direct child
DELETE FROM measurement WHERE id = 1000;

-- change: delete the rows an aggregate rests on
DELETE FROM loan WHERE specimen_nr IN (10, 11, 12);

-- change: move a child to another parent
UPDATE measurement SET specimen_nr = 1000 WHERE id BETWEEN 30 AND 40;

-- change: move a child away from every parent
UPDATE measurement SET specimen_nr = NULL WHERE id = 33;

-- change: give a child without parent one
UPDATE loan SET specimen_nr = 1000 WHERE id = 21;

-- change: move a child there and back in one transaction
BEGIN;
UPDATE measurement SET specimen_nr = 3 WHERE id = 50;
UPDATE measurement SET specimen_nr = 4 WHERE id = 50;
UPDATE measurement SET specimen_nr = 5, amount = 77 WHERE id = 50;
COMMIT;

-- change: change the key of a child
UPDATE measurement SET id = 5000 WHERE id = 900;

-- change: change the key of a child and move it
UPDATE loan SET id = 5001, specimen_nr = 2 WHERE id = 5;

-- change: insert a grandchild
INSERT INTO reading (id, measurement_id, taken, amount) VALUES (5000, 5000, '12:00', 1), (5001, 5000, '12:01', 2);

-- change: update a grandchild
UPDATE reading SET amount = 3.25, taken = '11:00:00.5' WHERE id = 5000;

-- change: move a grandchild to another parent
UPDATE reading SET measurement_id = 75 WHERE id = 5000;

-- change: delete a grandchild
DELETE FROM reading WHERE id = 5001;

-- change: delete a child with its grandchildren by cascade
DELETE FROM measurement WHERE id IN (31, 140);

-- change: change the key of a child whose grandchildren follow by cascade
UPDATE measurement SET id = 5002 WHERE id = 66;

-- change: update a target of two documents' depths
UPDATE taxon SET latin = 'Carabus renamed' WHERE code = 'G-a';

-- change: update a target two hops away
UPDATE maker SET name = 'Maker renamed' WHERE id IN (1, 2);

-- change: insert a target that links already point at
INSERT INTO collector (id, name, joined_at, settings) VALUES ('c0000000-0000-4000-8000-000000000015', 'found', '2020-01-01Z', '{}');
INSERT INTO maker (id, name) VALUES (6, 'Maker F');

-- change: delete a target
DELETE FROM collector WHERE id = 'c0000000-0000-4000-8000-000000000009';

-- change: delete a target whose links are set null by constraint
DELETE FROM device WHERE serial = 'D:3%';

-- change: link to another target
UPDATE specimen SET collector_id = 'c0000000-0000-4000-8000-000000000002', taxon_code = '日本' WHERE nr IN (1, 2, 3);

-- change: link to no target
UPDATE specimen SET collector_id = NULL, taxon_code = NULL WHERE nr = 2;

-- change: link to a target that does not exist
UPDATE specimen SET collector_id = 'deadbeef-0000-4000-8000-000000000000' WHERE nr = 3;

-- change: change the key of a target whose links follow by cascade
UPDATE taxon SET code = 'O:F1%new' WHERE code = 'O:F1';

-- change: change the key of a target that links then miss
UPDATE maker SET id = 77 WHERE id = 3;

-- change: change the key of a root row with junction rows
UPDATE specimen SET nr = 2000 WHERE nr = 20;

-- change: exchange the keys of two root rows
BEGIN;
UPDATE specimen SET nr = -1000 WHERE nr = 21;
UPDATE specimen SET nr = 21 WHERE nr = 22;
UPDATE specimen SET nr = 22 WHERE nr = -1000;
COMMIT;

-- change: change the key of a uuid root row
UPDATE collector SET id = 'C0000000-0000-4000-8000-00000000ABCD' WHERE id = 'c0000000-0000-4000-8000-000000000005';

-- change: insert a junction row
INSERT INTO specimen_tag (specimen_nr, tag_id) VALUES (1000, 1), (1000, 2), (1000, 16), (1002, 6);

-- change: delete a junction row
DELETE FROM specimen_tag WHERE specimen_nr = 1000 AND tag_id = 1;

-- change: move junction rows on the left side
UPDATE specimen_tag SET specimen_nr = 1002 WHERE specimen_nr = 1000;

-- change: move a junction row on the right side
UPDATE specimen_tag SET tag_id = 3 WHERE specimen_nr = 1002 AND tag_id = 2;

-- change: insert, move and delete junction rows that have a key
INSERT INTO membership (id, collector_id, expedition_code, role)
VALUES (100, 'c0000000-0000-4000-8000-000000000002', 'X1:a', 'lead'), (101, NULL, 'X1:a', NULL);
UPDATE membership SET collector_id = 'c0000000-0000-4000-8000-000000000007' WHERE id IN (1, 101);
UPDATE membership SET expedition_code = 'X2:b' WHERE id = 2;
UPDATE membership SET expedition_code = NULL WHERE id = 3;
DELETE FROM membership WHERE id = 4;

-- change: change the key of a junction row
UPDATE membership SET id = 500 WHERE id = 5;
UPDATE membership SET id = id + 1000, role = 'cook', expedition_code = 'X2:b' WHERE id IN (6, 7);

-- change: update a related row behind a junction
UPDATE tag SET label = 'renamed:' || label, weight = 1 WHERE id IN (2, 3);
UPDATE expedition SET budget = 4999.99, starts = '2011-01-01' WHERE code = 'X6:f';

-- change: insert a related row that a junction waits for
INSERT INTO tag (id, label, weight) VALUES (16, 'awaited', 2);

-- change: delete related rows behind a junction
DELETE FROM tag WHERE id = 4;
DELETE FROM expedition WHERE code = 'X3:c';

-- change: root rows enter and leave the filtered set
UPDATE specimen SET state = 'lost' WHERE nr IN (4, 5);
UPDATE specimen SET state = 'shown' WHERE nr = 1001;
UPDATE specimen SET pieces = -100 WHERE nr = 8;

-- change: children enter and leave a filtered set
UPDATE measurement SET valid = NOT valid WHERE id % 4 = 0;
UPDATE tag SET hidden = NOT hidden WHERE id < 8;
UPDATE loan SET returned = CASE WHEN returned IS NULL THEN date '2025-01-01' END WHERE id % 2 = 0;

-- change: soft delete and undelete
UPDATE specimen SET removed_at = '2024-01-01Z' WHERE nr IN (13, 14, 15);
UPDATE specimen SET removed_at = NULL WHERE nr IN (6, 14);
UPDATE taxon SET extinct = NOT extinct WHERE code IN ('y', 's/3');

-- change: the condition of a soft delete changes
UPDATE specimen SET legal_hold = true WHERE nr = 13;
UPDATE specimen SET legal_hold = false WHERE removed_at IS NOT NULL AND nr > 15;
UPDATE collector SET retired = true, retired_reason = 'sabbatical' WHERE name LIKE '%1';
UPDATE collector SET retired_reason = 'age' WHERE name LIKE '%11';

-- change: a related row into another row's subtree
UPDATE taxon SET parent_code = 'G-B' WHERE code = 's/1';

-- change: a row related to itself
UPDATE taxon SET parent_code = code WHERE code = 'x';
UPDATE collector SET mentor_id = id WHERE id = 'c0000000-0000-4000-8000-000000000002';

-- change: delete a row that is root and related row at once
DELETE FROM taxon WHERE code = 'G-B';

-- change: text that JSON must escape
UPDATE specimen SET title = E'\u0001\u001f "\\ </script> \u2028 \U0001F600', marks = ARRAY[E'\n', '"', '\', '{', ',', '']
WHERE nr = 1000;
UPDATE collector SET name = E'\tÀé\r\n' WHERE id = 'c0000000-0000-4000-8000-000000000002';

-- change: from values to nulls everywhere
UPDATE specimen SET alias = NULL, shelf_mark = NULL, lang = NULL, preservation = NULL, pieces = NULL, weight_ug = NULL,
    length_mm = NULL, density = NULL, worth = NULL, digits = NULL, price = NULL, purity = NULL, fragile = NULL,
    found_on = NULL, registered_at = NULL, seen_at = NULL, opens = NULL, closes = NULL, dna = NULL, notes = NULL,
    extra = NULL, names = NULL, latitude = NULL, longitude = NULL, area = NULL, spot = NULL, address = NULL, age = NULL,
    marks = NULL, counts = NULL
WHERE nr IN (16, 17);

-- change: a value too long to lie within its row, then an update beside it
UPDATE specimen SET notes = to_json(repeat('long ', 20000)), dna = decode(repeat('00ff', 30000), 'hex') WHERE nr = 1002;
UPDATE specimen SET pieces = 8 WHERE nr = 1002;

-- change: parent, target, children and junction rows in one transaction
BEGIN;
INSERT INTO taxon (code, rank, latin) VALUES ('new', 'species', 'Nova');
INSERT INTO specimen (nr, taxon_code, collector_id, title, state)
VALUES (3000, 'new', 'c0000000-0000-4000-8000-00000000beef', 'all at once', 'shown');
INSERT INTO measurement (id, specimen_nr, kind, amount, valid, ratio, device_serial)
SELECT 6000 + n, 3000, 'k' || n, n, true, 1, 'D:1%' FROM generate_series(1, 6) AS n;
INSERT INTO reading (id, measurement_id, taken, amount) SELECT 6000 + n, 6000 + n, '01:00', n FROM generate_series(1, 6) AS n;
INSERT INTO collector (id, name, joined_at, settings)
VALUES ('c0000000-0000-4000-8000-00000000beef', 'newcomer', '2024-01-01Z', '{}');
INSERT INTO specimen_tag SELECT 3000, id FROM tag;
COMMIT;

-- change: a transaction that is rolled back
BEGIN;
UPDATE specimen SET title = 'never';
DELETE FROM measurement;
ROLLBACK;

-- change: savepoints, some rolled back
BEGIN;
UPDATE specimen SET title = 'kept' WHERE nr = 23;
SAVEPOINT a;
UPDATE specimen SET title = 'undone' WHERE nr = 24;
SAVEPOINT b;
DELETE FROM specimen WHERE nr = 25;
ROLLBACK TO a;
UPDATE measurement SET amount = 1234 WHERE id = 60;
SAVEPOINT c;
UPDATE measurement SET specimen_nr = 24 WHERE id = 61;
RELEASE c;
COMMIT;

-- change: the same row many times in one transaction
BEGIN;
UPDATE collector SET fee = 1 WHERE id = 'c0000000-0000-4000-8000-000000000007';
UPDATE collector SET fee = 2 WHERE id = 'c0000000-0000-4000-8000-000000000007';
UPDATE collector SET fee = 3, stipend = '12.5' WHERE id = 'c0000000-0000-4000-8000-000000000007';
COMMIT;

-- change: upserts
INSERT INTO specimen (nr, title, state) VALUES (26, 'upsert', 'draft'), (3001, 'upsert', 'draft')
ON CONFLICT (nr) DO UPDATE SET title = excluded.title;

-- change: delete a root row with children, then everything of one taxon
DELETE FROM specimen WHERE nr = 3000;
DELETE FROM specimen WHERE taxon_code = '日本';
