INSERT INTO region SELECT n, 'Region ' || n FROM generate_series(1, 6) AS n;

INSERT INTO "Sales Dept"."Customer"
SELECT 'C' || n, format('O''Brien & "Sons" %s', n), (enum_range(NULL::"Sales Dept"."Kind"))[n % 4], NULLIF('Code ' || n % 5, 'Code 0'),
       (n * 10.5)::numeric::money, (n % 16)::bit(4), CASE WHEN n % 3 <> 0 THEN ARRAY['+49 ' || n, NULL, '"x",{y}'] END,
       time '08:30' + n * interval '7 minutes' + interval '0.25 s', date '1999-12-25' + n, n, NULLIF(n % 7, 0)
FROM generate_series(1, 24) AS n;

INSERT INTO "Archive.2003"."Customer"
SELECT 'C' || n, 'Old ' || n, CASE WHEN n % 4 <> 0 THEN n * 0.0625 END, timestamp '2003-12-31 23:59:59' - n * interval '1 day'
FROM generate_series(1, 30) AS n;

INSERT INTO "Sales Dept"."Order"
SELECT n, CASE WHEN n % 11 <> 0 THEN 'C' || (n * 5 % 24 + 1) END, NULLIF('line 1' || chr(13) || chr(10) || n % 4, ''), n * 1.2345,
       timestamptz '2004-02-29 12:00:00.125+02' + n * interval '1 day', (ARRAY['a', 'B', NULL])[n % 3 + 1]::"char",
       ('08:00:2b:01:02:' || lpad(to_hex(n), 2, '0'))::macaddr, n * interval '1 hour 1 second', decode(lpad(to_hex(n), 4, '0'), 'hex')
FROM generate_series(1, 60) AS n;

INSERT INTO "Archive.2003"."Order" SELECT n, 'C' || n % 33, n * 0.25 FROM generate_series(1, 50) AS n;

INSERT INTO "Sales Dept"."Group;1" SELECT 'Group ' || n, 'Täg ' || n FROM generate_series(1, 7) AS n;

INSERT INTO "Sales Dept"."Customer_Group"
SELECT DISTINCT 'C' || n % 27, 'Group ' || n * 3 % 8, n % 4 FROM generate_series(1, 50) AS n
ON CONFLICT DO NOTHING;
