"""
What a virtual key may do, IP filters, bans, the changes that processes must hear of, the audit log.

The database itself writes down every change of a right, one row a statement, in its transaction: whoever changes a row,
by whatever path, cannot forget to tell. `core/events/access.py` has the shapes.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = """
ALTER TABLE virtual_keys
    ADD COLUMN previous_hash bytea,
    ADD COLUMN previous_pepper_version smallint,
    ADD COLUMN previous_until timestamptz,
    ADD COLUMN group_name varchar COLLATE "C",
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN allowed_types text[] NOT NULL DEFAULT '{}',
    ADD COLUMN allowed_models text[] NOT NULL DEFAULT '{}',
    ADD COLUMN rpm integer,
    ADD COLUMN rpd integer,
    ADD COLUMN tpm bigint,
    ADD COLUMN concurrency integer,
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN deleted_at timestamptz;
UPDATE virtual_keys SET changed_at = coalesce(disabled_at, created_at);
CREATE INDEX virtual_keys_changed ON virtual_keys (changed_at);
CREATE INDEX virtual_keys_listed ON virtual_keys (created_at, key_id);

CREATE TABLE ip_filters (
    id uuid PRIMARY KEY,
    action varchar COLLATE "C" NOT NULL CONSTRAINT ip_filters_action_known CHECK (action IN ('allow', 'deny')),
    cidr cidr NOT NULL,
    key_id varchar COLLATE "C",
    enabled boolean NOT NULL,
    note text NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL
);

CREATE TABLE bans (
    network cidr PRIMARY KEY,
    reason text NOT NULL,
    failures integer NOT NULL,
    level smallint NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    until_at timestamptz NOT NULL
);
CREATE INDEX bans_until ON bans (until_at);

CREATE TABLE access_changes (
    id uuid PRIMARY KEY,
    change text NOT NULL,
    created_at timestamptz NOT NULL,
    relayed_at timestamptz
);
CREATE INDEX access_changes_relayed ON access_changes (relayed_at, created_at);

CREATE TABLE access_versions (
    name varchar COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL
);
INSERT INTO access_versions VALUES ('ip_filters', 0);

CREATE TABLE doors (
    id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL
);

CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor varchar COLLATE "C" NOT NULL,
    address text,
    action varchar COLLATE "C" NOT NULL,
    subject text,
    outcome varchar COLLATE "C"
);
"""

TRIGGERS = """
CREATE FUNCTION access_row_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;

CREATE FUNCTION virtual_keys_row_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE FUNCTION virtual_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO access_changes (id, change, created_at)
    SELECT gen_random_uuid(), jsonb_build_object('kind', 'key', 'entries', jsonb_agg(jsonb_build_object(
            'id', key_id, 'version', CASE WHEN TG_OP = 'DELETE' THEN version + 1 ELSE version END,
            'hashes', CASE WHEN previous_hash IS NULL THEN jsonb_build_array(encode(key_hash, 'hex'))
                ELSE jsonb_build_array(encode(key_hash, 'hex'), encode(previous_hash, 'hex')) END,
            'rpm', rpm, 'rpd', rpd, 'tpm', tpm, 'concurrency', concurrency)))::text, clock_timestamp()
    FROM changed HAVING count(*) > 0;
    RETURN NULL;
END $$;

-- Both hashes of before and after: a rotation takes one away.
CREATE FUNCTION virtual_keys_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO access_changes (id, change, created_at)
    SELECT gen_random_uuid(), jsonb_build_object('kind', 'key', 'entries', jsonb_agg(jsonb_build_object(
            'id', n.key_id, 'version', n.version,
            'hashes', (SELECT jsonb_agg(DISTINCT encode(h, 'hex'))
                FROM unnest(ARRAY[n.key_hash, n.previous_hash, o.key_hash, o.previous_hash]) h WHERE h IS NOT NULL),
            'rpm', n.rpm, 'rpd', n.rpd, 'tpm', n.tpm, 'concurrency', n.concurrency)))::text, clock_timestamp()
    FROM changed n JOIN before o USING (key_id) HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE FUNCTION ip_filters_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    UPDATE access_versions SET version = version + 1 WHERE name = 'ip_filters' RETURNING version INTO newest;
    INSERT INTO access_changes (id, change, created_at)
    VALUES (gen_random_uuid(), jsonb_build_object('kind', 'ip_filters', 'version', newest)::text, clock_timestamp());
    RETURN NULL;
END $$;

CREATE FUNCTION bans_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO access_changes (id, change, created_at)
    SELECT gen_random_uuid(), jsonb_build_object('kind', 'ban', 'entries', jsonb_agg(jsonb_build_object(
        'network', network::text, 'version', version, 'reason', reason,
        'until', CASE WHEN TG_OP = 'DELETE' THEN 0 ELSE extract(epoch FROM until_at) END)))::text, clock_timestamp()
    FROM changed HAVING count(*) > 0;
    RETURN NULL;
END $$;

CREATE TRIGGER virtual_keys_row BEFORE UPDATE ON virtual_keys FOR EACH ROW EXECUTE FUNCTION virtual_keys_row_changes();
CREATE TRIGGER ip_filters_row BEFORE UPDATE ON ip_filters FOR EACH ROW EXECUTE FUNCTION access_row_changes();
CREATE TRIGGER bans_row BEFORE UPDATE ON bans FOR EACH ROW EXECUTE FUNCTION access_row_changes();
CREATE TRIGGER virtual_keys_told_insert AFTER INSERT ON virtual_keys REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION virtual_keys_changed();
CREATE TRIGGER virtual_keys_told_update AFTER UPDATE ON virtual_keys
    REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION virtual_keys_updated();
CREATE TRIGGER virtual_keys_told_delete AFTER DELETE ON virtual_keys REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION virtual_keys_changed();
CREATE TRIGGER ip_filters_told AFTER INSERT OR UPDATE OR DELETE ON ip_filters
    FOR EACH STATEMENT EXECUTE FUNCTION ip_filters_changed();
CREATE TRIGGER bans_told_insert AFTER INSERT ON bans REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION bans_changed();
CREATE TRIGGER bans_told_update AFTER UPDATE ON bans REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION bans_changed();
CREATE TRIGGER bans_told_delete AFTER DELETE ON bans REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION bans_changed();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute(
        "DROP TRIGGER virtual_keys_row ON virtual_keys; DROP TRIGGER virtual_keys_told_insert ON virtual_keys;"
        " DROP TRIGGER virtual_keys_told_update ON virtual_keys; DROP TRIGGER virtual_keys_told_delete ON virtual_keys;"
        " DROP TABLE ip_filters, bans, access_changes, access_versions, doors, audit_log;"
        " DROP FUNCTION access_row_changes, virtual_keys_row_changes, virtual_keys_changed, virtual_keys_updated,"
        " ip_filters_changed, bans_changed;"
        " DROP INDEX virtual_keys_listed; DROP INDEX virtual_keys_changed;"
        " ALTER TABLE virtual_keys DROP COLUMN previous_hash, DROP COLUMN previous_pepper_version,"
        " DROP COLUMN previous_until, DROP COLUMN group_name, DROP COLUMN expires_at, DROP COLUMN allowed_types,"
        " DROP COLUMN allowed_models, DROP COLUMN rpm, DROP COLUMN rpd, DROP COLUMN tpm, DROP COLUMN concurrency,"
        " DROP COLUMN version, DROP COLUMN changed_at, DROP COLUMN deleted_at"
    )
