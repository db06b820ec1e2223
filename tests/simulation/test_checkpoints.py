"""Checkpoints: recorded hourly, kept elsewhere, and held against a chain that was cut off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.kit.faultystore import Fault, FaultyStore
from tests.simulation.test_ledger import archive, wal
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.checkpoints import INTERVAL_US, STALE_US, Checkpointer, Kept, look_into
from walarchiver.core.objectname import checkpoint_key, ledger_key, parse_checkpoint_key
from walarchiver.errors import LedgerBroken, StoreDenied, StoreUnavailable
from walarchiver.format.checkpoint import Checkpoint, sign_checkpoint
from walarchiver.format.records import CheckpointRecord
from walarchiver.format.signed import Signer
from walarchiver.secondplace import SecondPlace
from walarchiver.storage.memory import MemoryStore

HOUR_S = INTERVAL_US / 1e6


@dataclass
class Scene:
    """A chain, and a store elsewhere."""

    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.memory = MemoryStore(self.world.clock)
        self.store = FaultyStore(self.memory)
        self.process = self.world.began()
        self.prefix = f"v1/checkpoint/{self.world.new.repo}/{SYSTEM}/"

    def place(self, process: Process | None = None) -> SecondPlace:
        chosen = process or self.process
        repository, in_force = chosen.repository, chosen.catalog.keyring_at
        return SecondPlace(self.store, repository, repo=repository.repo, system=SYSTEM, in_force=in_force)

    def keeper(
        self, process: Process | None = None, open_place: Callable[[], SecondPlace] | None = None
    ) -> Checkpointer:
        chosen = process or self.process
        return Checkpointer(
            chosen.ledger,
            chosen.signer,
            self.world.clock,
            place_url="memory:",
            open_place=open_place or (lambda: self.place(chosen)),
        )

    def goes_on(self, number: int, process: Process | None = None) -> None:
        assert (process or self.process).ledger.commit([archive(wal(number))]) == [None]

    def head(self) -> tuple[int, str]:
        seq = self.process.ledger.state().next_seq - 1
        raw = self.world.memory.get(ledger_key(SYSTEM, seq), bytes_max=1 << 20)
        assert raw is not None
        return seq, hashlib.sha256(raw).hexdigest()

    def kept(self) -> list[int]:
        names = [parse_checkpoint_key(version.key) for version in self.memory.list_keys(self.prefix)]
        return [name.seq for name in names if name is not None]

    def record(self, keeper: Checkpointer) -> bool:
        """What the daemon does each minute, in the chain."""
        proposal = keeper.proposal()
        return proposal is not None and self.process.ledger.commit([proposal]) == [None]

    def checkpoints(self) -> list[CheckpointRecord]:
        return [
            one for one in self.process.catalog._records("checkpoint") if isinstance(one, CheckpointRecord)
        ]


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- in the chain ------------------------------------------------------------------------------------


def test_an_hour_after_the_last_a_checkpoint_names_the_entry_before_it(scene: Scene) -> None:
    keeper = scene.keeper()
    scene.goes_on(1)
    assert not scene.record(keeper), "the chain has just begun"
    scene.world.clock.advance(HOUR_S - 1)
    assert not scene.record(keeper)
    scene.world.clock.advance(1)
    seen = scene.head()
    assert scene.record(keeper)
    assert [(one.seq, one.sha256) for one in scene.checkpoints()] == [seen]
    assert not scene.record(keeper)
    fresh = scene.world.process(write=False)
    fresh.ledger.refresh()
    assert fresh.catalog.dump() == scene.process.catalog.dump()


def test_nothing_is_recorded_while_nothing_but_a_checkpoint_came(scene: Scene) -> None:
    keeper = scene.keeper()
    scene.world.clock.advance(HOUR_S)
    assert scene.record(keeper)
    for _ in range(5):
        scene.world.clock.advance(HOUR_S)
        assert not scene.record(keeper)
    scene.goes_on(1)
    assert scene.record(keeper)
    assert len(scene.checkpoints()) == 2


def test_of_two_hosts_one_records_the_checkpoint_of_an_hour(scene: Scene) -> None:
    other = scene.world.process()
    other.ledger.refresh()
    scene.world.clock.advance(HOUR_S)
    first, second = scene.keeper(), scene.keeper(other)
    late = second.proposal()
    assert late is not None
    assert scene.record(first)
    assert other.ledger.commit([late]) == [None]
    assert scene.process.ledger.refresh() == other.ledger.state()
    assert len(scene.checkpoints()) == 1


# --- elsewhere ----------------------------------------------------------------------------------------


def test_the_head_is_kept_elsewhere_at_once_and_then_hourly_when_it_moved(scene: Scene) -> None:
    keeper = scene.keeper()
    assert keeper.keep()
    assert scene.kept() == [0]
    scene.goes_on(1)
    assert not keeper.keep()
    scene.world.clock.advance(HOUR_S)
    assert scene.record(keeper)
    assert keeper.keep()
    assert scene.kept() == [0, 2], "the checkpoint's own entry is covered"
    for _ in range(3):
        scene.world.clock.advance(HOUR_S)
        assert not scene.record(keeper)
        assert not keeper.keep()
    newest = scene.place().newest()
    assert newest is not None
    assert (newest.seq, newest.sha256) == scene.head()
    assert newest.writer == scene.process.signer.id


def test_a_restart_goes_on_where_it_was(scene: Scene) -> None:
    assert scene.keeper().keep()
    scene.goes_on(1)
    assert not scene.keeper().keep()
    scene.world.clock.advance(HOUR_S)
    assert scene.keeper().keep()
    assert scene.kept() == [0, 1]


def test_that_another_host_was_first_with_the_same_is_as_good(scene: Scene) -> None:
    other = scene.world.process()
    other.ledger.refresh()
    one, two = scene.keeper(), scene.keeper(other)
    two.kept = Kept("memory:", None)
    two._place = scene.place(other)  # opened before the first one wrote
    assert one.keep()
    assert two.keep()
    assert scene.kept() == [0]


def test_a_create_whose_answer_was_lost_is_found_to_be_done(scene: Scene) -> None:
    keeper = scene.keeper()
    scene.store.fail(Fault("put_new", "v1/", after=True))
    with pytest.raises(StoreUnavailable):
        keeper.keep()
    assert keeper.keep()
    assert scene.kept() == [0]


@pytest.mark.parametrize("operation", ["list_versions", "put_new"])
def test_a_second_place_that_is_away_is_said_and_tried_again(scene: Scene, operation: str) -> None:
    keeper = scene.keeper()
    scene.store.fail(Fault(operation, "v1/", times=2))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            keeper.keep()
        assert keeper.kept is not None
        assert "memory:: the store answers 503" in (keeper.kept.problem(scene.process.catalog) or "")
    assert keeper.keep()
    assert keeper.kept.problem(scene.process.catalog) is None
    assert scene.kept() == [0]


def test_a_second_place_that_cannot_be_opened_is_tried_again(scene: Scene) -> None:
    tries = iter([StoreDenied("no such folder"), None])

    def opened() -> SecondPlace:
        problem = next(tries)
        if problem is not None:
            raise problem
        return scene.place()

    keeper = scene.keeper(open_place=opened)
    with pytest.raises(StoreDenied):
        keeper.keep()
    assert keeper.keep()


def test_a_host_without_a_second_place_keeps_nothing(scene: Scene) -> None:
    keeper = Checkpointer(scene.process.ledger, scene.process.signer, scene.world.clock)
    assert not keeper.keep()
    assert keeper.kept is None
    scene.world.clock.advance(HOUR_S)
    assert scene.record(keeper)


# --- what it shows -------------------------------------------------------------------------------------


def cut_off(scene: Scene) -> Process:
    """The newest two entries are removed, and a process comes that never saw them."""
    scene.goes_on(1)
    scene.goes_on(2)
    scene.world.clock.advance(HOUR_S)
    assert scene.keeper().keep()
    for seq in (1, 2):
        scene.world.replace(ledger_key(SYSTEM, seq), None)
    scene.process = scene.world.process()
    scene.process.ledger.refresh()
    return scene.process


@pytest.mark.parametrize("gone_on", [0, 1, 2, 3])
def test_a_chain_that_was_cut_off_is_an_alarm_however_far_it_went_on(scene: Scene, gone_on: int) -> None:
    process = cut_off(scene)
    for number in range(gone_on):
        scene.goes_on(100 + number)
    keeper = scene.keeper()
    for _ in range(2):
        with pytest.raises(LedgerBroken, match=r"entry 2 .* a checkpoint vouches for it"):
            keeper.keep()
    assert scene.kept() == [2]
    kept = look_into(scene.place(), process.catalog)
    assert isinstance(kept.failure, LedgerBroken)
    assert "entry 2" in (kept.problem(process.catalog) or "")
    assert process.ledger.commit([archive(wal(50))]) == [None], "archiving goes on"


def test_another_entry_under_the_number_that_was_kept_is_an_alarm(scene: Scene) -> None:
    place = scene.place()
    scene.goes_on(1)
    said = Checkpoint(
        scene.world.new.repo, SYSTEM, 1, "0" * 64, scene.world.clock.now_us(), 1, scene.process.signer.id
    )
    keeper = scene.keeper()
    keeper._place = place
    scene.memory.put_new(checkpoint_key(said.repo, SYSTEM, 1), sign_checkpoint(said, scene.process.signer))
    with pytest.raises(LedgerBroken, match="the ledger has"):
        keeper.keep()


def test_a_void_number_fulfils_no_checkpoint(scene: Scene) -> None:
    scene.world.memory.put_new(ledger_key(SYSTEM, 1), b"junk")
    scene.process.ledger.refresh()
    sha256 = scene.process.catalog.entry_sha256(1)
    assert sha256 is not None
    said = Checkpoint(scene.world.new.repo, SYSTEM, 1, sha256, 0, 1, scene.process.signer.id)
    scene.memory.put_new(checkpoint_key(said.repo, SYSTEM, 1), sign_checkpoint(said, scene.process.signer))
    assert look_into(scene.place(), scene.process.catalog).failure is not None


@pytest.mark.parametrize("kind", ["junk", "a stranger's", "another name", "too long", "another chain"])
def test_what_does_not_verify_hides_no_older_checkpoint(scene: Scene, kind: str) -> None:
    assert scene.keeper().keep()
    genuine = scene.memory.get(scene.prefix + f"{0:016x}.json", bytes_max=1 << 20)
    assert genuine is not None
    stranger = Signer.from_seed(b"s" * 32)
    forged = Checkpoint(scene.world.new.repo, SYSTEM, 9, "0" * 64, 0, 1, stranger.id)
    other = Checkpoint(scene.world.new.repo, "1", 9, "0" * 64, 0, 1, scene.process.signer.id)
    bodies = {
        "junk": b"junk",
        "a stranger's": sign_checkpoint(forged, stranger),
        "another name": genuine,
        "too long": bytes(1 << 20),
        "another chain": sign_checkpoint(other, scene.process.signer),
    }
    scene.memory.put_new(checkpoint_key(forged.repo, SYSTEM, 9), bodies[kind])
    newest = scene.place().newest()
    assert newest is not None
    assert newest.seq == 0
    assert look_into(scene.place(), scene.process.catalog).failure is None


def test_a_checkpoint_by_a_keyring_to_come_is_read_after_the_keyrings_were_read_anew(scene: Scene) -> None:
    from tests.simulation.test_repository_keyrings import next_keyring
    from walarchiver.core.objectname import keyring_key

    early = scene.place()
    said = Checkpoint(scene.world.new.repo, SYSTEM, 0, "0" * 64, 0, 2, scene.process.signer.id)
    scene.memory.put_new(checkpoint_key(said.repo, SYSTEM, 0), sign_checkpoint(said, scene.process.signer))
    assert early.newest() is None
    scene.world.memory.put_new(keyring_key(2), next_keyring(scene.world))
    found = early.newest()
    assert found is not None
    assert found.keyring == 2


def test_a_place_that_lags_behind_the_chain_is_a_problem(scene: Scene) -> None:
    def problem() -> str | None:
        return look_into(scene.place(), scene.process.catalog).problem(scene.process.catalog)

    assert problem() is None, "nothing kept yet, but the chain is young"
    scene.world.clock.advance(STALE_US / 1e6 + 1)
    assert problem() is None, "nothing came since"
    scene.goes_on(1)
    assert "no checkpoint although the ledger went on for 3 hours" in (problem() or "")
    assert scene.keeper().keep()
    assert problem() is None
    scene.world.clock.advance(STALE_US / 1e6 + 1)
    scene.goes_on(2)
    assert "none behind entry 1 although" in (problem() or "")
