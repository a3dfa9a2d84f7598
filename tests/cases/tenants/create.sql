-- Several tenants in one database: every key begins with the tenant, every link carries it, the large table is
-- partitioned by it.  Numbers repeat in every tenant, so that a link that forgot the tenant would find strangers.

CREATE TABLE tenant (
    id smallint PRIMARY KEY,
    name text NOT NULL,
    plan text NOT NULL
);

CREATE TABLE account (
    tenant_id smallint NOT NULL REFERENCES tenant ON UPDATE CASCADE ON DELETE CASCADE,
    id integer NOT NULL,
    name text NOT NULL,
    balance numeric(12, 2) NOT NULL DEFAULT 0,
    manager_id integer,
    closed_at timestamptz,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE project (
    tenant_id smallint NOT NULL,
    id integer NOT NULL,
    account_id integer,
    title text NOT NULL,
    stage text NOT NULL,
    budget numeric(12, 2),
    starts date,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, account_id) REFERENCES account (tenant_id, id) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON project (tenant_id, account_id);

CREATE TABLE ticket (
    tenant_id smallint NOT NULL,
    id integer NOT NULL,
    project_id integer,
    reporter_id integer,
    subject text NOT NULL,
    hours numeric(6, 2),
    points smallint,
    open boolean NOT NULL DEFAULT true,
    raised_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id)
) PARTITION BY LIST (tenant_id);
CREATE TABLE ticket_1 PARTITION OF ticket FOR VALUES IN (1);
CREATE TABLE ticket_2 PARTITION OF ticket FOR VALUES IN (2) PARTITION BY HASH (id);
CREATE TABLE ticket_2_even PARTITION OF ticket_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ticket_2_odd PARTITION OF ticket_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE ticket_rest PARTITION OF ticket DEFAULT;
CREATE INDEX ON ticket (tenant_id, project_id);
CREATE INDEX ON ticket (tenant_id, reporter_id);

CREATE TABLE label (
    tenant_id smallint NOT NULL,
    code text NOT NULL,
    caption text,
    weight integer,
    PRIMARY KEY (tenant_id, code)
);

CREATE TABLE ticket_label (
    tenant_id smallint NOT NULL,
    ticket_id integer NOT NULL,
    label_code text NOT NULL,
    PRIMARY KEY (tenant_id, ticket_id, label_code),
    FOREIGN KEY (tenant_id, label_code) REFERENCES label (tenant_id, code) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX ON ticket_label (tenant_id, label_code);
