"""Changes of the keyring on a world in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.world import MASTER, SYSTEM, World
from walarchiver.catalog import Catalog
from walarchiver.core.objectname import epoch_key_name, keyring_key
from walarchiver.format.epoch import EpochKeyObject, parse_epoch_object
from walarchiver.format.keyring import Keyring, KeyringMember
from walarchiver.format.records import EpochRecord, KeyringRecord, Record
from walarchiver.format.signed import Signer
from walarchiver.keyringchange import ChangeOutcome, Changing, change_keyring
from walarchiver.keys.change import Wish
from walarchiver.keys.epochs import recipients_of
from walarchiver.keys.init import member_of
from walarchiver.keys.keyfile import KeyFile, KeyRole
from walarchiver.ports import Identity, Recipient
from walarchiver.rotation import ClusterRotation, Rotating, rotate

OTHER_SYSTEM = "7300000000000000002"
Observe = Callable[[str], None]


class Killed(BaseException):
    """Stands for the end of a process; nothing in the product catches it."""


def silent(_step: str) -> None:
    """Observes nothing."""


def killing_at(number: int) -> Observe:
    """Ends the process at its step `number`, counted from 0."""
    seen = iter(range(10_000))

    def observe(_step: str) -> None:
        if next(seen) == number:
            raise Killed

    return observe


def new_key(world: World, role: KeyRole, name: str) -> KeyFile:
    return KeyFile(role, name, world.new.repo, world.root, world.random.token(32))


def changing(world: World, *, signer: Signer | None = None, observe: Observe = silent) -> Changing:
    return Changing(
        repository=world.repository(),
        clock=world.clock,
        random=world.random,
        catalogs=lambda _system: Catalog(None),
        signers=[signer or world.key("admin").signer()],
        observe=observe,
    )


def change(
    world: World,
    *,
    add: KeyFile | KeyringMember | None = None,
    remove: KeyringMember | None = None,
    next_root: bytes | None = None,
    root: Signer | None = None,
    signer: Signer | None = None,
    observe: Observe = silent,
    dry_run: bool = False,
) -> ChangeOutcome:
    """One run of one command, as a fresh process."""
    wish = Wish(add=member_of(add) if isinstance(add, KeyFile) else add, remove=remove, next_root=next_root)
    return change_keyring(
        changing(world, signer=signer, observe=observe),
        wish,
        root or world.key("root").signer(),
        dry_run=dry_run,
    )


def member(world: World, name: str) -> KeyringMember:
    """A member of the newest keyring by name."""
    (found,) = [one for one in world.repository().newest_keyring.members if one.name == name]
    return found


def rotate_all(
    world: World,
    identity: Identity,
    *,
    admin: Signer | None = None,
    observe: Observe = silent,
    dry_run: bool = False,
) -> list[ClusterRotation]:
    masters = {MASTER.recipient: MASTER} if world.master else {}

    def recipients(keyring: Keyring, system: str) -> Sequence[Recipient]:
        return recipients_of(keyring, system, master_keys=masters)

    return rotate(
        Rotating(
            repository=world.repository(identity),
            clock=world.clock,
            random=world.random,
            catalogs=lambda _system: Catalog(None),
            admin=admin or world.key("admin").signer(),
            recipients=recipients,
            dry_run=dry_run,
            observe=observe,
        )
    )


def second_cluster(world: World) -> None:
    """Another chain in the same repository, with its first entry."""
    from walarchiver.format.records import ClusterRecord
    from walarchiver.ledger import Proposal, Writer

    repository = world.repository()
    writer = Writer(world.key("writer").signer(), world.random.token(8).hex(), world.clock)
    ledger = repository.ledger(OTHER_SYSTEM, Catalog(None), writer)
    newest = repository.newest_keyring
    cluster = ClusterRecord("other", OTHER_SYSTEM, 15, world.segment_size, True)
    records: tuple[Record, ...] = (cluster, KeyringRecord(newest.n, newest.sha256))
    assert ledger.commit([Proposal("cluster", lambda _catalog: records)]) == [None]


def chain_records(world: World, system: str = SYSTEM) -> list[Record]:
    """Every record of the valid entries, in order."""
    found: list[Record] = []

    class Watched(Catalog):
        def _apply_record(self, seq: int, index: int, record: Record) -> None:
            found.append(record)
            super()._apply_record(seq, index, record)

    world.repository().ledger(system, Watched(None)).refresh()
    return found


def key_object(world: World, epoch: str, revision: int = 0, system: str = SYSTEM) -> EpochKeyObject:
    raw = world.memory.get(epoch_key_name(system, epoch, revision), bytes_max=1 << 20)
    assert raw is not None
    return parse_epoch_object(raw)


def check_epochs_follow_keyrings(world: World, system: str = SYSTEM) -> int:
    """Every epoch record is of a key wrapped to the custodians of the keyring in force before it, or of
    a later one; the number of epoch records."""
    from walarchiver.format.keyring import Role

    keyrings = world.repository().keyrings
    in_force, count = 0, 0
    for record in chain_records(world, system):
        if isinstance(record, KeyringRecord):
            in_force = max(in_force, record.n)
        elif isinstance(record, EpochRecord):
            count += 1
            stanzas = {
                one.recipient for one in key_object(world, record.epoch, record.rev or 0, system).stanzas
            }
            wanted = [
                {one.id for one in ring.having(Role.CUSTODIAN, system)}
                for n, ring in keyrings.items()
                if n >= in_force
            ]
            assert stanzas in wanted, (
                f"epoch {record.epoch} behind keyring {in_force} is wrapped to {stanzas}"
            )
    return count


def keyring_bytes(world: World, n: int) -> bytes | None:
    return world.memory.get(keyring_key(n), bytes_max=1 << 20)
