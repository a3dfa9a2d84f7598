-- Keys of collectors are readable: the number in the last twelve digits.

INSERT INTO taxon (code, parent_code, rank, latin, common, extinct, named_on) VALUES
    ('O', NULL, 'order', 'Coleoptera', 'beetles', false, '1758-01-01'),
    ('O:F1', 'O', 'family', 'Carabidae', 'ground beetles', false, '1802-01-01'),
    ('O:F2', 'O', 'family', 'Cerambycidae', NULL, false, '1802-12-31'),
    ('G-a', 'O:F1', 'genus', 'carabus', '  Carabus  ', false, NULL),
    ('G-B', 'O:F1', 'genus', 'Calosoma', 'caterpillar hunters', false, '1801-01-01'),
    ('G%3Ac', 'O:F2', 'genus', 'Cerambyx', E'tab\there', false, 'infinity'),
    ('s/1', 'G-a', 'species', 'Carabus auratus', 'golden ground beetle', false, '1761-06-01'),
    ('s/2', 'G-a', 'species', 'CARABUS OLYMPIAE', 'Olympia''s "beetle"', false, '1855-01-01'),
    ('s/3', 'G-B', 'species', 'Calosoma sycophanta', NULL, false, '1758-01-01'),
    ('s/ü', 'G%3Ac', 'species', 'Cerambyx cerdo', 'Großer Eichenbock', false, '1758-01-01'),
    ('日本', 'O:F2', 'species', 'Rosalia batesi', 'ルリボシカミキリ', false, '1873-01-01'),
    ('x', NULL, 'species', 'Incerta sedis', '', true, NULL),
    ('y', 'x', 'genus', 'incerta', NULL, true, '0044-03-15 BC'),
    ('back\slash', 'O', 'genus', 'Obliquus', E'line\nbreak', false, NULL);

