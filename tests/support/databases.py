"""A database of its own for each test, copied from one that was migrated once."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from core import schema
from core.settings import sqlalchemy_url

TEMPLATE = "headrace_template"


def database_named(url: str, name: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def make_template(server_url: str) -> None:
    """Migrate the database all others are copied from; also gives it pg_stat_statements where the server has it."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    url = database_named(server_url, TEMPLATE)
    schema.upgrade(sqlalchemy_url(url))
    with psycopg.connect(url, autocommit=True) as connection:
        loaded = connection.execute("SELECT current_setting('shared_preload_libraries')").fetchone()
        if loaded is not None and "pg_stat_statements" in loaded[0]:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


@contextmanager
def fresh_database(server_url: str, *, migrated: bool = True) -> Generator[str]:
    """The URL of a new database; dropped afterwards, whoever is still connected."""
    name = f"test_{secrets.token_hex(6)}"
    template = TEMPLATE if migrated else "template1"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(create)
    try:
        yield database_named(server_url, name)
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
