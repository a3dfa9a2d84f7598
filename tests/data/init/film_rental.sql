-- A shop that rents films out: after the well-known samples of this kind, in DDL of our own.
CREATE TYPE film_rating AS ENUM ('G', 'PG', 'PG-13', 'R', 'NC-17');
CREATE DOMAIN release_year AS integer CHECK (VALUE BETWEEN 1901 AND 2155);

CREATE TABLE country (country_id serial PRIMARY KEY, country text NOT NULL, last_update timestamp NOT NULL DEFAULT '2024-01-01');
CREATE TABLE city (
    city_id serial PRIMARY KEY, city text NOT NULL,
    country_id integer NOT NULL REFERENCES country, last_update timestamp NOT NULL DEFAULT '2024-01-01');
CREATE INDEX ON city (country_id);
CREATE TABLE address (
    address_id serial PRIMARY KEY, address text NOT NULL, address2 text, district varchar(20) NOT NULL,
    city_id integer NOT NULL REFERENCES city, postal_code varchar(10), phone varchar(20) NOT NULL);
CREATE INDEX ON address (city_id);
CREATE TABLE language (language_id serial PRIMARY KEY, name char(20) NOT NULL);
CREATE TABLE category (category_id serial PRIMARY KEY, name varchar(25) NOT NULL);
CREATE TABLE actor (
    actor_id serial PRIMARY KEY, first_name varchar(45) NOT NULL, last_name varchar(45) NOT NULL);
CREATE TABLE film (
    film_id serial PRIMARY KEY, title varchar(255) NOT NULL, description text, release_year release_year,
    language_id integer NOT NULL REFERENCES language, original_language_id integer REFERENCES language,
    rental_duration smallint NOT NULL DEFAULT 3, rental_rate numeric(4,2) NOT NULL DEFAULT 4.99, length smallint,
    replacement_cost numeric(5,2) NOT NULL DEFAULT 19.99, rating film_rating DEFAULT 'G',
    last_update timestamp NOT NULL DEFAULT '2024-01-01', special_features text[], fulltext tsvector);
CREATE INDEX ON film (language_id);
CREATE INDEX ON film (original_language_id);
CREATE TABLE film_actor (
    actor_id integer NOT NULL REFERENCES actor, film_id integer NOT NULL REFERENCES film,
    last_update timestamp NOT NULL DEFAULT '2024-01-01', PRIMARY KEY (actor_id, film_id));
CREATE INDEX ON film_actor (film_id);
CREATE TABLE film_category (
    film_id integer NOT NULL REFERENCES film, category_id integer NOT NULL REFERENCES category,
    last_update timestamp NOT NULL DEFAULT '2024-01-01', PRIMARY KEY (film_id, category_id));
CREATE INDEX ON film_category (category_id);
CREATE TABLE staff (
    staff_id serial PRIMARY KEY, first_name varchar(45) NOT NULL, last_name varchar(45) NOT NULL,
    address_id integer NOT NULL REFERENCES address, email varchar(50), store_id integer NOT NULL,
    active boolean NOT NULL DEFAULT true, username varchar(16) NOT NULL, picture bytea);
CREATE INDEX ON staff (address_id);
-- A circle: a store has a manager, and every member of the staff a store.
CREATE TABLE store (
    store_id serial PRIMARY KEY, manager_staff_id integer NOT NULL UNIQUE REFERENCES staff,
    address_id integer NOT NULL REFERENCES address);
CREATE INDEX ON store (address_id);
ALTER TABLE staff ADD FOREIGN KEY (store_id) REFERENCES store DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX ON staff (store_id);
CREATE TABLE customer (
    customer_id serial PRIMARY KEY, store_id integer NOT NULL REFERENCES store, first_name varchar(45) NOT NULL,
    last_name varchar(45) NOT NULL, email varchar(50), address_id integer NOT NULL REFERENCES address,
    activebool boolean NOT NULL DEFAULT true, create_date date NOT NULL DEFAULT '2024-01-01');
CREATE INDEX ON customer (store_id);
CREATE INDEX ON customer (address_id);
CREATE TABLE inventory (
    inventory_id serial PRIMARY KEY, film_id integer NOT NULL REFERENCES film, store_id integer NOT NULL REFERENCES store);
