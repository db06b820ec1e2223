"""Stand-alone reader of walarchiver repositories, format 1: format.md says why each step is as it is.

  python reader.py REPOSITORY KEY               verify all that is signed; list what is there
  python reader.py REPOSITORY KEY OUT NAME...   write WAL files, or base backups by id, below the folder OUT

REPOSITORY: a plain copy, its objects as files named by their keys (v1/REPO, v1/c/...), one version of each.
KEY: a custodian's key file; or FILE:wa-root1..., a file with a master key in hex and the root to trust.
Needs trust.py, seal.py and shapes.txt beside it; Python 3.11, cryptography 50, zstandard; and blake3 to
compare digests (without it a note says that only hashes and seals were checked).
"""
import re, sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from seal import epoch_key, key_file, root_key, unsealed
from trust import chain, keyrings, need, parsed, sha, spelled
try: import blake3
except ImportError: blake3 = None
SHOWN = ("kind", "name", "backup", "len", "major", "segment_size", "method", "timeline", "start_lsn", "stop_lsn",
    "start_time", "stop_time", "parts", "first", "last", "cause")
NAMES = {"tar": "{}.tar", "manifest": "backup_manifest", "index": "index", "config": "config.tar", "facts": "facts"}

def records(entries, *kinds):
    return [record for entry in entries for record in entry["records"] if record["kind"] in kinds]

def in_force(entries, name):  # section 5, supersede: the record that stands for a file
    files, standing = {}, None
    for r in records(entries, "wal", "history", "label", "supersede"):
        if r["name"] != name: continue
        if r["kind"] != "supersede": standing = standing or r; files.setdefault(r["digest"], r)
        elif standing and standing["digest"] == r["old"]: standing = files.get(r["new"], standing)
    return standing

class Repository:
    def __init__(self, folder, key):
        path, _, root = key.rpartition(":wa-root1")
        text = Path(path or key).read_text("utf-8")
        self.folder, mark = folder, parsed((folder / "v1/REPO").read_bytes().removesuffix(b"\n"))
        need(mark["format"] == 1, f"format {mark['format']}; this program reads 1")
        given = key_file(text) if not path else ("master-key", bytes.fromhex(text), root_key(root), mark["repo"])
        self.type, self.secret, root, self.repo = given
        rings, n = [], 1
        while (file := folder / f"v1/keyring/{n:04}.json").exists(): rings.append(file.read_bytes()); n += 1
        self.rings = keyrings(root, rings)
        need(self.repo == mark["repo"] == self.rings[1]["repo"], "key, mark and keyrings do not belong together")

    def chains(self):
        for folder in sorted((self.folder / "v1/c").glob("[1-9]*")):
            yield folder.name, *chain(self.folder, self.repo, folder.name, self.rings)

    def opened(self, entries, system, thing, **want):  # the plain bytes of an object that a record names
        key = thing["key"]
        need(re.fullmatch("v1/c/[0-9A-Za-z/._-]+", key) and ".." not in key, f"{key!r} is no object's name")
        need((self.folder / key).exists(), f"{key} is recorded but not there: this is damage, not an end")
        stored = (self.folder / key).read_bytes()
        need((len(stored), sha(stored)) == (thing["stored_len"], thing["stored_sha256"]), f"{key} is damaged")
        def key_of(epoch):
            recorded = {}  # the first record of each revision
            for r in records(entries, "epoch"):
                if r["epoch"] == epoch: recorded.setdefault(r.get("rev", 0), r["sha256"])
            files = (self.folder / f"v1/c/{system}/keys").glob(f"{epoch}.[0-9][0-9][0-9][0-9].json")
            place = {"epoch": epoch, "repo": self.repo, "system": system}
            revisions = {int(file.name[17:21]): file.read_bytes() for file in files}
            return epoch_key(revisions, place, recorded, self.rings, self.type, self.secret)
        return unsealed(stored, {"repo": self.repo, "system": system, **want}, key_of)

    def save(self, out, name, entries, system):  # writes a file, or all streams of a backup; their paths
        for r in [r for r in [in_force(entries, name)] if r]:
            want = {"kind": r["kind"], "name": name, "tli": int(name[:8], 16), "parts": len(r["objects"])}
            pieces = (self.opened(entries, system, o, part=n, **want) for n, o in enumerate(r["objects"]))
            return [written(out / system / name, pieces, r["len"], r["digest"])]
        for r in [r for r in records(entries, "backup") if r["backup"] == name][:1]:
            parts = [part for p in records(entries, "part") if p["backup"] == name for part in p["parts"]]
            parts.sort(key=lambda part: part["n"])
            need([p["n"] for p in parts] == list(range(r["parts"])), "parts of the backup are missing")
            need(sha(spelled(parts)) == r["parts_sha256"], "other parts than those of the backup")
            streams = {}
            for p in parts: streams.setdefault((p["role"], p["stream"]), []).append(p)
            return [written(out / system / name / NAMES[role].format(stream), self.parts(entries, system, name, some),
                sum(p["raw"] for p in some)) for (role, stream), some in streams.items()]
        return []

    def parts(self, entries, system, backup, some):
        some.sort(key=lambda p: p["offset"])
        for p, before in zip(some, [None, *some]):
            need(p["offset"] == (before["offset"] + before["raw"] if before else 0), "parts leave a hole")
            want = {"kind": "base", "name": backup, "part": p["n"], "raw": p["raw"]}
            yield digested(self.opened(entries, system, p["object"], **want), p["digest"])

def digested(data, digest):
    need(not blake3 or blake3.blake3(data).hexdigest() == digest, "the digest of the plain bytes is another")
    return data

def written(path, pieces, length, digest=None):  # under its name only when everything about it is right
    path.parent.mkdir(parents=True, exist_ok=True)
    need(re.fullmatch("[0-9A-Za-z][0-9A-Za-z._-]*", path.name) and not path.exists(), f"{path} is there, or no name")
    unproven, hasher = path.with_name("unproven." + path.name), blake3.blake3() if blake3 and digest else None
    with unproven.open("wb") as file:
        for piece in pieces: file.write(piece); hasher and hasher.update(piece)
        need(file.tell() == length, f"{path.name} has {file.tell()} bytes, not {length}")
    need(not hasher or hasher.hexdigest() == digest, f"{path.name}: the digest of the plain bytes is another")
    return unproven.rename(path)

def main(folder, key, out=None, *names):
    repository, found = Repository(Path(folder), key), set()
    print(f"repository {repository.repo}: {len(repository.rings)} keyrings verified from the root key")
    if not blake3: print("note: without the package blake3 digests of plain bytes are not compared")
    for system, entries, alarms, state in repository.chains():
        head = entries[-1] if entries else {"seq": "none", "time": "-"}
        print(f"system {system}: {len(entries)} entries verified, head {head['seq']}:{state['prev']} {head['time']}")
        print("".join(f"ALARM {alarm}\n" for alarm in alarms), end="")
        for r in records(entries, "cluster", "wal", "history", "label", "backup", "gap") if out is None else ():
            print(*(f"{name}={r[name]}" if name != "kind" else r[name] for name in SHOWN if name in r))
        for name in names:
            for path in repository.save(Path(out), name, entries, system): found.add(name); print(f"wrote {path}")
    need(found >= set(names), f"no valid record of {' '.join(sorted(set(names) - found))}")

if __name__ == "__main__":
    try: main(*sys.argv[1:])
    except (ValueError, OSError) as error: sys.exit(f"refused: {error}")
    except TypeError: sys.exit(__doc__)
