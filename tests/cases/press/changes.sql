-- change: a new article with all that belongs to it
BEGIN;
INSERT INTO articles (id, title, state, created_at, author_id, site_id) VALUES (1000, 'Fresh', 'live', '2024-07-01Z', 1, 1);
INSERT INTO images VALUES (1000, 1000, 'https://img.example/fresh.png');
INSERT INTO comments VALUES (1000, 1000, 2, 'first!', false, '2024-07-01 01:00Z');
INSERT INTO votes VALUES (1000, 1000, 5);
INSERT INTO payments VALUES (1000, 1000, 9.75, '2024-07-01');
INSERT INTO article_tags VALUES (1000, 1000, 3);
COMMIT;

-- change: an author marries
UPDATE people SET name = 'Person Newname' WHERE id = 1;

-- change: a comment turns out to be spam
UPDATE comments SET spam = true WHERE article_id = 1000;

-- change: a comment moves to another article
UPDATE comments SET article_id = 5, spam = false WHERE id = 1000;

-- change: a junction row with a key of its own goes
DELETE FROM article_tags WHERE id = 1000;

-- change: a tag is renamed under many articles
UPDATE tags SET label = 'tag, renamed' WHERE id = 7;

-- change: an article goes offline and comes back
UPDATE articles SET removed_at = '2024-08-01Z' WHERE id = 1;
UPDATE articles SET removed_at = NULL WHERE id = 7;

-- change: an article leaves the filtered set
UPDATE articles SET state = 'gone' WHERE id = 5;

-- change: a category gets another parent
UPDATE categories SET parent_id = 2 WHERE id = 9;

-- change: a product is put into a category and out of another
INSERT INTO product_categories VALUES (24, 12) ON CONFLICT DO NOTHING;
DELETE FROM product_categories WHERE product_id = 3;

-- change: a price in all orders
UPDATE order_items SET unit_price = unit_price + 1 WHERE product_id = 4;

-- change: a product that orders show is dropped
DELETE FROM products WHERE id = 4;

-- change: an order changes hands
UPDATE orders SET user_id = 3 WHERE id = 10;

-- change: a user gets another id, orders and addresses follow
UPDATE users SET id = 5000 WHERE id = 2;

-- change: a user is deleted with all orders
DELETE FROM users WHERE id = 5;

-- change: a user is deleted softly
UPDATE users SET deleted_at = '2024-09-01Z' WHERE id = 6;

-- change: every vote at once
UPDATE votes SET stars = stars - 1 WHERE stars > 1;

-- change: roll back
BEGIN;
DELETE FROM articles;
ROLLBACK;
