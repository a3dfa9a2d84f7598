INSERT INTO people SELECT n, 'Person ' || n, (ARRAY['DE', 'f', NULL])[n % 3 + 1] FROM generate_series(1, 12) AS n;

INSERT INTO users
SELECT n, format('user%s@example.org', n), CASE WHEN n % 5 <> 0 THEN 'Ann Example ' || n END, n % 6 <> 0,
       CASE WHEN n % 9 = 0 THEN timestamptz '2024-03-01Z' END, timestamptz '2024-01-01 00:00:00.25Z' + n * interval '1 day',
       CASE WHEN n % 4 <> 0 THEN jsonb_build_object('theme', 'dark', 'size', n, 'nested', jsonb_build_object('a', ARRAY[n])) END
FROM generate_series(1, 30) AS n;

INSERT INTO addresses
SELECT n, n % 31 + 1, 'City ' || n % 7, n % 90 + 0.5, CASE WHEN n % 5 <> 0 THEN n % 180 - 0.25 END, n % 3 = 0
FROM generate_series(1, 60) AS n WHERE n % 31 + 1 <= 30;

INSERT INTO products
SELECT n, format('AB-%s/X', n), 'Product ' || n, CASE WHEN n % 3 <> 0 THEN 'says "it''s good"' || chr(10) || n END,
       n * 1.25, CASE WHEN n % 4 <> 0 THEN n * 0.5 END, n % 50, CASE WHEN n % 3 = 0 THEN ARRAY['new', 'tag ' || n] END,
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('en', 'Product ' || n, 'de', 'Produkt ' || n) END,
       date '2024-01-01' + n
FROM generate_series(1, 25) AS n;

INSERT INTO categories SELECT n, NULLIF(n / 3, 0), 'Category ' || n FROM generate_series(1, 12) AS n;
INSERT INTO product_categories SELECT DISTINCT n % 25 + 1, n * 7 % 12 + 1 FROM generate_series(1, 60) AS n;

INSERT INTO orders
SELECT n, n * 7 % 30 + 1, (ARRAY['new', 'paid', 'sent', 'cancelled'])[n % 4 + 1], (ARRAY['EUR', 'USD'])[n % 2 + 1],
       CASE WHEN n % 10 <> 0 THEN n * 3.5 END, NULLIF('note ' || n % 6, 'note 0'),
       timestamp '2024-02-01 10:00:00.5' + n * interval '7 hours'
FROM generate_series(1, 80) AS n;

INSERT INTO order_items
SELECT n, n * 11 % 80 + 1, n * 3 % 26 + 1, n % 5 + 1, n % 30 + 0.5 FROM generate_series(1, 160) AS n;

INSERT INTO articles
SELECT n, ' Title ' || n || ' ', NULLIF('AR-' || n % 9, 'AR-0'), (ARRAY['DE ', NULL, 'fr'])[n % 3 + 1],
       (ARRAY['draft', 'live', 'gone', 'live'])[n % 4 + 1], CASE WHEN n % 3 <> 0 THEN md5(n::text)::uuid END,
       timestamptz '2024-05-01 12:00:00Z' + n * interval '90 minutes', n * 0.125, n * 1.5,
       CASE WHEN n % 4 <> 0 THEN jsonb_build_object('k', n, 'deep', jsonb_build_object('x', true)) END,
       CASE WHEN n % 3 <> 0 THEN jsonb_build_object('en', 'a' || n) END,
       n * 1.5, CASE WHEN n % 5 <> 0 THEN n * 2.25 END,
       CASE WHEN n % 2 = 0 THEN jsonb_build_object('lat', n % 80, 'lon', n % 170) END,
       NULLIF('about ' || n % 4, 'about 0'), NULLIF(n % 13, 0), NULLIF(n % 8, 0),
       CASE WHEN n % 7 = 0 THEN timestamptz '2024-06-01Z' END, n % 14 = 0
FROM generate_series(1, 40) AS n;

INSERT INTO images SELECT n, n % 40 + 1, format('https://img.example/%s.png', n) FROM generate_series(1, 60) AS n;
INSERT INTO comments
SELECT n, n * 3 % 40 + 1, n % 13, 'comment ' || n, n % 6 = 0, CASE WHEN n % 9 <> 0 THEN timestamptz '2024-06-01 08:00:00Z' + n * interval '1 hour' END
FROM generate_series(1, 100) AS n;
INSERT INTO votes SELECT n, n % 44, NULLIF(n % 6, 0) FROM generate_series(1, 90) AS n;
INSERT INTO payments SELECT n, n % 44, n * 1.25, date '2023-12-15' + n * 7 FROM generate_series(1, 70) AS n;
INSERT INTO tags SELECT n, 'tag ' || n FROM generate_series(1, 15) AS n;
INSERT INTO article_tags SELECT n, n % 43, n * 7 % 16 FROM generate_series(1, 80) AS n;
