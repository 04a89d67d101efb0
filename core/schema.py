"""
The tables, column by column: who sets each, and when it is left. Migrations in `core/migrations/` make them.
Those of keys, filters and bans are in `core/access/tables.py`.

`python -m core.schema upgrade` brings a database to the newest revision; safe to run from several hosts at once.
Every time in a row is the database's clock. JSON is kept as text, so that it comes back exactly as it went in.
"""

from __future__ import annotations

import sys
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from core.errors import Misconfigured, Unavailable

REVISION = "0003"
"""The newest file in `core/migrations/versions/` (a test holds the two together): what this code needs."""

metadata = sa.MetaData()

_C = sa.String(collation="C")
_TIME = sa.DateTime(timezone=True)

tasks = sa.Table(
    "tasks",
    metadata,
    # Who and what: set at accept, never changed.
    sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7; internal, never shown"),
    sa.Column("public_id", _C, nullable=False, comment="task_ + 32 hex digits; the only id outside"),
    sa.Column("owner_id", _C, nullable=False, comment="public id of the virtual key; every query is scoped by it"),
    sa.Column("type", _C, nullable=False, comment="task type, e.g. chat.completion"),
    sa.Column("queue", _C, nullable=False, comment="name of a row in queues"),
    sa.Column("priority", sa.SmallInteger, nullable=False, comment="0-9, higher first"),
    sa.Column("max_attempts", sa.SmallInteger, nullable=False, comment="budget of failures, first try included"),
    sa.Column("input", sa.Text, nullable=False, comment="JSON text of the validated input"),
    sa.Column("metadata", sa.Text, nullable=False, comment="JSON text, the owner's own"),
    sa.Column("retry_of", _C, nullable=True, comment="public id of the final task this one tries again"),
    sa.Column("created_at", _TIME, nullable=False, comment="accepted"),
    sa.Column("deadline_s", sa.Float, nullable=False, comment="as asked for; counted from created_at or run_at"),
    sa.Column("deadline_at", _TIME, nullable=False, comment="when it times out, waiting or running"),
    # Where it stands: changed by claim, finish, cancel and sweep, always with version + 1.
    sa.Column("state", _C, nullable=False, comment="see core.tasks.model.TaskState"),
    sa.Column("version", sa.Integer, nullable=False, comment="1 at accept, + 1 with every change a client can see"),
    sa.Column("changed_at", _TIME, nullable=False, comment="time of that change"),
    sa.Column("rank", sa.BigInteger, nullable=False, comment="fair order among owners; 0 after a crash: to the front"),
    sa.Column("ready", sa.Boolean, nullable=False, comment="may be claimed now; set at accept or by the sweeper"),
    sa.Column("solo", sa.Boolean, nullable=False, comment="crashed twice: runs alone in a process; set by the sweeper"),
    sa.Column("run_at", _TIME, nullable=False, comment="not before; set at accept, by a retry and by parking"),
    sa.Column("attempt", sa.Integer, nullable=False, comment="claims that started the handler; + 1 at claim"),
    sa.Column("failures", sa.SmallInteger, nullable=False, comment="attempts that ended in a failure"),
    sa.Column("rate_limits", sa.SmallInteger, nullable=False, comment="attempts the provider refused by rate"),
    sa.Column("crashes", sa.SmallInteger, nullable=False, comment="attempts whose process died"),
    sa.Column("worker_id", sa.Uuid, nullable=True, comment="process that holds it; null: nobody (waiting or parked)"),
    sa.Column("token", sa.BigInteger, nullable=True, comment="fence: random per claim; a write must show it"),
    sa.Column("cancel_requested_at", _TIME, nullable=True, comment="the owner's intent, while a worker holds it"),
    sa.Column("started_at", _TIME, nullable=True, comment="first claim"),
    sa.Column("finished_at", _TIME, nullable=True, comment="set with the final state, never changed"),
    sa.Column("poll_state", sa.Text, nullable=True, comment="JSON text left by poll_again; null when not parked"),
    sa.Column("progress", sa.Text, nullable=True, comment='JSON text {"percent": 40.0, "message": "..."}'),
    sa.Column("result", sa.Text, nullable=True, comment="JSON text of the handler's answer, unchanged"),
    sa.Column("error", sa.Text, nullable=True, comment="JSON text of the last failure: code, message, retryable"),
    sa.UniqueConstraint("public_id", name="tasks_public_id_key"),
    sa.CheckConstraint("priority BETWEEN 0 AND 9", name="tasks_priority_range"),
    sa.CheckConstraint(
        "state IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'timed_out')", name="tasks_state_known"
    ),
)
_waiting = sa.text("worker_id IS NULL AND finished_at IS NULL")
sa.Index(
    "tasks_claim",
    tasks.c.queue,
    tasks.c.priority.desc(),
    tasks.c.rank,
    tasks.c.id,
    postgresql_where=sa.text("ready AND NOT solo"),
)
sa.Index("tasks_claim_solo", tasks.c.queue, tasks.c.id, postgresql_where=sa.text("ready AND solo"))
sa.Index("tasks_held", tasks.c.worker_id, postgresql_where=sa.text("worker_id IS NOT NULL"))
sa.Index("tasks_deadline", tasks.c.deadline_at, postgresql_where=_waiting)
sa.Index(
    "tasks_due", tasks.c.run_at, postgresql_where=sa.text("NOT ready AND worker_id IS NULL AND finished_at IS NULL")
)
sa.Index("tasks_owner", tasks.c.owner_id, tasks.c.id)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="one life of one worker process"),
    sa.Column("name", sa.Text, nullable=False, comment="process title, e.g. headrace-worker-1"),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queues", postgresql.ARRAY(sa.Text), nullable=False, comment="queues it serves"),
    sa.Column("lease_s", sa.Float, nullable=False, comment="silence after which it is dead, seconds"),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("heartbeat_at", _TIME, nullable=False, comment="last heartbeat; claims and finishes do not count"),
    sa.Column("stopped_at", _TIME, nullable=True, comment="ended cleanly: holds nothing any more"),
    sa.Column("died_at", _TIME, nullable=True, comment="declared dead; its writes are refused from then on"),
)

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", _C, primary_key=True),
    sa.Column("reserved_slots", sa.SmallInteger, nullable=False, comment="threads of a process kept for it"),
    sa.Column("max_slots", sa.SmallInteger, nullable=True, comment="most threads of a process it may use; null: all"),
    sa.Column("virtual_time", sa.BigInteger, nullable=False, comment="highest rank claimed, about a second behind"),
    sa.Column("created_at", _TIME, nullable=False),
)

