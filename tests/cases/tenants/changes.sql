-- change: a ticket of one tenant, whose number all tenants have
UPDATE ticket SET subject = 'Only mine' WHERE tenant_id = 2 AND id = 5;

-- change: a ticket moves to another project of its tenant
UPDATE ticket SET project_id = 2 WHERE tenant_id = 1 AND id = 5;

-- change: a ticket moves to another tenant, which is another partition
UPDATE ticket SET tenant_id = 3, id = 500 WHERE tenant_id = 1 AND id = 6;

-- change: a ticket moves from one partition of its tenant to another
UPDATE ticket SET id = 501 WHERE tenant_id = 2 AND id = 8;
UPDATE ticket SET id = 502 WHERE tenant_id = 2 AND id = 9;

-- change: an account is renamed
UPDATE account SET name = 'Renamed' WHERE tenant_id = 1 AND id = 1;

-- change: a project goes to another account
UPDATE project SET account_id = 3 WHERE tenant_id = 2 AND id = 4;

-- change: an account gets another number, projects follow
UPDATE account SET id = 100 WHERE tenant_id = 3 AND id = 2;

-- change: an account gets another manager
UPDATE account SET manager_id = 5 WHERE tenant_id = 2 AND id IN (1, 2);

-- change: an account goes with its projects
DELETE FROM account WHERE tenant_id = 1 AND id = 3;

-- change: a label changes its code, junction rows follow
UPDATE label SET code = 'bug/2' WHERE tenant_id = 2 AND code = 'bug';

-- change: a label of one tenant goes
DELETE FROM label WHERE tenant_id = 3 AND code = 'wish';

-- change: junction rows come, move and go
INSERT INTO ticket_label VALUES (1, 5, 'ü'), (1, 7, 'ü') ON CONFLICT DO NOTHING;
UPDATE ticket_label SET ticket_id = 11 WHERE tenant_id = 1 AND ticket_id = 12;
DELETE FROM ticket_label WHERE tenant_id = 2 AND ticket_id = 10;

-- change: a tenant gets another number, accounts and projects follow
UPDATE tenant SET id = 30 WHERE id = 3;

-- change: a tenant is deleted, whatever has a constraint goes too
DELETE FROM tenant WHERE id = 2;

-- change: all tickets of one partition
UPDATE ticket_rest SET hours = 7.25 WHERE tenant_id = 4;

-- change: roll back
BEGIN;
DELETE FROM ticket;
ROLLBACK;