INSERT INTO collector (id, name, initials, mentor_id, retired, retired_reason, joined_at, fee, stipend, settings)
SELECT format('c0000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid,
       (ARRAY['Ada', 'ben', 'Çelik', 'Đorđe', 'Émile', 'ada'])[n % 6 + 1] || ' ' || n,
       CASE WHEN n % 5 <> 0 THEN substr('ABCDEFGHIJKLMNOP', n, 1 + n % 3) END,
       CASE WHEN n > 3 THEN format('c0000000-0000-4000-8000-%s', lpad((n / 3)::text, 12, '0'))::uuid END,
       CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN n % 8 = 1 ELSE false END,
       CASE n % 3 WHEN 0 THEN 'age' WHEN 1 THEN 'sabbatical' END,
       timestamptz '2001-03-25 01:30:00+01' + n * interval '37 days 5 hours 0.125 seconds',
       CASE WHEN n % 6 <> 0 THEN n * 12.3456 END,
       (n * 100.5)::numeric::money,
       jsonb_build_object('theme', 'dark', 'n', n)
FROM generate_series(1, 14) AS n;

INSERT INTO specimen (
    nr, taxon_code, collector_id, ext_id, title, alias, shelf_mark, lang, state, preservation, pieces, weight_ug,
    length_mm, density, worth, digits, price, purity, fragile, found_on, registered_at, seen_at, opens, closes, dna,
    notes, extra, names, latitude, longitude, area, spot, address, age, marks, counts, removed_at, legal_hold
)
SELECT n - 5,
       (ARRAY['O', 'O:F1', 'G-a', 'G%3Ac', 's/1', 's/2', 's/ü', '日本', 'x', NULL])[n % 10 + 1],
       -- Some collectors do not exist.
       CASE WHEN n % 7 <> 0
            THEN format('c0000000-0000-4000-8000-%s', lpad((n % 17 + 1)::text, 12, '0'))::uuid END,
       CASE WHEN n % 3 <> 0 THEN format('E%s', lpad(to_hex(n), 7, '0') || '-AAAA-4BBB-8CCC-DDDDDDDDDDDD')::uuid END,
       (ARRAY['  padded  ', 'Plain', E'with "quotes" and \\', E'two\nlines\tand tab', 'ünïcödé ☃ 🪲', '日本語'])[n % 6 + 1]
           || n,
       (ARRAY['Alpha', 'ALPHA', 'beta', NULL])[n % 4 + 1],
       CASE WHEN n % 9 <> 0 THEN format('SM-%s/%s', n, n % 4) END,
       (ARRAY['en', 'DE', 'jpn', NULL, 'f'])[n % 5 + 1],
       (ARRAY['shown', 'stored', 'draft', 'lost'])[n % 4 + 1]::specimen_state,
       (ARRAY['dry', ' WET ', 'Pinned', NULL, ''])[n % 5 + 1],
       CASE WHEN n % 8 <> 0 THEN n * 3 - 20 END,
       9007199254740993 + n,
       (ARRAY['0.1', '-0', '1e10', '3.4028235e38', 'NaN', NULL, '1.17549435e-38'])[n % 7 + 1]::real,
       (ARRAY['0.1', '1e22', 'Infinity', NULL, '-1.5e-300', '123456789.12345679'])[n % 6 + 1]::double precision,
       n * 1000.125 - 7,
       (ARRAY[123456789012345678901234567890.5, 42.5000, 2, 'NaN', 0.00000000000000000001, NULL])[n % 6 + 1]::numeric,
       (n * 12.34)::numeric::money,
       n * 1.25,
       (ARRAY[true, false, NULL])[n % 3 + 1],
       (ARRAY['2024-02-29', '1999-12-31', NULL, '-infinity', '0001-01-01', '9999-12-31'])[n % 6 + 1]::date,
       (ARRAY['2024-03-31 02:30:00.123456+02', '1969-12-31 23:59:59.999-11:30', 'infinity', NULL,
              '2000-01-01 00:00:00+00', '0044-03-15 12:00:00+00 BC', '10001-01-01 00:00:00+00'])[n % 7 + 1]::timestamptz,
       (ARRAY['2024-01-02 03:04:05.5', '2024-01-02 03:04:05', NULL, '1583-10-15 00:00:00'])[n % 4 + 1]::timestamp,
       (ARRAY['03:04:05', '23:59:59.999999', NULL, '00:00:00'])[n % 4 + 1]::time,
       (ARRAY['03:04:05+02', '23:30:00-05:30', NULL, '00:00:00.5+00'])[n % 4 + 1]::timetz,
       CASE WHEN n % 4 <> 0 THEN decode(repeat(lpad(to_hex(n % 256), 2, '0'), n * 2), 'hex') END,
       (ARRAY['{"b": 1, "a": [1, 2.50, null, "x"], "b": 2}', '[1, {"deep": {"er": true}}]', '"text"', 'null', '1e400',
              NULL, '{"big": 12345678901234567890123, "tiny": 0.12345678901234567890, "esc": "\u00fc\n\"\\"}',
              '   true  '])[n % 8 + 1]::json,
       CASE WHEN n % 4 <> 0
            THEN jsonb_build_object('grade', n % 5, 'by', jsonb_build_object('name', 'n' || n), 'list', '[1, 2]'::jsonb)
       END,
       CASE WHEN n % 5 <> 0 THEN jsonb_build_object('en', 'beetle ' || n, 'de', 'Käfer ' || n) END,
       CASE WHEN n % 6 <> 0 THEN n * 0.7 - 20.000000000000004 END,
       CASE WHEN n % 7 <> 0 THEN n * 1.123456 END,
       CASE WHEN n % 5 <> 0 THEN jsonb_build_object('lat', n % 90, 'lon', -n + 0.125) END,
       CASE WHEN n % 4 <> 0 THEN format('%s.5,%s', n % 80, n) END,
       (ARRAY['10.0.0.1', '2001:db8::1', NULL])[n % 3 + 1]::inet,
       (ARRAY['1 year 2 days', '-03:00:00', NULL])[n % 3 + 1]::interval,
       (ARRAY['{a,"b c",NULL,"q\"\\,{}"}', '{}', NULL, '{ü}'])[n % 4 + 1]::text[],
       (ARRAY['{1,-2,NULL}', NULL, '[0:1]={5,6}'])[n % 3 + 1]::integer[],
       CASE WHEN n % 11 = 0 THEN timestamptz '2023-01-01 00:00:00+00' END,
       n % 22 = 0
FROM generate_series(1, 60) AS n;

INSERT INTO maker (id, name) SELECT n, 'Maker ' || chr(64 + n) FROM generate_series(1, 5) AS n;

INSERT INTO device (serial, maker_id, calibrated_on)
SELECT format('D:%s%%', n), CASE WHEN n % 4 <> 0 THEN n % 6 + 1 END, date '2020-01-01' + n
FROM generate_series(1, 12) AS n;

INSERT INTO measurement (id, specimen_nr, device_serial, kind, amount, ratio, score, steps, taken_at, valid)
SELECT n, CASE WHEN n % 19 <> 0 THEN n * 7 % 65 - 4 END,
       CASE WHEN n % 3 <> 0 THEN format('D:%s%%', n % 12 + 1) END,
       (ARRAY['length', 'Weight', 'test', 'lux_1', 'luxa1', '100%', NULL])[n % 7 + 1],
       CASE WHEN n % 13 <> 0 THEN n * 1.1 - 20 END,
       n * 0.25, CASE WHEN n % 5 <> 0 THEN n * 0.5 - 3 END, CASE WHEN n % 6 <> 0 THEN n - 30 END,
       CASE WHEN n % 10 <> 0 THEN timestamptz '2024-01-01 00:00:00+00' + (n % 23) * interval '1 hour' END,
       (ARRAY[true, true, true, false, NULL])[n % 5 + 1]
FROM generate_series(1, 200) AS n;

INSERT INTO reading (id, measurement_id, taken, amount)
SELECT n, CASE WHEN n % 29 <> 0 THEN n * 3 % 200 + 1 END, time '08:00' + (n % 50) * interval '90 seconds',
       CASE WHEN n % 9 <> 0 THEN n * 0.001 END
FROM generate_series(1, 260 * coalesce(nullif(current_setting('flusso.scale', true), ''), '1')::integer) AS n;

INSERT INTO loan (id, specimen_nr, borrower, due, returned, fee)
SELECT n, n * 11 % 63 - 4, 'museum ' || n, CASE WHEN n % 4 <> 0 THEN date '2024-01-01' + n % 9 END,
       CASE WHEN n % 3 = 0 THEN date '2024-02-01' + n END, CASE WHEN n % 5 <> 0 THEN n * 2.5 END
FROM generate_series(1, 70) AS n;

INSERT INTO tag (id, label, weight, hidden)
SELECT n, (ARRAY['red', 'Red', 'rare', 'type', 'holo:type'])[n % 5 + 1] || n, CASE WHEN n % 4 <> 0 THEN n * 5 END, n % 6 = 0
FROM generate_series(1, 14) AS n;

-- Tags 15 and 16 do not exist.
INSERT INTO specimen_tag (specimen_nr, tag_id)
SELECT DISTINCT n % 50 - 4, n * 5 % 16 + 1 FROM generate_series(1, 130) AS n;

INSERT INTO expedition (code, name, starts, budget, days)
SELECT format('X%s:%s', n, chr(96 + n)), 'Expedition ' || n, date '2010-01-01' + 100 * n, n * 1000.50, n * 7
FROM generate_series(1, 7) AS n;

INSERT INTO membership (id, collector_id, expedition_code, role)
SELECT n, CASE WHEN n % 9 <> 0 THEN format('c0000000-0000-4000-8000-%s', lpad((n % 15 + 1)::text, 12, '0'))::uuid END,
       CASE WHEN n % 8 <> 0 THEN format('X%s:%s', n % 8 + 1, chr(97 + n % 8)) END,
       (ARRAY['lead', 'cook', NULL])[n % 3 + 1]
FROM generate_series(1, 45) AS n;
