"""The drain side by side: raw Dramatiq, Headrace, Procrastinate and Celery in turn, on the same servers."""

from __future__ import annotations

from pathlib import Path

from bench.drain import drain_rate
from bench.figures import Report
from bench.peer_environment import PeersMissing, peer_environment
from bench.peers_drain import PEER_LIST, Peer, run_peer
from bench.size import Size
from bench.system import PAYLOAD, Servers, connect, noop_type, number, worker
from headrace import open_app

COMPLETED = "SELECT count(*) FROM tasks WHERE state = 'completed'"


def expect(report: Report) -> None:
    report.expect("drain_vs_dramatiq", ">=", 1.5)


def run(servers: Servers, size: Size, report: Report) -> None:
    """Alternates, so that a slow minute of the machine hits everybody; Celery runs once, for it takes a minute."""
    try:
        programs = peer_environment()
    except PeersMissing as error:
        report.notes.append(f"drain: no peers: {error}")
        programs = None
    first, *others = PEER_LIST
    for round_number in range(size.rounds):
        if programs:
            _add_peer(servers, size, report, first, programs)
        report.add("drain_headrace_per_s", _headrace(servers, size.drain_tasks))
        for peer in others:
            if programs and (peer.name != "celery" or round_number == 0):
                _add_peer(servers, size, report, peer, programs)
    for peer in PEER_LIST:
        report.add_ratio(f"drain_vs_{peer.name}", "drain_headrace_per_s", f"drain_{peer.name}_per_s")


def _add_peer(servers: Servers, size: Size, report: Report, peer: Peer, programs: Path) -> None:
    done = run_peer(
        peer,
        size.celery_tasks if peer.name == "celery" else size.drain_tasks,
        programs=programs,
        database_url=servers.fresh_database(f"bench_{peer.name}"),
        redis_url=servers.peer_redis_url(),
        logs=servers.logs,
    )
    report.add(f"drain_{peer.name}_per_s", done.drain_per_s)
    report.add(f"enqueue_{peer.name}_per_s", done.enqueue_per_s)


def _headrace(servers: Servers, total: int) -> float:
    settings = servers.fresh("bench_drain")
    noop = noop_type()
    with open_app(settings) as app:
        owner = app.keys.create(name="bench").key_id
        app.tasks.enqueue_many([noop.model_validate({"payload": PAYLOAD}) for _ in range(total)], owner=owner)
    with connect(settings) as connection:
        connection.execute("ANALYZE")
        with worker(settings, servers.logs) as child:
            return drain_rate(lambda: number(connection, COMPLETED), total, child)
