-- The first key of each type has two children, the second one, the third none; one child has no parent.

INSERT INTO by_smallint VALUES ('-32768', 'note 0'), ('0', 'note 1'), ('7', 'note 2');
INSERT INTO child_of_smallint VALUES (1, '-32768'), (2, '-32768'), (3, '0'), (4, NULL);

INSERT INTO by_bigint VALUES ('-1', 'note 0'), ('9007199254740993', 'note 1'), ('5', 'note 2');
INSERT INTO child_of_bigint VALUES (1, '-1'), (2, '-1'), (3, '9007199254740993'), (4, NULL);

INSERT INTO by_text VALUES ('a:b', 'note 0'), ('a%3Ab', 'note 1'), ('日本', 'note 2');
INSERT INTO child_of_text VALUES (1, 'a:b'), (2, 'a:b'), (3, 'a%3Ab'), (4, NULL);

INSERT INTO by_varchar VALUES ('A', 'note 0'), ('a', 'note 1'), ('a"b', 'note 2');
INSERT INTO child_of_varchar VALUES (1, 'A'), (2, 'A'), (3, 'a'), (4, NULL);

INSERT INTO by_char VALUES ('ab', 'note 0'), ('abc', 'note 1'), ('c', 'note 2');
INSERT INTO child_of_char VALUES (1, 'ab'), (2, 'ab'), (3, 'abc'), (4, NULL);

INSERT INTO by_citext VALUES ('Ab', 'note 0'), ('ac', 'note 1'), ('É', 'note 2');
INSERT INTO child_of_citext VALUES (1, 'Ab'), (2, 'Ab'), (3, 'ac'), (4, NULL);

INSERT INTO by_uuid VALUES ('A0000000-0000-4000-8000-000000000001', 'note 0'), ('b0000000-0000-4000-8000-000000000001', 'note 1'), ('{c0000000-0000-4000-8000-000000000001}', 'note 2');
INSERT INTO child_of_uuid VALUES (1, 'A0000000-0000-4000-8000-000000000001'), (2, 'A0000000-0000-4000-8000-000000000001'), (3, 'b0000000-0000-4000-8000-000000000001'), (4, NULL);

INSERT INTO by_boolean VALUES ('true', 'note 0');
INSERT INTO child_of_boolean VALUES (1, 'true'), (2, 'true'), (3, NULL), (4, NULL);

INSERT INTO by_bytea VALUES ('\xdead', 'note 0'), ('\x00', 'note 1'), ('\x0a0d', 'note 2');
INSERT INTO child_of_bytea VALUES (1, '\xdead'), (2, '\xdead'), (3, '\x00'), (4, NULL);

INSERT INTO by_date VALUES ('2024-01-02', 'note 0'), ('0044-03-15 BC', 'note 1'), ('10000-01-01', 'note 2');
INSERT INTO child_of_date VALUES (1, '2024-01-02'), (2, '2024-01-02'), (3, '0044-03-15 BC'), (4, NULL);

INSERT INTO by_time VALUES ('03:04:05', 'note 0'), ('23:59:59.999999', 'note 1'), ('00:00', 'note 2');
INSERT INTO child_of_time VALUES (1, '03:04:05'), (2, '03:04:05'), (3, '23:59:59.999999'), (4, NULL);

INSERT INTO by_timetz VALUES ('03:04:05+02', 'note 0'), ('23:30-05:30', 'note 1'), ('12:00+00', 'note 2');
INSERT INTO child_of_timetz VALUES (1, '03:04:05+02'), (2, '03:04:05+02'), (3, '23:30-05:30'), (4, NULL);

INSERT INTO by_timestamp VALUES ('2024-01-02 03:04:05.5', 'note 0'), ('0001-01-01 00:00:00 BC', 'note 1'), ('2024-01-02', 'note 2');
INSERT INTO child_of_timestamp VALUES (1, '2024-01-02 03:04:05.5'), (2, '2024-01-02 03:04:05.5'), (3, '0001-01-01 00:00:00 BC'), (4, NULL);

INSERT INTO by_timestamptz VALUES ('2024-01-02 03:04:05.5+02', 'note 0'), ('2024-03-31 02:30+01', 'note 1'), ('2024-01-02 00:00+00', 'note 2');
INSERT INTO child_of_timestamptz VALUES (1, '2024-01-02 03:04:05.5+02'), (2, '2024-01-02 03:04:05.5+02'), (3, '2024-03-31 02:30+01'), (4, NULL);

INSERT INTO by_numeric VALUES ('10.500', 'note 0'), ('100', 'note 1'), ('-0.00000000000000000001', 'note 2');
INSERT INTO child_of_numeric VALUES (1, '10.500'), (2, '10.500'), (3, '100'), (4, NULL);

INSERT INTO by_label VALUES ('z', 'note 0'), ('a:b', 'note 1'), ('%', 'note 2');
INSERT INTO child_of_label VALUES (1, 'z'), (2, 'z'), (3, 'a:b'), (4, NULL);

INSERT INTO by_code VALUES ('C-1', 'note 0'), ('C-2', 'note 1'), ('C-3', 'note 2');
INSERT INTO child_of_code VALUES (1, 'C-1'), (2, 'C-1'), (3, 'C-2'), (4, NULL);
