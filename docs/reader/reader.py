"""Stand-alone reader of walarchiver repositories, format 1; each step is as format.md says it.

  python reader.py REPOSITORY KEY [OUT [NAME]]   verify and list; open all, or what begins with NAME, into OUT

REPOSITORY: a plain copy, objects as files named by their keys. KEY: a custodian's key file. Backups come as
parts. Needs Python 3.11, cryptography 50, zstandard, blake3, and shapes.txt: how everything must look."""
import base64, hashlib, itertools, json, pathlib, re, sys
import blake3, zstandard
from cryptography.hazmat.primitives import hashes, hpke, keywrap
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
SHAPES = {}  # regular expressions for canonical JSON, later ones made of earlier ones
for line in pathlib.Path(__file__).with_name("shapes.txt").read_text("ascii").splitlines():
    shape, text = line.split(" ", 1)
    SHAPES[shape] = re.sub("<([^<>]+)>", lambda found: f"(?:{SHAPES[found[1]]})", text)
def need(holds, why):
    if not holds: raise ValueError(why)
def sha(data): return hashlib.sha256(data).hexdigest()
def tagged(kind, data): return b"walarchiver/1/" + kind.encode() + b"\0" + data
def key_id(kind, public): return sha(tagged(kind, bytes.fromhex(public)))[:16]
def spelled(value): return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
def parsed(raw, shape="any"):  # section 1: canonical JSON
    fits = all(re.fullmatch(SHAPES[each], raw.decode()) for each in ("tokens", "any", shape))
    need(fits and spelled(json.loads(raw)) == raw, f"this is no {shape} in its canonical spelling")
    return json.loads(raw)
def verify(kind, raw, public):  # section 1: signed text; raises unless this key signed it
    signature = re.fullmatch(rb"\n([0-9a-f]{128})\n", raw[-130:])[1].decode()
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    key.verify(bytes.fromhex(signature), tagged(kind, raw[:-130]))
def keyrings(root, raws):  # section 4: {number: keyring}, from the root to trust and keyrings 1, 2, ...
    rings, trusted, prev = {}, False, None
    for n, raw in enumerate(raws, 1):
        rings[n] = ring = parsed(raw[:-130], "keyring")
        links = (ring["n"], ring.get("prev"), ring["repo"]) == (n, prev, rings[1]["repo"])
        order = [(member["role"], member["id"]) for member in ring["members"]]
        ids = [m["id"] == key_id(m["type"], m["public"]) for m in ring["members"] if "public" in m]
        need(links and all(ids) and order == sorted(set(order)), f"keyring {n} does not follow, or members")
        try: verify("keyring", raw, root)
        except Exception: need(not trusted, f"keyring {n} is not signed by the root in force")
        else: trusted, root = True, ring.get("next_root", root)
        ring["sha256"] = prev = sha(raw)
    need(trusted, "no keyring is signed by the root to trust")
    return rings
def roles(ring, who, system):  # {role: public key} of a signer whose scope has the cluster
    mine = [m for m in ring["members"] if m["id"] == who and system in m.get("systems", [system])]
    return {member["role"]: member["public"] for member in mine if member["type"] == "ed25519"}
def judged(raw, due, ring, rings):  # section 5, points 1 to 6: the entry; whatever raises here makes it void
    entry = {"void": [], **parsed(raw[:-130], "entry" if ring else "beginning")}
    n, held = entry["keyring"], roles(rings[entry["keyring"]], entry["writer"], due["system"])
    verify("entry", raw, next(iter(held.values())))
    need(due.items() <= entry.items() and len(raw) <= 1 << 24, "it is not the entry that is due, or too long")
    named = [(r["n"], r["sha256"]) for r in entry["records"] if r["kind"] == "keyring"]
    need(n >= ring and set(named) <= {(n, rings[n]["sha256"])} and (named or n == ring), "keyring")
    for r in entry["records"]:
        may = SHAPES.get("@" + r["kind"] + ".rev" * ("rev" in r), " ".join(held)).split()
        need(held.keys() & may and (r["kind"] != "cluster" or r["system"] == due["system"]), "role")
    return entry
def chain(raws, place, rings):  # section 5: the valid entries, alarms, and what is due behind them
    entries, alarms, ring, due = [], [], 0, place | {"seq": 0, "prev": "0" * 64, "void": []}
    while (raw := raws.get(due["seq"])) is not None:
        try:
            entries.append(judged(raw, due, ring, rings))
            ring, due = entries[-1]["keyring"], due | {"prev": sha(raw), "void": []}
        except Exception as why:
            alarms.append(f"ALARM entry {due['seq']} ({sha(raw)}) is void: {why!r}")
            due["void"] = [*due["void"], {"seq": due["seq"], "sha256": sha(raw)}]
        due["seq"] += 1
    behind = [f"ALARM entry {due['seq']} is missing before {max(raws)}"] if len(raws) > due["seq"] else []
    return entries, alarms + behind, due