owner_ranks = sa.Table(
    "owner_ranks",
    metadata,
    sa.Column("queue", _C, primary_key=True),
    sa.Column("owner_id", _C, primary_key=True),
    sa.Column("rank", sa.BigInteger, nullable=False, comment="rank of the owner's newest task in the queue"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("owner_id", _C, primary_key=True),
    sa.Column("key", _C, primary_key=True),
    sa.Column("body_hash", sa.LargeBinary, nullable=False, comment="SHA-256 of the canonical body"),
    sa.Column("task_ids", postgresql.ARRAY(sa.Uuid), nullable=False, comment="what the first request made, in order"),
    sa.Column("created_at", _TIME, nullable=False, comment="forgotten 24 h later"),
)
sa.Index("idempotency_keys_age", idempotency_keys.c.created_at)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("topic", _C, nullable=False, comment="e.g. task.changed"),
    sa.Column("payload", sa.Text, nullable=False, comment="JSON text; one row speaks for a whole batch"),
    sa.Column("created_at", _TIME, nullable=False, comment="deleted when announced; the sweeper announces old ones"),
)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", _C, nullable=False, comment="unique in its kind; a job's is its file's in jobs/periodic/"),
    sa.Column("kind", _C, nullable=False, comment="job: run by a scheduler; task: enqueues one for its owner"),
    sa.Column("cron", sa.Text, nullable=True, comment="cron text in `timezone`; null: every_s"),
    sa.Column("every_s", sa.Float, nullable=True, comment="period, seconds, counted from anchor_at"),
    sa.Column("timezone", sa.Text, nullable=False, comment="IANA name"),
    sa.Column("jitter_s", sa.Float, nullable=False, comment="a run starts up to so much after its due time"),
    sa.Column("missed", _C, nullable=False, comment="skip, latest or all (bounded): due times nobody fired"),
    sa.Column("overlap", _C, nullable=False, comment="skip or queue: a due time while the last run goes on"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("owner_id", _C, nullable=True, comment="virtual key of the tasks; null for jobs"),
    sa.Column("task", sa.Text, nullable=True, comment="JSON text {type, input, queue, ...}; null for jobs"),
    sa.Column("anchor_at", _TIME, nullable=False, comment="what every_s counts from; never reset by a restart"),
    sa.Column("last_due", _TIME, nullable=True, comment="newest due time that was fired or recorded as skipped"),
    sa.Column("next_due", _TIME, nullable=True, comment="the one after it; null: never again"),
    sa.Column("fire_at", _TIME, nullable=True, comment="next_due plus its jitter: when a scheduler fires it"),
    sa.Column("disabled_reason", sa.Text, nullable=True, comment="why it is not enabled, when no person did that"),
    sa.Column("last_task_id", _C, nullable=True, comment="public id of the newest task it enqueued"),
    sa.Column("version", sa.Integer, nullable=False, comment="+ 1 with every change by a person"),
    sa.Column("runs", sa.BigInteger, nullable=False, comment="runs that ended, of any outcome but skipped"),
    sa.Column("failures", sa.BigInteger, nullable=False),
    sa.Column("skips", sa.BigInteger, nullable=False, comment="due times recorded as skipped"),
    sa.Column("recent", sa.Text, nullable=False, comment="JSON text: last runs, of schedules too frequent for rows"),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("changed_at", _TIME, nullable=False),
    sa.UniqueConstraint("kind", "name", name="schedules_name_key"),
    sa.CheckConstraint("(cron IS NULL) <> (every_s IS NULL)", name="schedules_cron_or_every"),
)
sa.Index("schedules_due", schedules.c.fire_at, postgresql_where=sa.text("enabled AND fire_at IS NOT NULL"))

