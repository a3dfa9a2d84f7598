-- Customers, orders and products, after the classic sample; names in several words and in mixed case, in DDL of our own.
CREATE TABLE "Categories" ("CategoryID" smallint PRIMARY KEY, "CategoryName" varchar(15) NOT NULL, "Description" text, "Picture" bytea);
CREATE TABLE "Suppliers" (
    "SupplierID" smallint PRIMARY KEY, "CompanyName" varchar(40) NOT NULL, "City" varchar(15), "Country" varchar(15), "HomePage" text);
CREATE TABLE "Products" (
    "ProductID" smallint PRIMARY KEY, "ProductName" varchar(40) NOT NULL, "SupplierID" smallint REFERENCES "Suppliers",
    "CategoryID" smallint REFERENCES "Categories", "QuantityPerUnit" varchar(20), "UnitPrice" real,
    "UnitsInStock" smallint, "Discontinued" integer NOT NULL);
CREATE INDEX ON "Products" ("SupplierID");
CREATE INDEX ON "Products" ("CategoryID");
CREATE TABLE "Customers" (
    "CustomerID" char(5) PRIMARY KEY, "CompanyName" varchar(40) NOT NULL, "ContactName" varchar(30), "Country" varchar(15), "Phone" varchar(24));
CREATE TABLE "CustomerDemographics" ("CustomerTypeID" char(10) PRIMARY KEY, "CustomerDesc" text);
CREATE TABLE "CustomerCustomerDemo" (
    "CustomerID" char(5) NOT NULL REFERENCES "Customers", "CustomerTypeID" char(10) NOT NULL REFERENCES "CustomerDemographics",
    PRIMARY KEY ("CustomerID", "CustomerTypeID"));
CREATE INDEX ON "CustomerCustomerDemo" ("CustomerTypeID");
CREATE TABLE "Region" ("RegionID" smallint PRIMARY KEY, "RegionDescription" char(20) NOT NULL);
CREATE TABLE "Territories" (
    "TerritoryID" varchar(20) PRIMARY KEY, "TerritoryDescription" char(20) NOT NULL, "RegionID" smallint NOT NULL REFERENCES "Region");
CREATE INDEX ON "Territories" ("RegionID");
CREATE TABLE "Employees" (
    "EmployeeID" smallint PRIMARY KEY, "LastName" varchar(20) NOT NULL, "FirstName" varchar(10) NOT NULL, "BirthDate" date,
    "ReportsTo" smallint REFERENCES "Employees", "Photo" bytea, "Notes" text);
CREATE INDEX ON "Employees" ("ReportsTo");
CREATE TABLE "EmployeeTerritories" (
    "EmployeeID" smallint NOT NULL REFERENCES "Employees", "TerritoryID" varchar(20) NOT NULL REFERENCES "Territories",
    PRIMARY KEY ("EmployeeID", "TerritoryID"));
CREATE INDEX ON "EmployeeTerritories" ("TerritoryID");
CREATE TABLE "Shippers" ("ShipperID" smallint PRIMARY KEY, "CompanyName" varchar(40) NOT NULL);
CREATE TABLE "Orders" (
    "OrderID" smallint PRIMARY KEY, "CustomerID" char(5) REFERENCES "Customers", "EmployeeID" smallint REFERENCES "Employees",
    "OrderDate" date, "ShippedDate" date, "ShipVia" smallint REFERENCES "Shippers", "Freight" real, "Ship Name" varchar(40));
CREATE INDEX ON "Orders" ("CustomerID");
CREATE INDEX ON "Orders" ("EmployeeID");
CREATE INDEX ON "Orders" ("ShipVia");
-- Joins two tables, but says something of its own.
CREATE TABLE "Order Details" (
    "OrderID" smallint NOT NULL REFERENCES "Orders", "ProductID" smallint NOT NULL REFERENCES "Products",
    "UnitPrice" real NOT NULL, "Quantity" smallint NOT NULL, "Discount" real NOT NULL, PRIMARY KEY ("OrderID", "ProductID"));
CREATE INDEX ON "Order Details" ("ProductID");

INSERT INTO "Categories" VALUES (1, 'Beverages', 'Soft drinks', '\x00ff'), (2, 'Sauces', NULL, NULL);
INSERT INTO "Suppliers" VALUES (1, 'Exotic Liquids', 'London', 'UK', NULL), (2, 'New Delights', 'New York', 'USA', 'https://delights.example');
INSERT INTO "Products" SELECT n, 'Product ' || n, 1 + n % 2, CASE WHEN n % 3 > 0 THEN 1 + n % 2 END, n || ' boxes', n * 1.1, n, n % 2
    FROM generate_series(1, 10) n;
INSERT INTO "Customers" SELECT 'CU' || lpad(n::text, 3, '0'), 'Company ' || n, 'Contact ' || n, 'Norway', NULL FROM generate_series(1, 5) n;
INSERT INTO "CustomerDemographics" VALUES ('big', 'Large'), ('old', NULL);
INSERT INTO "CustomerCustomerDemo" VALUES ('CU001', 'big'), ('CU001', 'old'), ('CU002', 'old');
INSERT INTO "Region" VALUES (1, 'Eastern'), (2, 'Western');
INSERT INTO "Territories" VALUES ('01581', 'Westboro', 1), ('98004', 'Bellevue', 2), ('98052', 'Redmond', 2);
INSERT INTO "Employees" VALUES (1, 'Fuller', 'Andrew', '1952-02-19', NULL, NULL, 'Boss'), (2, 'Davolio', 'Nancy', '1948-12-08', 1, '\x0102', NULL),
    (3, 'King', 'Robert', NULL, 1, NULL, NULL);
INSERT INTO "EmployeeTerritories" VALUES (1, '01581'), (2, '98004'), (2, '98052');
INSERT INTO "Shippers" VALUES (1, 'Speedy'), (2, 'United');
INSERT INTO "Orders" SELECT 100 + n, 'CU' || lpad((1 + n % 5)::text, 3, '0'), 1 + n % 3, date '1996-07-04' + n, NULL, 1 + n % 2, n * 1.5, 'Ship ' || n
    FROM generate_series(1, 12) n;
INSERT INTO "Order Details" SELECT 100 + o, p, p * 1.1, o, 0.05 FROM generate_series(1, 12) o, generate_series(1, 10) p WHERE (o + p) % 4 = 0;