def inflated(frame, size):  # section 3: the bytes in just one zstd frame
    facts = zstandard.get_frame_parameters(frame)
    need(frame[:4] == b"\x28\xb5\x2f\xfd" and facts.has_checksum and not facts.dict_id, "kind of frame")
    need(facts.window_size <= 8 << 20 and facts.content_size == size <= 64 << 20, "window or length")
    return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)  # never over `size`
def rolled(frame, first, place, block=4096):  # section 5: {number: entry} of a roll-up
    raw, _, content = inflated(frame, zstandard.frame_content_size(frame)).partition(b"\n")
    head, ends = parsed(raw, "rollup"), [0, *itertools.accumulate(parsed(raw, "rollup")["lengths"])]
    need((place | {"first": first}).items() <= head.items() and len(raw) < 1 << 16, "another roll-up")
    need((len(ends), ends[-1]) == (block + 1, len(content)), "lengths")
    return {first + n: content[ends[n] : ends[n + 1]] for n in range(block)}
def key_file(text):  # section 4: (repository, root, type, secret)
    lines = [line.rstrip() + "\n" for line in text.split("\n") if line.strip() and line[0] != "#"]
    found = re.fullmatch(SHAPES["keyfile"], "".join(lines))
    need(found and found[5] == sha("".join(lines[:-1]).encode())[:16], "no key file, or damaged")
    return found[1], base64.b32decode(found[2] + "=" * 6, True)[:32].hex(), found[3], bytes.fromhex(found[4])
def custodian(kind, secret):  # section 4: this key's id, and what unwraps (body, info) with it
    if kind == "master-key":
        def wrapping(info): return HKDF(hashes.SHA256(), 32, None, tagged(kind, info)).derive(secret)
        return key_id(kind, secret.hex()), lambda body, info: keywrap.aes_key_unwrap(wrapping(info), body)
    seeds = hashlib.shake_256(secret).digest(96)
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(seeds[:64])
    curve = x25519.X25519PrivateKey.from_private_bytes(seeds[64:])
    public = b"".join(key.public_key().public_bytes_raw() for key in (lattice, curve))
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    private = hpke.MLKEM768X25519PrivateKey(lattice, curve)
    return key_id(kind, public.hex()), lambda body, info: suite.decrypt(body, private, info=info)
def epoch_key(raw, place, rings, me, unwrap):  # section 4: the key in a key object
    wrap = parsed(raw[:-130], "epoch")
    need(place.items() <= wrap.items() and (wrap["rev"] or wrap["by"] == wrap["writer"]), "place, or signer")
    role = "admin" if wrap["rev"] else "writer"
    held = [roles(ring, wrap["by"], wrap["system"]) for ring in rings.values()]
    verify("epoch", raw, next(each[role] for each in held if role in each))
    bodies = {to["recipient"]: to["body"] for to in wrap["stanzas"]}
    need(me in bodies, f"epoch {wrap['epoch']} is wrapped to {[*bodies]}, this key is {me}")
    info = {"recipient": me} | {name: wrap[name] for name in ("epoch", "repo", "system", "writer")}
    key = unwrap(bytes.fromhex(bodies[me]), spelled(info))
    need(sha(tagged("epoch-check", key)) == wrap["check"], "another key than the epoch's")
    return key