schedule_runs = sa.Table(
    "schedule_runs",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("schedule_id", sa.Uuid, nullable=False),
    sa.Column("due_at", _TIME, nullable=False, comment="one row per schedule and due time: law 8"),
    sa.Column("until_at", _TIME, nullable=True, comment="of a skipped range: its last due time"),
    sa.Column("due_times", sa.Integer, nullable=False, comment="how many the row stands for; 1 but for ranges"),
    sa.Column("outcome", _C, nullable=False, comment="see core.schedules.model.RunOutcome"),
    sa.Column("reason", sa.Text, nullable=True, comment="why it was skipped or failed"),
    sa.Column("attempt", sa.Integer, nullable=False, comment="times it was begun; 0 waiting, 2 after a take-over"),
    sa.Column("holder_id", sa.Uuid, nullable=True, comment="row in workers of the scheduler that runs it"),
    sa.Column("started_at", _TIME, nullable=True),
    sa.Column("finished_at", _TIME, nullable=True),
    sa.Column("lateness_s", sa.Float, nullable=True, comment="start minus due time, seconds"),
    sa.Column("log", sa.Text, nullable=True, comment="the last lines the run logged, bounded"),
    sa.Column("task_id", _C, nullable=True, comment="public id of the task it enqueued"),
    sa.UniqueConstraint("schedule_id", "due_at", name="schedule_runs_due_key"),
)
sa.Index(
    "schedule_runs_open",
    schedule_runs.c.schedule_id,
    schedule_runs.c.due_at,
    postgresql_where=sa.text("outcome IN ('waiting', 'running')"),
)
sa.Index("schedule_runs_age", schedule_runs.c.due_at)

