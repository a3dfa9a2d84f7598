-- change: insert a root row with children
BEGIN;
INSERT INTO users (id, email, created_at) VALUES (1000001, 'new@example.org', '2024-03-01Z');
INSERT INTO orders (id, user_id, status, placed_at) VALUES (1000001, 1000001, 'new', '2024-03-01Z');
INSERT INTO items (id, order_id, product_id, quantity, price) VALUES (1000001, 1000001, 1, 2, 3.5);
COMMIT;

-- change: update a target
UPDATE products SET title = 'Renamed' WHERE id = 1;

-- change: move an order to another user
UPDATE orders SET user_id = 2 WHERE id = 1000001;

-- change: delete a child
DELETE FROM items WHERE id = 1000001;

-- change: change the key of a root row, children follow
UPDATE users SET id = 1000002 WHERE id = 1000001;

-- change: soft delete
UPDATE products SET discontinued_at = now() WHERE id = 2;

-- change: leave the filtered set
UPDATE users SET active = false WHERE id = 3;

-- change: delete with a cascade over two tables
DELETE FROM users WHERE id = 4;

-- change: roll back
BEGIN;
DELETE FROM items;
ROLLBACK;
