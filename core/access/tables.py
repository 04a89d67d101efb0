"""
The tables of rights: keys, IP filters, bans; changes of them that processes hear of; the audit log. See core/schema.py.

Versions and `access_changes` are written by triggers (migration 0003), so that no path to a row can forget them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from core.schema import metadata

_C = sa.String(collation="C")
_TIME = sa.DateTime(timezone=True)

virtual_keys = sa.Table(
    "virtual_keys",
    metadata,
    sa.Column("key_id", _C, primary_key=True, comment="12 characters, the public part of the key; logs show it"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("key_hash", sa.LargeBinary, nullable=False, comment="HMAC-SHA-256 of the clear key with the pepper"),
    sa.Column("pepper_version", sa.SmallInteger, nullable=False, comment="which of the peppers in the settings"),
    sa.Column("previous_hash", sa.LargeBinary, nullable=True, comment="of the clear key before a rotation"),
    sa.Column("previous_pepper_version", sa.SmallInteger, nullable=True),
    sa.Column("previous_until", _TIME, nullable=True, comment="the key before a rotation is refused from then on"),
    sa.Column("group_name", _C, nullable=True, comment="keys that belong together"),
    sa.Column("expires_at", _TIME, nullable=True, comment="refused from then on; null: never"),
    sa.Column("allowed_types", postgresql.ARRAY(sa.Text), nullable=False, comment="trailing *; empty: all"),
    sa.Column("allowed_models", postgresql.ARRAY(sa.Text), nullable=False, comment="trailing *; empty: all"),
    sa.Column("rpm", sa.Integer, nullable=True, comment="requests a minute and route; null: no limit"),
    sa.Column("rpd", sa.Integer, nullable=True, comment="requests a day and route; null: no limit"),
    sa.Column("tpm", sa.BigInteger, nullable=True, comment="tokens a minute; null: no limit"),
    sa.Column("concurrency", sa.Integer, nullable=True, comment="tasks accepted and not final; null: no limit"),
    sa.Column("version", sa.Integer, nullable=False, comment="+ 1 with every change, by a trigger: orders copies"),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("changed_at", _TIME, nullable=False, comment="by the same trigger"),
    sa.Column("disabled_at", _TIME, nullable=True, comment="refused from then on, until enabled"),
    sa.Column(
        "deleted_at", _TIME, nullable=True, comment="refused for good and in no list; tasks and money refer to it"
    ),
)
sa.Index("virtual_keys_changed", virtual_keys.c.changed_at)
sa.Index("virtual_keys_listed", virtual_keys.c.created_at, virtual_keys.c.key_id)

ip_filters = sa.Table(
    "ip_filters",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("action", _C, nullable=False, comment="allow or deny"),
    sa.Column("cidr", postgresql.CIDR, nullable=False, comment="normalised: no host bits, no IPv4 inside IPv6"),
    sa.Column("key_id", _C, nullable=True, comment="virtual key it is for; null: everybody"),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, comment="+ 1 with every change, by a trigger"),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("changed_at", _TIME, nullable=False),
    sa.CheckConstraint("action IN ('allow', 'deny')", name="ip_filters_action_known"),
)

bans = sa.Table(
    "bans",
    metadata,
    sa.Column("network", postgresql.CIDR, primary_key=True, comment="an IPv4 address, or an IPv6 /64, /56 or /48"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False, comment="failed log-ins that led to it; 0: by an operator"),
    sa.Column("level", sa.SmallInteger, nullable=False, comment="bans in a row: each lasts longer"),
    sa.Column("version", sa.Integer, nullable=False, comment="+ 1 with every change, by a trigger"),
    sa.Column("created_at", _TIME, nullable=False, comment="start of the newest ban"),
    sa.Column("until_at", _TIME, nullable=False, comment="in the past: over, kept a while for `level`"),
)
sa.Index("bans_until", bans.c.until_at)

access_changes = sa.Table(
    "access_changes",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column(
        "change",
        sa.Text,
        nullable=False,
        comment="JSON text, see core/events/access.py; written by triggers, one row a statement",
    ),
    sa.Column("created_at", _TIME, nullable=False, comment="before the commit, maybe long before"),
    sa.Column(
        "relayed_at",
        _TIME,
        nullable=True,
        comment="written to the change log in Redis; every process looks at null and the last 15 s",
    ),
)
# By the time of relaying, not of the change: a transaction may commit long after its changes were written.
sa.Index("access_changes_relayed", access_changes.c.relayed_at, access_changes.c.created_at)

access_versions = sa.Table(
    "access_versions",
    metadata,
    sa.Column("name", _C, primary_key=True, comment="of a set that is cached whole, e.g. ip_filters"),
    sa.Column("version", sa.BigInteger, nullable=False, comment="+ 1 with each change of the set, by a trigger"),
)

doors = sa.Table(
    "doors",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="one life of one web process"),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("heartbeat_at", _TIME, nullable=False, comment="live processes share the limits while Redis is away"),
)

audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7: newest first by id"),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("actor", _C, nullable=False, comment="admin-key, or command-line"),
    sa.Column("address", sa.Text, nullable=True, comment="client address; null for the command line"),
    sa.Column("action", _C, nullable=False, comment="e.g. POST /v1/admin/keys/{key_id}/disable"),
    sa.Column("subject", sa.Text, nullable=True, comment="what it was done to, e.g. a key's id"),
    sa.Column("outcome", _C, nullable=True, comment="HTTP status, or done / failed; null: its process died meanwhile"),
)