CREATE INDEX ON inventory (film_id);
CREATE INDEX ON inventory (store_id);
CREATE TABLE rental (
    rental_id serial PRIMARY KEY, rental_date timestamp NOT NULL, inventory_id integer NOT NULL REFERENCES inventory,
    customer_id integer NOT NULL REFERENCES customer, return_date timestamp, staff_id integer NOT NULL REFERENCES staff);
CREATE INDEX ON rental (inventory_id);
CREATE INDEX ON rental (customer_id);
CREATE INDEX ON rental (staff_id);
CREATE TABLE payment (
    payment_id integer NOT NULL, customer_id integer NOT NULL REFERENCES customer,
    staff_id integer NOT NULL REFERENCES staff, rental_id integer NOT NULL REFERENCES rental,
    amount numeric(5,2) NOT NULL, payment_date timestamptz NOT NULL, PRIMARY KEY (payment_date, payment_id)
) PARTITION BY RANGE (payment_date);
CREATE TABLE payment_2024_01 PARTITION OF payment FOR VALUES FROM ('2024-01-01+00') TO ('2024-02-01+00');
CREATE TABLE payment_2024_02 PARTITION OF payment FOR VALUES FROM ('2024-02-01+00') TO ('2024-03-01+00');
CREATE INDEX ON payment (customer_id);
CREATE INDEX ON payment (staff_id);
CREATE INDEX ON payment (rental_id);
CREATE VIEW film_list AS SELECT film_id, title FROM film;

INSERT INTO country (country) VALUES ('Canada'), ('Brazil');
INSERT INTO city (city, country_id) VALUES ('Lethbridge', 1), ('Santos', 2);
INSERT INTO address (address, district, city_id, postal_code, phone)
    SELECT n || ' Elm Street', 'North', 1 + n % 2, '0' || n, '555-' || n FROM generate_series(1, 6) n;
INSERT INTO language (name) VALUES ('English'), ('Portuguese');
INSERT INTO category (name) VALUES ('Action'), ('Comedy'), ('Sci-Fi');
INSERT INTO actor (first_name, last_name) SELECT 'First' || n, 'Last' || n FROM generate_series(1, 8) n;
INSERT INTO film (title, description, release_year, language_id, original_language_id, rating, special_features, fulltext)
    SELECT 'Film ' || n, 'About ' || n, 1990 + n, 1 + n % 2, CASE WHEN n % 3 = 0 THEN 1 END,
        (enum_range(NULL::film_rating))[1 + n % 5], ARRAY['Trailers', 'Scene "' || n || '"'], to_tsvector('simple', 'film ' || n)
    FROM generate_series(1, 12) n;
INSERT INTO film_actor (actor_id, film_id) SELECT a, f FROM generate_series(1, 8) a, generate_series(1, 12) f WHERE (a + f) % 4 = 0;
INSERT INTO film_category (film_id, category_id) SELECT f, 1 + f % 3 FROM generate_series(1, 12) f;
BEGIN;
INSERT INTO staff (first_name, last_name, address_id, email, store_id, username, picture)
    VALUES ('Mike', 'Hill', 1, 'mike@shop.example', 1, 'mike', '\x8950'), ('Jo', 'Stone', 2, NULL, 2, 'jo', NULL);
INSERT INTO store (manager_staff_id, address_id) VALUES (1, 3), (2, 4);
COMMIT;
INSERT INTO customer (store_id, first_name, last_name, email, address_id)
    SELECT 1 + n % 2, 'Cust' || n, 'Omer' || n, 'c' || n || '@mail.example', 5 + n % 2 FROM generate_series(1, 9) n;
INSERT INTO inventory (film_id, store_id) SELECT 1 + n % 12, 1 + n % 2 FROM generate_series(1, 30) n;
INSERT INTO rental (rental_date, inventory_id, customer_id, return_date, staff_id)
    SELECT timestamp '2024-01-05' + n * interval '19 hours', 1 + n % 30, 1 + n % 9,
        CASE WHEN n % 4 > 0 THEN timestamp '2024-01-08' + n * interval '19 hours' END, 1 + n % 2
    FROM generate_series(1, 40) n;
INSERT INTO payment SELECT n, 1 + n % 9, 1 + n % 2, n, n * 0.99, timestamptz '2024-01-05+00' + n * interval '19 hours'
    FROM generate_series(1, 40) n;
