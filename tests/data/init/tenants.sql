-- Several customers in one database: every key begins with the tenant's.
CREATE TYPE ticket_state AS ENUM ('open', 'waiting for us', 'closed');
CREATE TABLE tenants (tenant_id uuid PRIMARY KEY, name text NOT NULL, plan text NOT NULL DEFAULT 'free');
CREATE TABLE members (
    tenant_id uuid NOT NULL REFERENCES tenants, member_id integer NOT NULL, email text NOT NULL, settings jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, member_id), UNIQUE (tenant_id, email));
CREATE TABLE projects (
    tenant_id uuid NOT NULL REFERENCES tenants, project_id integer NOT NULL, name text NOT NULL, owner_id integer, is_deleted boolean NOT NULL DEFAULT false,
    budget numeric(12, 2), PRIMARY KEY (tenant_id, project_id),
    FOREIGN KEY (tenant_id, owner_id) REFERENCES members (tenant_id, member_id));
CREATE INDEX ON projects (tenant_id, owner_id);
CREATE TABLE tickets (
    tenant_id uuid NOT NULL, project_id integer NOT NULL, number integer NOT NULL, title text NOT NULL, state ticket_state NOT NULL DEFAULT 'open',
    assignee integer, reporter integer NOT NULL, estimate interval, "order" integer, "null" text, PRIMARY KEY (tenant_id, project_id, number),
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, assignee) REFERENCES members (tenant_id, member_id),
    FOREIGN KEY (tenant_id, reporter) REFERENCES members (tenant_id, member_id));
CREATE INDEX ON tickets (tenant_id, assignee);
CREATE INDEX ON tickets (tenant_id, reporter);
CREATE TABLE labels (tenant_id uuid NOT NULL REFERENCES tenants, label_id integer NOT NULL, label text NOT NULL, PRIMARY KEY (tenant_id, label_id));
-- A junction over composite keys that share the tenant.
CREATE TABLE ticket_labels (
    tenant_id uuid NOT NULL, project_id integer NOT NULL, number integer NOT NULL, label_id integer NOT NULL,
    PRIMARY KEY (tenant_id, project_id, number, label_id),
    FOREIGN KEY (tenant_id, project_id, number) REFERENCES tickets,
    FOREIGN KEY (tenant_id, label_id) REFERENCES labels);
CREATE INDEX ON ticket_labels (tenant_id, label_id);
CREATE TABLE comments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id uuid NOT NULL, project_id integer NOT NULL, number integer NOT NULL,
    author integer, body text NOT NULL, at timestamptz NOT NULL,
    FOREIGN KEY (tenant_id, project_id, number) REFERENCES tickets,
    FOREIGN KEY (tenant_id, author) REFERENCES members (tenant_id, member_id));
CREATE INDEX ON comments (tenant_id, project_id, number);
CREATE INDEX ON comments (tenant_id, author);

INSERT INTO tenants SELECT ('10000000-0000-0000-0000-00000000000' || n)::uuid, 'Tenant ' || n FROM generate_series(1, 3) n;
INSERT INTO members SELECT tenant_id, m, 'm' || m || '@' || right(tenant_id::text, 1) || '.example' FROM tenants, generate_series(1, 4) m;
INSERT INTO projects SELECT tenant_id, p, 'Project ' || p, CASE WHEN p > 1 THEN p END, p = 3, p * 1000.50 FROM tenants, generate_series(1, 3) p;
INSERT INTO tickets SELECT tenant_id, project_id, n, 'Ticket ' || n, (enum_range(NULL::ticket_state))[1 + n % 3],
    CASE WHEN n % 2 = 0 THEN 1 + n % 4 END, 1 + n % 4, n * interval '1 hour', n, NULL FROM projects, generate_series(1, 5) n;
INSERT INTO labels SELECT tenant_id, l, 'Label ' || l FROM tenants, generate_series(1, 3) l;
INSERT INTO ticket_labels SELECT tenant_id, project_id, number, 1 + number % 3 FROM tickets WHERE number > 1;
INSERT INTO comments (tenant_id, project_id, number, author, body, at)
    SELECT tenant_id, project_id, number, CASE WHEN number % 2 = 0 THEN 1 END, 'Comment on ' || number, timestamptz '2024-03-01+00' + number * interval '1 minute'
    FROM tickets;
