INSERT INTO tenant VALUES (1, 'One', 'small'), (2, 'Two', 'large'), (3, 'Three:%', 'large'), (4, 'Nobody', 'small');

INSERT INTO account
SELECT t, n, format('Account %s of %s', n, t), n * 12.5, NULLIF(n % 4, 0), CASE WHEN n % 7 = 0 THEN timestamptz '2024-04-01Z' END
FROM generate_series(1, 3) AS t, generate_series(1, 8) AS n;

INSERT INTO project
SELECT t, n, NULLIF(n % 9, 0), format('Project %s', n), (ARRAY['idea', 'running', 'done'])[(n + t) % 3 + 1],
       CASE WHEN n % 5 <> 0 THEN n * 100.25 END, date '2024-01-01' + n * t
FROM generate_series(1, 3) AS t, generate_series(1, 12) AS n;

INSERT INTO ticket
SELECT t, n, NULLIF(n * 5 % 14, 0), NULLIF(n % 10, 0), format('Ticket %s', n), CASE WHEN n % 4 <> 0 THEN n * 0.25 END,
       NULLIF(n % 6, 0), n % 3 <> 0, timestamptz '2024-02-01 06:00:00Z' + n * interval '5 hours'
FROM generate_series(1, 4) AS t, generate_series(1, 30) AS n;

INSERT INTO label
SELECT t, code, initcap(code) || ' ' || t, length(code) + t
FROM generate_series(1, 4) AS t, unnest(ARRAY['bug', 'a:b', '50%', 'wish', 'ü']) AS code;

INSERT INTO ticket_label
SELECT DISTINCT t, n % 33 + 1, (ARRAY['bug', 'a:b', '50%', 'wish', 'ü'])[n * t % 5 + 1]
FROM generate_series(1, 4) AS t, generate_series(1, 40) AS n;
