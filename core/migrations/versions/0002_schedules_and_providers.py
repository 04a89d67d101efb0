"""Schedules and their runs, providers and what their models can do, the archive. See `core/schema.py`."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    name varchar COLLATE "C" NOT NULL,
    kind varchar COLLATE "C" NOT NULL,
    cron text,
    every_s double precision,
    timezone text NOT NULL,
    jitter_s double precision NOT NULL,
    missed varchar COLLATE "C" NOT NULL,
    overlap varchar COLLATE "C" NOT NULL,
    enabled boolean NOT NULL,
    owner_id varchar COLLATE "C",
    task text,
    anchor_at timestamptz NOT NULL,
    last_due timestamptz,
    next_due timestamptz,
    fire_at timestamptz,
    disabled_reason text,
    last_task_id varchar COLLATE "C",
    version integer NOT NULL,
    runs bigint NOT NULL,
    failures bigint NOT NULL,
    skips bigint NOT NULL,
    recent text NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    CONSTRAINT schedules_name_key UNIQUE (kind, name),
    CONSTRAINT schedules_cron_or_every CHECK ((cron IS NULL) <> (every_s IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX schedules_due ON schedules (fire_at) WHERE enabled AND fire_at IS NOT NULL;

CREATE TABLE schedule_runs (
    id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL,
    due_at timestamptz NOT NULL,
    until_at timestamptz,
    due_times integer NOT NULL,
    outcome varchar COLLATE "C" NOT NULL,
    reason text,
    attempt integer NOT NULL,
    holder_id uuid,
    started_at timestamptz,
    finished_at timestamptz,
    lateness_s double precision,
    log text,
    task_id varchar COLLATE "C",
    CONSTRAINT schedule_runs_due_key UNIQUE (schedule_id, due_at)
);
CREATE INDEX schedule_runs_open ON schedule_runs (schedule_id, due_at) WHERE outcome IN ('waiting', 'running');
CREATE INDEX schedule_runs_age ON schedule_runs (due_at);

CREATE TABLE providers (
    name varchar COLLATE "C" PRIMARY KEY,
    kind varchar COLLATE "C" NOT NULL,
    base_url text NOT NULL,
    api_key_sealed bytea,
    api_key_env text,
    enabled boolean NOT NULL,
    priority smallint NOT NULL,
    models text[] NOT NULL,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    discovered_at timestamptz,
    discovery_error text,
    discovery_failed_at timestamptz
);

CREATE TABLE provider_models (
    provider varchar COLLATE "C" NOT NULL,
    model varchar COLLATE "C" NOT NULL,
    abilities text NOT NULL,
    context_tokens integer,
    prices text,
    created bigint,
    owned_by text,
    listed boolean NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (provider, model)
);

CREATE TABLE provider_discoveries (
    provider varchar COLLATE "C" PRIMARY KEY,
    discovered_at timestamptz,
    error text,
    failed_at timestamptz,
    requested_at timestamptz,
    task_id uuid
);

CREATE TABLE capability_overrides (
    provider varchar COLLATE "C" NOT NULL,
    model varchar COLLATE "C" NOT NULL,
    ability varchar COLLATE "C" NOT NULL,
    answer varchar COLLATE "C" NOT NULL,
    note text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (provider, model, ability)
);

CREATE TABLE archived_tasks (
    id uuid PRIMARY KEY,
    public_id varchar COLLATE "C" NOT NULL CONSTRAINT archived_tasks_public_id_key UNIQUE,
    owner_id varchar COLLATE "C" NOT NULL,
    version integer NOT NULL,
    changed_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    task text NOT NULL
);
CREATE INDEX archived_tasks_age ON archived_tasks (finished_at)
"""


def upgrade() -> None:
    op.execute(TABLES)


def downgrade() -> None:
    op.execute(
        "DROP TABLE schedules, schedule_runs, providers, provider_models, provider_discoveries, capability_overrides,"
        " archived_tasks"
    )
