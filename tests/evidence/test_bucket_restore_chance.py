"""Histories made by chance on the model: a restore brings back what was held, and destroys nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from restore.bucketjournal import Outcome
from restore.core.bucketactions import Kind, Undelete
from tests.kit.bucketscene import BucketScene, Side, actions_in
from tests.kit.chance import RealClock
from tests.kit.models3 import at
from tests.kit.models3.app import App
from tests.kit.models3.fixtures import MakeModel, TestedModel
from walarchiver.clock import SystemRandom
from walarchiver.evidence.openindex import open_index
from walarchiver.storage import S3Location
from walarchiver.storage.evidence import S3EvidenceBucket

KEYS = ("a", "a/b", "ä", "z+ %")
SECOND = 1000


@dataclass(frozen=True)
class Step:
    """What the application, or somebody with too many rights, does so much after the step before."""

    act: str
    key: str
    body: bytes
    wait_ms: int
    listed: bool


steps = st.lists(
    st.builds(
        Step,
        act=st.sampled_from(["put", "put", "put", "delete", "delete", "purge"]),
        key=st.sampled_from(KEYS),
        body=st.sampled_from([b"x", b"y", b"zz"]),
        wait_ms=st.sampled_from([0, 300, 1000, 2000]),
        listed=st.booleans(),
    ),
    min_size=1,
    max_size=14,
)


@contextmanager
def scene_on(server: TestedModel, app: App) -> Iterator[BucketScene]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = S3EvidenceBucket(S3Location(app.bucket, ""), server.options(), RealClock(), SystemRandom())
        stack.callback(bucket.close)
        index = open_index(folder / "index.sqlite")
        stack.callback(index.close)
        yield BucketScene(Side(bucket, index), folder, stack)


def contents(app: App) -> dict[str, bytes]:
    return {key: b"".join(app.current(key).body.chunks()) for key in app.current_keys()}  # type: ignore[union-attr]


def versions(app: App) -> set[str]:
    return {one.version_id for key in KEYS for one in app.history(key) if not one.is_marker}


drawn = given(steps, st.integers(0, 14), st.sampled_from(Undelete))
some = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@some
@drawn
def test_the_bucket_holds_again_what_it_held_and_nothing_was_destroyed(
    make_model_s3: MakeModel, done: list[Step], chosen: int, undelete: Undelete
) -> None:
    restored(make_model_s3, done, chosen, undelete)


@pytest.mark.nightly
@settings(some, max_examples=300)
@drawn
def test_many_buckets_hold_again_what_they_held(
    make_model_s3: MakeModel, done: list[Step], chosen: int, undelete: Undelete
) -> None:
    restored(make_model_s3, done, chosen, undelete)


def restored(make_model_s3: MakeModel, done: list[Step], chosen: int, undelete: Undelete) -> None:
    server = _server(make_model_s3)
    server.clock.now_ms = at("2026-03-01T12:00:00.700Z")
    name = f"b-{SystemRandom().token(6).hex()}"
    app = server.app(name)
    with scene_on(server, app) as scene:
        scene.own.scan()
        held: list[tuple[int, dict[str, bytes]]] = []
        for step in done:
            server.clock.now_ms += step.wait_ms
            _do(app, step)
            held.append((server.clock.now_ms, contents(app)))
            if step.listed or step.act == "purge":
                scene.own.scan()
        moment, _ = held[min(chosen, len(held) - 1)]
        truth = [state for when, state in held if when <= moment][-1]
        server.clock.now_ms += 5 * SECOND
        before, there = contents(app), versions(app)

        server.log.mark()
        plan = scene.plan(moment, delete_newer=True, undelete=undelete)
        assert server.log.writes() == []
        actions = actions_in(plan)
        report = scene.carry_out(plan)

        assert report.faults == []
        assert report.count(Outcome.FAILED, Outcome.CONTENDED) == 0
        assert there <= versions(app), "no version is ever removed"
        after = contents(app)
        for key in KEYS:
            action = actions.get(key)
            if action is not None and action.kind in (Kind.LOST, Kind.AMBIGUOUS):
                assert after.get(key) == before.get(key), "left as it was"
            elif action is None or not action.flags:
                assert after.get(key) == truth.get(key), f"{key}: {action}"
            elif key in truth:
                assert key in after, "in doubt about the second, a version is kept"

        server.log.mark()
        again = scene.carry_out(scene.plan(moment, delete_newer=True, undelete=undelete))
        assert server.log.writes() == []
        assert again.outcomes.get(Outcome.DONE) is None


_SERVERS: dict[int, TestedModel] = {}


def _server(make: MakeModel) -> TestedModel:
    """One server for all examples of a test."""
    if id(make) not in _SERVERS:
        _SERVERS.clear()
        _SERVERS[id(make)] = make()
    return _SERVERS[id(make)]


def _do(app: App, step: Step) -> None:
    match step.act:
        case "put":
            app.put(step.key, step.body)
        case "delete":
            app.delete(step.key)
        case _:
            history = app.history(step.key)
            if history:
                app.purge_version(step.key, history[-1].version_id)