def unsealed(stored, want, key_of):  # section 3: the plain bytes of the object that is wanted
    border = 12 + int.from_bytes(stored[8:12], "big")
    need(stored[:8].hex() == "5049545200010d0a" and border <= 65548, "no sealed object")
    head = parsed(stored[12:border], "header")
    need("parts" not in head or f"{head['tli']:08X}" == head["name"][:8], "timeline of another name")
    need(want.items() <= head.items(), f"an object of {head}, not of {want}")
    stream, label = stored[border:], b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
    info = label + stream[:24] + hashlib.sha256(stored[:border]).digest()  # salt, context
    derived, frame = HKDFExpand(hashes.SHA512(), 76, info).derive(key_of(head["epoch"])), b""
    need(derived[44:] == stream[24:56], "the key commitment is another")
    cipher, base = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    for n in range((len(stream) - 56) // 16400 + 1):  # chunks of 16 KiB and a tag, the last one shorter
        chunk = stream[56 + n * 16400 : 56 + (n + 1) * 16400]
        frame += cipher.decrypt((base ^ n).to_bytes(12, "big"), chunk, None)
    return inflated(frame, head["raw"])
def files(records):  # section 5: {name: (digest, [(object, header)])} of files in force, and parts
    found, stored = {}, {}
    for r in records:
        if r["kind"] in ("wal", "history", "label"):
            head = {"kind": r["kind"], "name": r["name"], "parts": len(r["objects"])}
            this = r["digest"], [(thing, head | {"part": n}) for n, thing in enumerate(r["objects"])]
            found.setdefault(r["name"], stored.setdefault((r["name"], r["digest"]), this))
        elif r["kind"] == "supersede" and found.get(r["name"], [None])[0] == r["old"]:
            found[r["name"]] = stored.get((r["name"], r["new"]), found[r["name"]])
        kinds = {"part": "base", "pin": "pin", "bucket_index": "bindex", "bucket_journal": "bjournal"}
        for part in r.get("parts", [r]) if r["kind"] in kinds else ():
            own, of = r.get("pin", r.get("backup")), r.get("generation", r.get("journal"))
            head = {"kind": kinds[r["kind"]], "name": own or f"{r['bucket']}/{of}", "part": part["n"]}
            head["raw"] = part.get("raw", part.get("len"))
            last = f"{part['stream']}.{part['role']}.{part['offset']:015}" if "stream" in part else part["n"]
            found[f"{own or of}/{last}"] = part["digest"], [(part["object"], head)]
    return found
def main(folder, key, out=None, only=""):
    folder, (repo, root, *mine) = pathlib.Path(folder), key_file(pathlib.Path(key).read_text())
    m = parsed((raw := (folder / "v1/REPO").read_bytes()).removesuffix(b"\n"), "mark")["repo"], sha(raw)
    rings = keyrings(root, [path.read_bytes() for path in sorted(folder.glob("v1/keyring/????.json"))])
    need({m, (repo, m[1])} == {(r["repo"], r.get("mark", m[1])) for r in rings.values()}, "another home")
    for cluster in sorted(folder.glob("v1/c/[1-9]*")):
        place, rolls = {"repo": repo, "system": cluster.name}, {}
        for path in cluster.glob("roll/" + 16 * "[0-9a-f]" + "-*.zst"):
            rolls |= rolled(path.read_bytes(), int(path.name[:16], 16), place)
        names = cluster.glob("ledger/" + 16 * "[0-9a-f]" + ".json")
        raws = {int(path.stem, 16): path.read_bytes() for path in names}
        need(all(rolls.get(seq, raw) == raw for seq, raw in raws.items()), "roll-up and ledger differ")
        entries, alarms, due = chain(rolls | raws, place, rings)
        ends = {seq for seq in rolls if seq % 4096 == 4095}
        need(ends <= {entry["seq"] for entry in entries}, "nothing vouches for the end of a roll-up")
        records = [record for entry in entries for record in entry["records"]]
        for b in (record for record in records if record["kind"] == "backup"):
            closed = [r for r in records if r["kind"] == "part" and r["backup"] == b["backup"]]
            parts = [part for record in closed for part in record["parts"]]
            whole = (len(parts), sha(spelled(sorted(parts, key=lambda part: part["n"]))))
            if whole != (b["parts"], b["parts_sha256"]): alarms.append(f"ALARM {b['backup']} lacks parts")
        print(f"cluster {cluster.name}: {len(entries)} valid entries, head {due['prev']}", *alarms, sep="\n")
        print(*(spelled(record).decode() for record in records), sep="\n")
        stored = {sha(path.read_bytes()): path.read_bytes() for path in cluster.glob("keys/*.json")}
        recorded = {(r["epoch"], r.get("rev", 0)): r["sha256"] for r in records[::-1] if r["kind"] == "epoch"}
        newest = {epoch: rev for epoch, rev in sorted(recorded) if recorded[epoch, rev] in stored}
        def key_of(epoch):  # of the highest revision that is stored as recorded
            at = place | {"epoch": epoch, "rev": newest[epoch]}
            return epoch_key(stored[recorded[epoch, newest[epoch]]], at, rings, *custodian(*mine))
        for name, (digest, things) in files(records).items() if out else ():
            if not name.startswith(only): continue
            need(re.fullmatch(r"[0-9A-Za-z-]+(\.[0-9A-Za-z]+)*(/[0-9a-z.]+)?", name), f"{name!r} is no name")
            raws = [(folder / thing["key"]).read_bytes() for thing, _ in things]
            need([sha(raw) for raw in raws] == [thing["stored_sha256"] for thing, _ in things], "damaged")
            plain = b"".join(unsealed(raw, head | place, key_of) for raw, (_, head) in zip(raws, things))
            need(blake3.blake3(plain).hexdigest() == digest, f"{name} has another digest")
            target = pathlib.Path(out, cluster.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file: file.write(plain)
if __name__ == "__main__":
    try: main(*sys.argv[1:])
    except Exception as why: sys.exit(f"refused: {why!r}")
