-- change: a customer of one schema
UPDATE "Sales Dept"."Customer" SET "Full Name" = 'Ünï "quoted"' WHERE "CustNo" = 'C1';

-- change: the customer of the same name and number in the other
UPDATE "Archive.2003"."Customer" SET "Full Name" = 'Older', "Balance" = -0.0001 WHERE "CustNo" = 'C1';

-- change: an order of the archive
INSERT INTO "Archive.2003"."Order" VALUES (1001, 'C2', 7.5);
UPDATE "Archive.2003"."Order" SET "Amount" = 0.5 WHERE "Nr" = 3;

-- change: an order moves to another customer, padded or not
UPDATE "Sales Dept"."Order" SET "CustNo" = 'C3      ' WHERE "Nr" = 7;

-- change: a number with padding changes, orders follow
UPDATE "Sales Dept"."Customer" SET "CustNo" = 'C4x' WHERE "CustNo" = 'C4';

-- change: a label of an ENUM
UPDATE "Sales Dept"."Customer" SET "Kind" = 'don''t know' WHERE "CustNo" IN ('C5', 'C6');

-- change: a column that is a keyword of SQL
UPDATE "Sales Dept"."Order" SET "select" = 'from where' WHERE "Nr" = 8;

-- change: a group whose name needs quotes for a semicolon
UPDATE "Sales Dept"."Group;1" SET "Täg" = 'Neu' WHERE "GroupId" = 'Group 3';

-- change: members of a group
DELETE FROM "Sales Dept"."Customer_Group" WHERE "GroupId" = 'Group 5';
INSERT INTO "Sales Dept"."Customer_Group" VALUES ('C1', 'Group 5', 1);

-- change: a region is renamed
UPDATE region SET name = 'Somewhere else' WHERE id = 2;

-- change: odd types
UPDATE "Sales Dept"."Order" SET "Mac" = 'ff:ff:ff:00:00:01', "Took" = '1 year 2 mons -3 days', "Raw" = '\x', "Terms" = 'Z' WHERE "Nr" = 12;
UPDATE "Sales Dept"."Customer" SET "Flags" = B'1111', "Phones" = '{}', "Credit" = '-1.5'::numeric::money, "Hours" = '23:59:59.5-03' WHERE "CustNo" = 'C9';

-- change: a customer goes, the orders stay
DELETE FROM "Sales Dept"."Customer" WHERE "CustNo" = 'C10';

-- change: roll back
BEGIN;
DELETE FROM "Sales Dept"."Customer";
ROLLBACK;
