-- change: a new shelf, whose id needs escapes
INSERT INTO depot.shelf VALUES ('a:b%', 7, 'new', 1, 'k3', 'A', 1);

-- change: a row of a table of the same name in another schema
UPDATE public.shelf SET room = 'b:c';

-- change: one part of a composite key changes
UPDATE depot.shelf SET place = 70 WHERE room = 'A' AND place = 3;

-- change: the other part changes
UPDATE depot.shelf SET room = 'Z' WHERE room = 'A' AND place = 4;

-- change: a child moves by one of its two link columns
UPDATE "Old.Depot"."Crate" SET shelf_place = 2 WHERE "Id" IN (4, 8);

-- change: a child loses half of its link
UPDATE "Old.Depot"."Crate" SET shelf_room = NULL WHERE "Id" = 9;

-- change: a column whose name needs quotes
UPDATE "Old.Depot"."Crate" SET "weight kg" = 99.5 WHERE "Id" = 16;

-- change: the columns that name documents change
UPDATE depot.shelf SET barcode = 'changed:' || barcode WHERE room = 'b:c';

-- change: a referenced column that is not the key changes
UPDATE keeper SET code = 'k:one' WHERE id = 1;

-- change: a target found by another column than its key
UPDATE keeper SET name = 'Lou Renamed' WHERE code = 'k%2';

-- change: junction rows with a key of three columns
INSERT INTO keeper_crate VALUES ('k%2', 1, '2030-01-01'), ('k%2', 1, '2030-01-02');
DELETE FROM keeper_crate WHERE crate_id = 2;
UPDATE keeper_crate SET keeper_code = 'k3' WHERE crate_id = 3;

-- change: rows in partitions, old and new
INSERT INTO visit VALUES ('2024-06-01', 1, 'A', 1, 'one'), ('2024-06-01', 9, 'A', 1, 'nine'), ('2030-01-01', 1, 'A', 1, 'late');
UPDATE visit SET visitor = 'renamed' WHERE day = '2024-06-01';

-- change: a row moves from one partition to another
UPDATE visit SET day = '2023-06-01' WHERE day = '2024-06-01' AND nr = 1;

-- change: a row moves to another parent and another partition at once
UPDATE visit SET day = '2024-06-02', nr = 2, place = 2 WHERE day = '2030-01-01';

-- change: rows of one partition go
DELETE FROM visit_2023;

-- change: a shelf goes, its neighbour stays
DELETE FROM depot.shelf WHERE room = '50%' AND place = 1;
