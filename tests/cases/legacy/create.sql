-- Grown over twenty years: names in mixed case with blanks and dots, two database schemas with tables of one name,
-- ENUMs, domains, char(n), money, bit strings, times with zone, arrays, generated columns, keys of char(n) and money-like text.

CREATE SCHEMA "Archive.2003";
CREATE SCHEMA "Sales Dept";

CREATE TYPE "Sales Dept"."Kind" AS ENUM ('Retail', 'whole sale', 'don''t know');
CREATE DOMAIN public."Code" AS varchar(12) CHECK (length(VALUE) < 12);
CREATE DOMAIN public.positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN "Sales Dept".amount AS numeric(14, 4);

CREATE TABLE "Sales Dept"."Customer" (
    "CustNo" char(8) PRIMARY KEY,
    "Full Name" text NOT NULL,
    "Kind" "Sales Dept"."Kind",
    "Short.Code" public."Code",
    "Credit" money,
    "Flags" bit(4),
    "Phones" varchar(20)[],
    "Hours" timetz,
    "Since" date,
    "Score" public.positive,
    "Region" integer,
    "Upper Name" text GENERATED ALWAYS AS (upper("Full Name")) STORED
);

-- The same name in another schema: no relation to the one above but the customer's number.
CREATE TABLE "Archive.2003"."Customer" (
    "CustNo" char(8) PRIMARY KEY,
    "Full Name" varchar(30),
    "Balance" "Sales Dept".amount,
    "Moved" timestamp(0)
);

CREATE TABLE "Sales Dept"."Order" (
    "Nr" bigint PRIMARY KEY,
    "CustNo" char(8) REFERENCES "Sales Dept"."Customer" ON UPDATE CASCADE ON DELETE SET NULL,
    "select" text,
    "Amount" "Sales Dept".amount,
    "Placed" timestamptz,
    "Terms" "char",
    "Mac" macaddr,
    "Took" interval,
    "Raw" bytea
);
CREATE INDEX ON "Sales Dept"."Order" ("CustNo");

CREATE TABLE "Archive.2003"."Order" (
    "Nr" bigint PRIMARY KEY,
    "CustNo" char(8),
    "Amount" real
);
CREATE INDEX ON "Archive.2003"."Order" ("CustNo");

CREATE TABLE "Sales Dept"."Group;1" (
    "GroupId" name PRIMARY KEY,
    "Täg" text
);

CREATE TABLE "Sales Dept"."Customer_Group" (
    "CustNo" char(8),
    "GroupId" name,
    "Rank" smallint,
    PRIMARY KEY ("CustNo", "GroupId")
);
CREATE INDEX ON "Sales Dept"."Customer_Group" ("GroupId");

-- The only table with names nobody has to quote.
CREATE TABLE region (
    id integer PRIMARY KEY,
    name text NOT NULL
);
