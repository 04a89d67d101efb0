"""Tasks, who runs them, who owns them, and the outbox. Columns are described in `core/schema.py`."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    public_id varchar COLLATE "C" NOT NULL CONSTRAINT tasks_public_id_key UNIQUE,
    owner_id varchar COLLATE "C" NOT NULL,
    type varchar COLLATE "C" NOT NULL,
    queue varchar COLLATE "C" NOT NULL,
    priority smallint NOT NULL CONSTRAINT tasks_priority_range CHECK (priority BETWEEN 0 AND 9),
    max_attempts smallint NOT NULL,
    input text NOT NULL,
    metadata text NOT NULL,
    retry_of varchar COLLATE "C",
    created_at timestamptz NOT NULL,
    deadline_s double precision NOT NULL,
    deadline_at timestamptz NOT NULL,
    state varchar COLLATE "C" NOT NULL CONSTRAINT tasks_state_known CHECK (
        state IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'timed_out')),
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    rank bigint NOT NULL,
    ready boolean NOT NULL,
    solo boolean NOT NULL,
    run_at timestamptz NOT NULL,
    attempt integer NOT NULL,
    failures smallint NOT NULL,
    rate_limits smallint NOT NULL,
    crashes smallint NOT NULL,
    worker_id uuid,
    token bigint,
    cancel_requested_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    poll_state text,
    progress text,
    result text,
    error text
);
CREATE INDEX tasks_claim ON tasks (queue, priority DESC, rank, id) WHERE ready AND NOT solo;
CREATE INDEX tasks_claim_solo ON tasks (queue, id) WHERE ready AND solo;
CREATE INDEX tasks_held ON tasks (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX tasks_deadline ON tasks (deadline_at) WHERE worker_id IS NULL AND finished_at IS NULL;
CREATE INDEX tasks_due ON tasks (run_at) WHERE NOT ready AND worker_id IS NULL AND finished_at IS NULL;
CREATE INDEX tasks_owner ON tasks (owner_id, id);

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    queues text[] NOT NULL,
    lease_s double precision NOT NULL,
    started_at timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    stopped_at timestamptz,
    died_at timestamptz
);

CREATE TABLE queues (
    name varchar COLLATE "C" PRIMARY KEY,
    reserved_slots smallint NOT NULL,
    max_slots smallint,
    virtual_time bigint NOT NULL,
    created_at timestamptz NOT NULL
);
INSERT INTO queues (name, reserved_slots, virtual_time, created_at) VALUES ('default', 0, 0, now());

CREATE TABLE owner_ranks (
    queue varchar COLLATE "C" NOT NULL,
    owner_id varchar COLLATE "C" NOT NULL,
    rank bigint NOT NULL,
    PRIMARY KEY (queue, owner_id)
) WITH (fillfactor = 50);

CREATE TABLE idempotency_keys (
    owner_id varchar COLLATE "C" NOT NULL,
    key varchar COLLATE "C" NOT NULL,
    body_hash bytea NOT NULL,
    task_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (owner_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    topic varchar COLLATE "C" NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE virtual_keys (
    key_id varchar COLLATE "C" PRIMARY KEY,
    name text NOT NULL,
    key_hash bytea NOT NULL,
    pepper_version smallint NOT NULL,
    created_at timestamptz NOT NULL,
    disabled_at timestamptz
)
"""

# The second lock behind the fences: whatever a statement says, a final row stays, and a version never falls.
# The condition is evaluated without calling the function, so a legal move pays almost nothing.
GUARD = """
CREATE FUNCTION refuse_illegal_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'task % may not go from % (version %) to % (version %)',
        OLD.public_id, OLD.state, OLD.version, NEW.state, NEW.version USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER tasks_legal_moves BEFORE UPDATE ON tasks FOR EACH ROW
    WHEN (OLD.finished_at IS NOT NULL OR NEW.version < OLD.version
          OR (OLD.state = 'pending' AND NEW.state = 'completed')
          OR ((NEW.finished_at IS NULL) <> (NEW.state IN ('pending', 'processing'))))
    EXECUTE FUNCTION refuse_illegal_move();
"""

# A queue table is mostly dead rows: vacuum by hundreds of changes, not by a fifth of a large table.
VACUUM = """
ALTER TABLE tasks SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 1);
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
ALTER TABLE owner_ranks SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(GUARD)
    op.execute(VACUUM)


def downgrade() -> None:
    op.execute("DROP TABLE tasks, workers, queues, owner_ranks, idempotency_keys, outbox, virtual_keys")
    op.execute("DROP FUNCTION refuse_illegal_move()")