providers = sa.Table(
    "providers",
    metadata,
    sa.Column("name", _C, primary_key=True),
    sa.Column("kind", _C, nullable=False, comment="openai: any server that speaks its API"),
    sa.Column("base_url", sa.Text, nullable=False),
    sa.Column("api_key_sealed", sa.LargeBinary, nullable=True, comment="encrypted with HEADRACE_ENCRYPTION_KEY"),
    sa.Column("api_key_env", sa.Text, nullable=True, comment="or the name of an environment variable that holds it"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False, comment="lower is asked first"),
    sa.Column("models", postgresql.ARRAY(sa.Text), nullable=False, comment="allow-list, trailing *; empty: all"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("changed_at", _TIME, nullable=False),
    sa.Column("discovered_at", _TIME, nullable=True, comment="last discovery that succeeded"),
    sa.Column("discovery_error", sa.Text, nullable=True, comment="why the last one failed; null when it did not"),
    sa.Column("discovery_failed_at", _TIME, nullable=True),
)

provider_models = sa.Table(
    "provider_models",
    metadata,
    sa.Column("provider", _C, primary_key=True),
    sa.Column("model", _C, primary_key=True),
    sa.Column("abilities", sa.Text, nullable=False, comment='JSON text {"chat": {"answer", "source"}, ...}'),
    sa.Column("context_tokens", sa.Integer, nullable=True),
    sa.Column("prices", sa.Text, nullable=True, comment="JSON text, as genai-prices tells them; null: unpriced"),
    sa.Column("created", sa.BigInteger, nullable=True, comment="Unix time, as the provider says it"),
    sa.Column("owned_by", sa.Text, nullable=True, comment="as the provider says it"),
    sa.Column("listed", sa.Boolean, nullable=False, comment="in the provider's newest list; gone models are kept"),
    sa.Column("first_seen_at", _TIME, nullable=False),
    sa.Column("last_seen_at", _TIME, nullable=False),
)

provider_discoveries = sa.Table(
    "provider_discoveries",
    metadata,
    sa.Column("provider", _C, primary_key=True, comment="also of the settings' provider, which has no row"),
    sa.Column("discovered_at", _TIME, nullable=True, comment="when the good list was asked for; orders and names it"),
    sa.Column("error", sa.Text, nullable=True, comment="why the last discovery failed; null when it did not"),
    sa.Column("failed_at", _TIME, nullable=True, comment="when that was asked for; cleared by the next good one"),
    sa.Column("requested_at", _TIME, nullable=True, comment="newest task was made; many who ask make one"),
    sa.Column("task_id", sa.Uuid, nullable=True, comment="that task"),
)

capability_overrides = sa.Table(
    "capability_overrides",
    metadata,
    sa.Column("provider", _C, primary_key=True, comment="empty: every provider"),
    sa.Column("model", _C, primary_key=True),
    sa.Column("ability", _C, primary_key=True),
    sa.Column("answer", _C, nullable=False, comment="yes, no or unknown: wins over what was discovered"),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", _TIME, nullable=False),
)

archived_tasks = sa.Table(
    "archived_tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="as in tasks; newest first by id"),
    sa.Column("public_id", _C, nullable=False),
    sa.Column("owner_id", _C, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, comment="with changed_at: its ETag, as before"),
    sa.Column("changed_at", _TIME, nullable=False),
    sa.Column("finished_at", _TIME, nullable=False, comment="deleted so many days later"),
    sa.Column("task", sa.Text, nullable=False, comment="the task's wire form, as it was read last"),
    sa.UniqueConstraint("public_id", name="archived_tasks_public_id_key"),
)
sa.Index("archived_tasks_age", archived_tasks.c.finished_at)


def upgrade(url: str) -> None:
    """Bring the database at `url` (SQLAlchemy form) to the newest revision."""
    # Imported here: alembic costs every process that never migrates 10 MB.
    from alembic import command  # noqa: PLC0415 (see above)
    from alembic.config import Config  # noqa: PLC0415 (see above)

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    command.upgrade(config, "head")


def check_revision(connection: sa.Connection) -> None:
    """
    Raises:
        Misconfigured: the database is not at the revision this code needs.
    """
    current = None
    if sa.inspect(connection).has_table("alembic_version"):
        current = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if current != REVISION:
        raise Misconfigured(
            f"the database is at revision {current or 'none'}, this code needs {REVISION}: "
            "run `python -m core.schema upgrade`"
        )


def main(arguments: list[str]) -> int:
    # Imported here: the tables must not depend on how servers are found.
    from core.connections import database_errors  # noqa: PLC0415 (see above)
    from core.embedded import open_servers  # noqa: PLC0415 (see above)
    from core.logs import configure_logging  # noqa: PLC0415 (see above)
    from core.settings import load_settings, sqlalchemy_url  # noqa: PLC0415 (see above)

    if arguments != ["upgrade"]:
        print("usage: python -m core.schema upgrade", file=sys.stderr)  # noqa: T201 (what the command says)
        return 2
    try:
        loaded = load_settings()
        configure_logging(level=loaded.log_level, format=loaded.log_format, process="release")
        with open_servers(loaded) as settings:
            if settings.database_url is None:
                raise Misconfigured("DATABASE_URL: not set")
            with database_errors("nothing was migrated"):
                upgrade(sqlalchemy_url(settings.database_url.get_secret_value()))
    except Misconfigured as error:
        print(error, file=sys.stderr)  # noqa: T201 (what the command says)
        return 2
    except Unavailable as error:
        print(f"{error}: {error.__cause__}".splitlines()[0], file=sys.stderr)  # noqa: T201 (what the command says)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
