-- A wiki: pages with revisions and texts, users and groups, categories, a table of its own in another schema.
CREATE SCHEMA wiki;
CREATE TABLE wiki.users (
    user_id bigserial PRIMARY KEY, user_name text NOT NULL UNIQUE, real_name text, email text, registered timestamptz, options jsonb);
CREATE TABLE wiki.user_groups (ug_user bigint NOT NULL REFERENCES wiki.users, ug_group text NOT NULL, expiry timestamptz, PRIMARY KEY (ug_user, ug_group));
CREATE TABLE wiki.namespaces (id smallint PRIMARY KEY, name text NOT NULL);
CREATE TABLE wiki.pages (
    page_id bigserial PRIMARY KEY, namespace smallint NOT NULL REFERENCES wiki.namespaces, title text NOT NULL,
    is_redirect boolean NOT NULL DEFAULT false, latest bigint, touched timestamptz NOT NULL, deleted_at timestamptz,
    search_vector tsvector, UNIQUE (namespace, title));
CREATE TABLE wiki.revisions (
    rev_id bigserial PRIMARY KEY, page_id bigint NOT NULL REFERENCES wiki.pages, author_id bigint REFERENCES wiki.users,
    parent_id bigint REFERENCES wiki.revisions, comment text, minor boolean NOT NULL, at timestamptz NOT NULL, client inet);
CREATE INDEX ON wiki.revisions (page_id);
CREATE INDEX ON wiki.revisions (author_id);
CREATE INDEX ON wiki.revisions (parent_id);
ALTER TABLE wiki.pages ADD FOREIGN KEY (latest) REFERENCES wiki.revisions DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX ON wiki.pages (latest);
-- One text for each revision.
CREATE TABLE wiki.texts (rev_id bigint PRIMARY KEY REFERENCES wiki.revisions, body text NOT NULL, bytes integer);
CREATE TABLE wiki.categories (id uuid PRIMARY KEY, name text NOT NULL UNIQUE, parent uuid REFERENCES wiki.categories);
CREATE INDEX ON wiki.categories (parent);
-- A junction with a key of its own.
CREATE TABLE wiki.page_categories (
    id bigserial PRIMARY KEY, page_id bigint NOT NULL REFERENCES wiki.pages, category_id uuid NOT NULL REFERENCES wiki.categories,
    added timestamptz, UNIQUE (page_id, category_id));
CREATE INDEX ON wiki.page_categories (category_id);
-- Both ends are pages.
CREATE TABLE wiki.links (
    from_page bigint NOT NULL REFERENCES wiki.pages, to_page bigint NOT NULL REFERENCES wiki.pages, PRIMARY KEY (from_page, to_page));
CREATE INDEX ON wiki.links (to_page);
-- Points at a unique constraint, not at the primary key.
CREATE TABLE wiki.watches (
    id serial PRIMARY KEY, user_name text NOT NULL REFERENCES wiki.users (user_name), namespace smallint NOT NULL, title text NOT NULL,
    FOREIGN KEY (namespace, title) REFERENCES wiki.pages (namespace, title));
CREATE INDEX ON wiki.watches (user_name);
CREATE INDEX ON wiki.watches (namespace, title);
-- Nothing tells its rows apart.
CREATE TABLE wiki.log (at timestamptz NOT NULL, what text NOT NULL);

INSERT INTO wiki.users (user_name, real_name, email, registered, options)
    SELECT 'User' || n, CASE WHEN n % 2 = 0 THEN 'Real ' || n END, 'u' || n || '@wiki.example', '2024-01-01+00', '{"skin": "plain", "n": [1, null]}'
    FROM generate_series(1, 5) n;
INSERT INTO wiki.user_groups VALUES (1, 'sysop', NULL), (1, 'bot', '2030-01-01+00'), (2, 'sysop', NULL);
INSERT INTO wiki.namespaces VALUES (0, ''), (1, 'Talk');
INSERT INTO wiki.pages (namespace, title, touched, search_vector) SELECT n % 2, 'Page ' || n, '2024-02-02 03:04:05.678+00', to_tsvector('simple', 'page')
    FROM generate_series(1, 8) n;
INSERT INTO wiki.revisions (page_id, author_id, parent_id, comment, minor, at, client)
    SELECT 1 + n % 8, CASE WHEN n % 4 > 0 THEN 1 + n % 5 END, CASE WHEN n > 8 THEN n - 8 END, E'line\nbreak ' || n, n % 2 = 0,
        timestamptz '2024-01-01+00' + n * interval '1 hour', '192.0.2.7'
    FROM generate_series(1, 24) n;
INSERT INTO wiki.texts SELECT n, repeat('word' || n || ' ', n), n FROM generate_series(1, 24) n;
UPDATE wiki.pages SET latest = 16 + page_id WHERE page_id < 8;
INSERT INTO wiki.categories SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'Category ' || n,
    CASE WHEN n > 1 THEN '00000000-0000-0000-0000-000000000001'::uuid END FROM generate_series(1, 4) n;
INSERT INTO wiki.page_categories (page_id, category_id, added)
    SELECT p, ('00000000-0000-0000-0000-00000000000' || 1 + p % 4)::uuid, NULL FROM generate_series(1, 8) p;
INSERT INTO wiki.links SELECT a, b FROM generate_series(1, 8) a, generate_series(1, 8) b WHERE (a + 2 * b) % 5 = 0;
INSERT INTO wiki.watches (user_name, namespace, title) VALUES ('User1', 0, 'Page 2'), ('User1', 1, 'Page 3'), ('User2', 0, 'Page 2');
INSERT INTO wiki.log VALUES ('2024-01-01+00', 'installed');
