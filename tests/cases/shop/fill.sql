-- At scale 1: 50 users, 20 products, 150 orders, 300 items.

INSERT INTO users (id, email, name, active, created_at)
SELECT n, format('user%s@example.org', n), CASE WHEN n % 7 <> 0 THEN 'User ' || n END, n % 10 <> 0,
       timestamptz '2024-01-01 00:00:00+00' + n * interval '1 hour'
FROM generate_series(1, 50 * coalesce(nullif(current_setting('flusso.scale', true), ''), '1')::integer) AS n;

INSERT INTO products (id, sku, title, price, discontinued_at)
SELECT n, format('SKU-%s', n), 'Product ' || n, 1 + n % 500 + 0.99, CASE WHEN n % 15 = 0 THEN timestamptz '2024-05-01 00:00:00+00' END
FROM generate_series(1, 20 * coalesce(nullif(current_setting('flusso.scale', true), ''), '1')::integer) AS n;

INSERT INTO orders (id, user_id, status, placed_at)
SELECT n, n * 7 % (SELECT count(*) FROM users) + 1, (ARRAY['new', 'paid', 'sent', 'cancelled'])[n % 4 + 1],
       timestamptz '2024-02-01 00:00:00+00' + n * interval '1 minute'
FROM generate_series(1, 150 * coalesce(nullif(current_setting('flusso.scale', true), ''), '1')::integer) AS n;

INSERT INTO items (id, order_id, product_id, quantity, price)
SELECT n, n * 11 % (SELECT count(*) FROM orders) + 1, n * 3 % (SELECT count(*) + 1 FROM products) + 1, n % 5 + 1, 1 + n % 300 + 0.5
FROM generate_series(1, 300 * coalesce(nullif(current_setting('flusso.scale', true), ''), '1')::integer) AS n;
