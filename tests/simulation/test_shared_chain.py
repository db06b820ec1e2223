"""Two hosts on one chain while somebody deletes its newest entry: whose facts count is found out, or said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.simulation.test_ledger import archive, names, same_everywhere, wal
from tests.simulation.test_repository_keyrings import next_keyring
from tests.simulation.world import SYSTEM, Process, World
from walarchiver.core.objectname import keyring_key, ledger_key
from walarchiver.errors import LedgerBroken
from walarchiver.format.records import KeyringRecord
from walarchiver.format.signed import Signer
from walarchiver.ledger import fact

OTHER = Signer.from_seed(b"\x01" * 32)
LEDGER = f"v1/c/{SYSTEM}/ledger/"


class Hosts:
    """One and the other write with keys of their own; the next number is 2."""

    def __init__(self) -> None:
        self.world = World()
        self.world.began()
        self.world.memory.put_new(keyring_key(2), next_keyring(self.world, extra=True))
        self.one = self.process()
        ring = self.one.repository.newest_keyring
        assert self.one.ledger.commit([fact("keyring", KeyringRecord(2, ring.sha256))]) == [None]
        self.other = self.process(signer=OTHER)
        self.other.ledger.refresh()

    def process(self, **options: object) -> Process:
        return self.world.process(**options)

    def lose(self, seq: int) -> None:
        """Somebody removes an entry with all of its versions."""
        self.world.replace(ledger_key(SYSTEM, seq), None)

    def settled(self) -> Process:
        """What a reader finds that has nothing but the store."""
        fresh = self.process(write=False)
        fresh.ledger.refresh()
        return fresh


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def put(process: Process, number: int) -> None:
    assert process.ledger.commit([archive(wal(number))]) == [None]


def test_who_goes_on_from_an_entry_whose_place_another_filled_is_not_acknowledged(hosts: Hosts) -> None:
    put(hosts.other, 1)
    hosts.lose(2)
    put(hosts.one, 2)  # cannot know that there was another
    with pytest.raises(LedgerBroken, match="entry 2, which ours follows"):
        hosts.other.ledger.commit([archive(wal(3))])
    assert names(hosts.settled()) == [wal(2).name]
    put(hosts.other, 3)
    put(hosts.one, 4)
    same_everywhere(hosts.world, hosts.one, hosts.other)
    assert names(hosts.one) == [wal(n).name for n in (2, 3, 4)], "what was in the lost entry is not claimed"


def test_who_fills_a_place_behind_which_another_went_on_is_told(hosts: Hosts) -> None:
    put(hosts.other, 1)
    put(hosts.other, 2)
    put(hosts.one, 3)  # now each has seen the other
    put(hosts.other, 4)
    put(hosts.other, 5)
    stale = hosts.one
    hosts.lose(5)
    with pytest.raises(LedgerBroken, match="entry 6 goes on from another entry 5"):
        stale.ledger.commit([archive(wal(6))])
    fresh = hosts.settled()
    assert fresh.catalog.voids() == [6]
    assert wal(6).name in names(fresh)
    put(hosts.other, 7)  # what it follows is there; that the one before is another does not show yet
    put(stale, 8)
    with pytest.raises(LedgerBroken, match=r"entry 5 .* is another one than was read here before"):
        hosts.other.ledger.commit([archive(wal(9))])
    put(hosts.other, 9)
    same_everywhere(hosts.world, hosts.one, hosts.other)
    assert names(hosts.one) == [wal(n).name for n in (1, 2, 3, 6, 8, 9)]


def test_a_version_under_ours_is_noticed(hosts: Hosts) -> None:
    put(hosts.other, 1)
    put(hosts.one, 2)
    put(hosts.other, 3)
    hosts.world.memory.add_delete_marker(ledger_key(SYSTEM, 4))
    with pytest.raises(LedgerBroken, match="entry 4 was deleted before ours took its place"):
        hosts.one.ledger.commit([archive(wal(4))])
    with pytest.raises(LedgerBroken, match="2 different versions that verify"):
        hosts.settled()


@pytest.mark.parametrize("shared", [True, False])
def test_an_entry_that_goes_while_ours_is_appended_is_noticed_where_hosts_share(
    hosts: Hosts, shared: bool
) -> None:
    def lost(step: str) -> None:
        if step == "ledger: before put":
            hosts.lose(process.ledger.state().next_seq - 1)

    put(hosts.other if shared else hosts.one, 1)
    process = hosts.process(observe=lost)
    process.ledger.refresh()
    if shared:
        with pytest.raises(LedgerBroken, match="entry 2, which ours follows, is not there"):
            process.ledger.commit([archive(wal(2))])
    else:
        put(process, 2)
    with pytest.raises(LedgerBroken, match=r"entry 2 of system .* is missing before entry 3"):
        hosts.settled()


def behind(hosts: Hosts, kind: str) -> Callable[[str], None]:
    def came(step: str) -> None:
        if step != "ledger: after put":
            return
        if kind == "junk":
            hosts.world.memory.put_new(ledger_key(SYSTEM, 4), b"junk")
        for number in range({"one entry": 1, "two entries": 2}.get(kind, 0)):
            put(hosts.other, 100 + number)

    return came


@pytest.mark.parametrize("kind", ["junk", "one entry", "two entries"])
def test_what_comes_behind_ours_and_goes_on_from_it_is_no_doubt(hosts: Hosts, kind: str) -> None:
    put(hosts.other, 1)
    process = hosts.process(observe=behind(hosts, kind))
    process.ledger.refresh()
    put(process, 2)
    process.ledger.refresh()
    assert process.catalog.dump() == hosts.settled().catalog.dump()


def test_a_reader_whose_newest_entry_was_replaced_learns_it_from_the_next(hosts: Hosts) -> None:
    put(hosts.other, 1)
    reader = hosts.settled()
    hosts.lose(2)
    put(hosts.one, 2)
    reader.ledger.refresh()
    assert names(reader) == [wal(1).name], "nothing tells it yet"
    put(hosts.one, 3)
    with pytest.raises(LedgerBroken, match=r"entry 2 .* is another one than was read here before"):
        reader.ledger.refresh()
    reader.ledger.refresh()
    assert reader.catalog.dump() == hosts.settled().catalog.dump()


def test_a_members_void_entry_that_our_reading_survives_is_only_an_alarm(hosts: Hosts) -> None:
    """A host that was revoked, or one whose view was lost, cannot stop the others."""
    put(hosts.other, 1)
    put(hosts.other, 2)
    raw = hosts.world.memory.get(ledger_key(SYSTEM, 3), bytes_max=1 << 20)
    assert raw is not None
    hosts.lose(3)
    hosts.lose(2)
    put(hosts.process(), 5)
    hosts.world.memory.put_new(ledger_key(SYSTEM, 3), raw)
    fresh = hosts.settled()
    assert fresh.catalog.voids() == [3]
    put(hosts.process(), 6)


def requests(world: World) -> Counter[str]:
    found = Counter(event.operation for event in world.store.events if event.key.startswith(LEDGER))
    world.store.events.clear()
    return found


def test_looking_again_costs_a_listing_and_a_get_and_only_where_hosts_share(hosts: Hosts) -> None:
    put(hosts.one, 1)
    requests(hosts.world)
    put(hosts.one, 2)
    assert requests(hosts.world) == {"put_new": 1}
    put(hosts.other, 3)
    requests(hosts.world)
    put(hosts.other, 4)
    assert requests(hosts.world) == {"put_new": 1, "list_versions": 1, "get": 1}
