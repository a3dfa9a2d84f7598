-- A small web shop: four tables, constraints with cascades.

CREATE TABLE users (
    id bigint PRIMARY KEY,
    email text NOT NULL,
    name text,
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL
);

CREATE TABLE products (
    id integer PRIMARY KEY,
    sku text NOT NULL,
    title text NOT NULL,
    price numeric(10, 2) NOT NULL,
    discontinued_at timestamptz
);

CREATE TABLE orders (
    id bigint PRIMARY KEY,
    user_id bigint REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE,
    status text NOT NULL,
    placed_at timestamptz NOT NULL
);
CREATE INDEX ON orders (user_id);

CREATE TABLE items (
    id bigint PRIMARY KEY,
    order_id bigint REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE,
    -- Without a constraint: a product may be gone.
    product_id integer,
    quantity integer NOT NULL,
    price numeric(10, 2) NOT NULL
);
CREATE INDEX ON items (order_id);
CREATE INDEX ON items (product_id);
