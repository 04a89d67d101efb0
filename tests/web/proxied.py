"""A web process behind a trusted proxy, which is the test: each request says from which address it comes."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from core.app import open_app
from core.embedded import Servers
from core.settings import Settings
from tests.support.databases import fresh_database
from tests.web.serving import Caller, Site, open_site


@contextmanager
def proxied_site(servers: Servers, server_settings: Settings, directory: Path) -> Generator[Site]:
    with fresh_database(servers.database_url) as url:
        settings = server_settings.model_copy(
            update={
                "database_url": SecretStr(url),
                "instance_name": f"p{secrets.token_hex(4)}:",
                "data_dir": directory,
                "trusted_proxies": ("127.0.0.1",),
            }
        )
        with open_app(settings) as app, open_site(app, directory / "web.log") as site:
            yield site


def operator(site: Site) -> Caller:
    """Comes from this machine."""
    key = site.app.settings.admin_key
    assert key is not None
    return site.caller.with_key(key.get_secret_value())


def from_address(address: str) -> dict[str, str]:
    return {"X_Forwarded_For": address}
