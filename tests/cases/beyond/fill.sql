INSERT INTO depot.shelf (room, place, barcode, "Load", keeper_code, neighbour_room, neighbour_place)
SELECT room, place, format('%s-%s', room, place), place * 10.5, (ARRAY['k:1', 'k%2', NULL])[place % 3 + 1],
       CASE WHEN place > 1 THEN room END, CASE WHEN place % 4 <> 0 THEN place - 1 END
FROM unnest(ARRAY['A', 'b:c', '50%', 'ü']) AS room, generate_series(1, 5) AS place;

INSERT INTO public.shelf VALUES (1, 'A');

INSERT INTO "Old.Depot"."Crate" ("Id", shelf_room, shelf_place, "weight kg")
SELECT n, (ARRAY['A', 'b:c', '50%', NULL])[n % 4 + 1], CASE WHEN n % 7 <> 0 THEN n % 5 + 1 END, n * 0.25
FROM generate_series(1, 40) AS n;

INSERT INTO keeper VALUES (1, 'k:1', 'Kim'), (2, 'k%2', 'Lou'), (3, 'k3', NULL);

INSERT INTO keeper_crate
SELECT (ARRAY['k:1', 'k%2', 'k3', 'nobody'])[n % 4 + 1], n % 45, date '2024-01-01' + n FROM generate_series(1, 60) AS n;

INSERT INTO visit
SELECT date '2023-10-01' + n * 11, n % 6 + 1, (ARRAY['A', 'ü', NULL])[n % 3 + 1], n % 5 + 1, 'visitor ' || n
FROM generate_series(1, 50) AS n;
