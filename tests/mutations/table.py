"""Each promise broken on purpose: one small change of the source, and the tests that must then fail."""

from __future__ import annotations

from dataclasses import dataclass

ARCHIVER = "tests/simulation/test_archiver.py::"
FETCHER = "tests/simulation/test_fetcher.py::"
API = "tests/hook/test_api.py::"
COMPILED_HOOK = "walarchiver/hook.c"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` stands in `file` exactly once and becomes `new`; then at least one of `tests` fails."""

    promise: int
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        1,
        "acknowledges a segment before its ledger entry is durable",
        "walarchiver/archiver.py",
        "        await self._queue.submit(Proposal(name, decide))\n",
        "        asyncio.ensure_future(self._queue.submit(Proposal(name, decide)))\n",
        (
            "tests/simulation/test_archiver_calls.py::test_nothing_is_acknowledged_before_object_and_entry_are_durable",
        ),
    ),
    Mutation(
        1,
        "records a segment without waiting for its object",
        "walarchiver/archiver.py",
        "        put = loop.run_in_executor(self._sending, part.put, self._depositor)\n",
        "        gone = part.sealed\n"
        "        loop.run_in_executor(self._sending, part.put, self._depositor)\n"
        "        put = loop.create_future()\n"
        "        put.set_result(StoredObject(gone.key, len(gone.body), gone.sha256))\n",
        (
            "tests/simulation/test_archiver_calls.py::test_a_store_failure_is_not_acknowledged_and_the_next_try_succeeds",
        ),
    ),
    Mutation(
        2,
        "takes a hole for the end of the archive",
        "restore/core/policy.py",
        "        if later is not None:\n",
        "        if later is not None and False:\n",
        (f"{FETCHER}test_a_hole_is_not_the_end",),
    ),
    Mutation(
        2,
        "tells PostgreSQL of every failure that the file is absent",
        "walarchiver/hook.py",
        """    if call.verb == "fetch" and status == 404 and said == b"1":\n""",
        """    if call.verb == "fetch" and status >= 400:\n""",
        (f"{API}test_the_hook_gets_the_status_that_postgresql_needs",),
    ),
    Mutation(
        2,
        "tells PostgreSQL, compiled, that a broken-off answer is the end of the archive",
        COMPILED_HOOK,
        """    if (!split(length, &head, &body))\n        fail""",
        """    if (!split(length, &head, &body) && (verb != FETCH || length == 0))\n        fail""",
        ("tests/hook/test_hook.py::test_a_broken_off_absence_is_a_doubt",),
    ),
    Mutation(
        3,
        "takes a file that changed since it was archived for the same",
        "walarchiver/archivedmemory.py",
        "known[:2] == (path, stamp)",
        "known[0] == path",
        ("tests/simulation/test_archived_memory.py::test_other_bytes_of_the_same_size_and_time_are_refused",),
    ),
    Mutation(
        3,
        "takes other bytes under a recorded name for the same",
        "walarchiver/conflict.py",
        "    if (recorded.digest, recorded.len) == (digest, length):\n",
        "    if recorded.len == length:\n",
        (f"{ARCHIVER}test_other_bytes_under_a_recorded_name_are_refused_and_nothing_is_stored",),
    ),
    Mutation(
        3,
        "overwrites an object in a folder",
        "walarchiver/storage/directory.py",
        "        os.link(incoming, target)\n",
        "        os.link(incoming, target.with_name(target.name + '+')); "
        "target.with_name(target.name + '+').rename(target)\n",
        ("tests/contracts/test_object_store.py::test_a_name_is_never_written_twice[directory]",),
    ),
    Mutation(
        5,
        "believes a ledger entry whatever its signature",
        "walarchiver/format/chain.py",
        "    text.verify(members[0].public)\n",
        "    pass\n",
        ("tests/format/test_bit_flips.py::test_every_flipped_bit_is_found[ledger entry]",),
    ),
    Mutation(
        5,
        "takes stored bytes that are not the recorded ones",
        "walarchiver/repository.py",
        "return len(body) == obj.stored_len and hashlib.sha256(body).hexdigest() == obj.stored_sha256",
        "return len(body) == obj.stored_len",
        (
            "tests/simulation/test_repository.py::"
            "test_a_damaged_newest_version_is_passed_over_for_the_genuine_one",
        ),
    ),
    Mutation(
        6,
        "records what it archived ahead without what goes before it",
        "walarchiver/ledgerorder.py",
        "            if catalog.file(name) is None:\n",
        "            if catalog.file(name) is None and not name:\n",
        (
            "tests/simulation/test_ledger_order.py::"
            "test_nothing_is_recorded_behind_what_the_ledger_did_not_take",
        ),
    ),
    Mutation(
        6,
        "does not tell of holes",
        "walarchiver/status.py",
        "    missing = (*gaps(runs), *_told_gaps(archive, runs))\n",
        "    missing = tuple(_told_gaps(archive, runs))\n",
        ("tests/simulation/test_status.py::test_behind_a_gap_only_a_later_backup_counts",),
    ),
    Mutation(
        7,
        "lets work begin whatever memory is in use",
        "walarchiver/budget.py",
        "        if self._waiting or self._free < wanted:\n",
        "        if False:\n",
        ("tests/shells/test_budget.py::test_holders_never_exceed_the_budget_together",),
    ),
    Mutation(
        8,
        "writes a fetched file under its final name",
        "restore/fetcher.py",
        "            temporary = _beside(folder, destination)\n",
        "            temporary = destination\n",
        (
            "tests/simulation/test_fetcher_files.py::test_a_kill_in_the_middle_leaves_nothing_under_the_final_name",
        ),
    ),
    Mutation(
        8,
        "does not start where a killed server left its socket",
        "walarchiver/listening.py",
        "        except (ConnectionRefusedError, FileNotFoundError):\n            return\n",
        "",
        ("tests/hook/test_api_callers.py::test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not",),
    ),
    Mutation(
        9,
        "acknowledges what the ledger had not recorded when it stopped",
        "walarchiver/ledgerqueue.py",
        'future.set_exception(ShuttingDown("the ledger stopped before this was recorded"))',
        "future.set_result(None)",
        ("tests/simulation/test_archiver_calls.py::test_a_queue_that_stops_leaves_nobody_waiting",),
    ),
    Mutation(
        9,
        "takes new work while it drains",
        "walarchiver/api.py",
        "    def _refuse_while_draining(self) -> None:\n        if self.draining:\n",
        "    def _refuse_while_draining(self) -> None:\n        if False:\n",
        ("tests/hook/test_api_callers.py::test_draining_ends_work_in_progress_and_takes_no_more",),
    ),
    Mutation(
        10,
        "archives another cluster's segment",
        "walarchiver/core/walpage.py",
        "    if identity.system != system:\n",
        "    if False:\n",
        (f"{ARCHIVER}test_a_file_that_is_no_segment_of_this_cluster_is_refused_and_nothing_stored",),
    ),
    Mutation(
        10,
        "refuses a bad .backup file, which then blocks the WAL behind it",
        "walarchiver/offered.py",
        "                pass  # informative only: kept as it is, so that a bad one never blocks WAL\n",
        "                raise CorruptSegment('a bad label')\n",
        (f"{ARCHIVER}test_a_bad_backup_history_file_never_blocks",),
    ),
    Mutation(
        11,
        "leaves the epoch key where whoever reads the store finds it",
        "walarchiver/keys/epochs.py",
        "    raw = sign_epoch_object(\n        EpochKeyObject(\n            epoch=epoch,\n",
        "    stanzas += (Stanza(signer.id, HPKE_XWING, key.hex()),)\n"
        "    raw = sign_epoch_object(\n        EpochKeyObject(\n            epoch=epoch,\n",
        ("tests/simulation/test_stolen_writer.py::test_no_epoch_key_is_in_the_store_or_in_the_state_folder",),
    ),
    Mutation(
        11,
        "accepts an entry that does not follow the one before it",
        "walarchiver/format/chain.py",
        "    if entry.prev != state.prev:\n",
        "    if False:\n",
        (
            "tests/simulation/test_stolen_writer.py::"
            "test_an_entry_rewritten_with_a_stolen_writers_key_cuts_off_what_follows_and_is_an_alarm",
        ),
    ),
    Mutation(
        12,
        "wraps epoch keys to the first custodian only",
        "walarchiver/keys/epochs.py",
        'has no custodian for cluster {system}")\n    return found\n',
        'has no custodian for cluster {system}")\n    return found[:1]\n',
        ("tests/simulation/test_depositor.py::test_every_single_custodian_opens_everything",),
    ),
    Mutation(
        12,
        "rotates to the first custodian only",
        "walarchiver/keys/epochs.py",
        "to.wrap(key, epoch.info(to.recipient))) for to in recipients\n",
        "to.wrap(key, epoch.info(to.recipient))) for to in list(recipients)[:1]\n",
        (
            "tests/simulation/test_rotation.py::"
            "test_an_added_custodian_opens_everything_after_a_rotation_and_a_second_one_has_nothing_to_do",
        ),
    ),
    Mutation(
        13,
        "orders ledger entries by the clock",
        "walarchiver/format/chain.py",
        "    if entry.prev != state.prev:\n",
        "    if state.head_time is not None and entry.time < state.head_time:\n"
        '        raise _NotValid("time falls")\n'
        "    if entry.prev != state.prev:\n",
        (
            "tests/simulation/test_clock_jumps.py::"
            "test_segments_are_acknowledged_in_order_whatever_the_clock_says",
        ),
    ),
    Mutation(
        14,
        "calls a restore good that stopped elsewhere",
        "restore/restoring.py",
        "    if log.stop_lsn != stop.lsn or log.inclusive != stop.inclusive:\n",
        "    if False:\n",
        ("tests/shells/test_judge.py::test_any_other_end_is_a_failure",),
    ),
    Mutation(
        15,
        "waits for ever for a caller's request",
        "walarchiver/listening.py",
        "loop.call_later(seconds, self._transport.abort)",
        "loop.call_later(seconds + 3600, self._transport.abort)",
        ("tests/hook/test_api_callers.py::test_slow_callers_are_cut_and_stall_nobody",),
    ),
    Mutation(
        17,
        "removes any version that it takes for a marker",
        "walarchiver/storage/evidence.py",
        "        if listed is None or listed.kind is not EntryKind.MARKER:\n",
        "        if listed is None:\n",
        ("tests/contracts/test_evidence_bucket.py::test_markers_are_removed_and_nothing_but_markers[model]",),
    ),
    Mutation(
        17,
        "writes while versioning is suspended",
        "restore/bucketrestore.py",
        "        if writing and self._target.versioning() is not Versioning.ENABLED:\n",
        "        if False:\n",
        (
            "tests/evidence/test_bucket_restore_model.py::"
            "test_nothing_is_written_once_versioning_is_suspended",
        ),
    ),
    Mutation(
        17,
        "removes markers before the repository knows of them",
        "restore/bucketjournal.py",
        "            if fresh:\n                self._flush()\n",
        "",
        (
            "tests/evidence/test_bucket_restore_model.py::"
            "test_undeleting_removes_only_markers_and_tells_the_sink_before",
        ),
    ),
)
