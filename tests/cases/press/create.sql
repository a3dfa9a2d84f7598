-- What flusso's pages describe, made anew: articles with people, comments, tags and votes; users with orders; products.
-- bigint and integer keys, one column each, most links with a constraint.

CREATE TABLE people (
    id integer PRIMARY KEY,
    name text NOT NULL,
    country char(2)
);

CREATE TABLE users (
    id bigint PRIMARY KEY,
    email varchar(200) NOT NULL,
    full_name text,
    is_active boolean NOT NULL DEFAULT true,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL,
    preferences jsonb
);

CREATE TABLE addresses (
    id bigint PRIMARY KEY,
    user_id bigint REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE,
    city text,
    lat double precision,
    lon double precision,
    is_primary boolean NOT NULL DEFAULT false
);
CREATE INDEX ON addresses (user_id);

CREATE TABLE products (
    id integer PRIMARY KEY,
    sku varchar(40) NOT NULL,
    name text NOT NULL,
    description text,
    price numeric(10, 2) NOT NULL,
    weight real,
    stock smallint,
    tags text[],
    names jsonb,
    released date
);

CREATE TABLE categories (
    id integer PRIMARY KEY,
    parent_id integer REFERENCES categories ON UPDATE CASCADE ON DELETE SET NULL,
    name text NOT NULL
);

CREATE TABLE product_categories (
    product_id integer REFERENCES products ON UPDATE CASCADE ON DELETE CASCADE,
    category_id integer REFERENCES categories ON UPDATE CASCADE ON DELETE CASCADE,
    PRIMARY KEY (product_id, category_id)
);
CREATE INDEX ON product_categories (category_id);

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    user_id bigint REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE,
    status text NOT NULL,
    currency char(3) NOT NULL DEFAULT 'EUR',
    total numeric(12, 2),
    note text,
    placed_at timestamp NOT NULL
);
CREATE INDEX ON orders (user_id);

CREATE TABLE order_items (
    id bigint PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE,
    product_id integer,
    quantity integer NOT NULL,
    unit_price numeric(10, 2) NOT NULL
);
CREATE INDEX ON order_items (order_id);
CREATE INDEX ON order_items (product_id);

CREATE TABLE articles (
    id integer PRIMARY KEY,
    title text NOT NULL,
    sku varchar(30),
    lang varchar(5),
    state text NOT NULL,
    ext_id uuid,
    created_at timestamptz NOT NULL,
    price numeric(8, 3),
    fee numeric(6, 2),
    extra jsonb,
    names jsonb,
    latitude numeric(8, 5),
    longitude numeric(8, 5),
    area_json jsonb,
    seo_description text,
    author_id integer REFERENCES people ON UPDATE CASCADE ON DELETE SET NULL,
    site_id integer,
    removed_at timestamptz,
    legal_hold boolean NOT NULL DEFAULT false
);
CREATE INDEX ON articles (author_id);

CREATE TABLE images (
    id integer PRIMARY KEY,
    article_id integer REFERENCES articles ON UPDATE CASCADE ON DELETE CASCADE,
    url text NOT NULL
);
CREATE INDEX ON images (article_id);

CREATE TABLE comments (
    id integer PRIMARY KEY,
    article_id integer REFERENCES articles ON UPDATE CASCADE ON DELETE CASCADE,
    author_id integer,
    body text NOT NULL,
    spam boolean NOT NULL DEFAULT false,
    at timestamptz
);
CREATE INDEX ON comments (article_id);
CREATE INDEX ON comments (author_id);

CREATE TABLE votes (
    id bigint PRIMARY KEY,
    article_id integer,
    stars smallint
);
CREATE INDEX ON votes (article_id);

CREATE TABLE payments (
    id bigint PRIMARY KEY,
    article_id integer,
    amount numeric(10, 2),
    at date
);
CREATE INDEX ON payments (article_id);

CREATE TABLE tags (
    id bigint PRIMARY KEY,
    label text NOT NULL
);

CREATE TABLE article_tags (
    id bigint PRIMARY KEY,
    article_id integer,
    tag_id bigint
);
CREATE INDEX ON article_tags (article_id);
CREATE INDEX ON article_tags (tag_id);
