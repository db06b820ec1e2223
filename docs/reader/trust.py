"""Half of the stand-alone reader, needs no secret: root key -> keyrings -> ledger (format.md 1, 4, 5)."""
import hashlib, json, re
from datetime import datetime
from pathlib import Path
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TEXTS = {"text": ".*", "hex": "([0-9a-f]{2})*", "id": "[0-9a-f]{16}", "repo": "[0-9a-f]{32}",
    "sha": "[0-9a-f]{64}", "system": "[1-9][0-9]{0,19}", "lsn": "/".join(2 * ["(0|[1-9A-F][0-9A-F]{0,7})"]),
    "time": "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z"}
SHAPES = {line.split()[0]: [word.split(":") for word in line.split()[1:]]
    for line in Path(__file__).with_name("shapes.txt").read_text("ascii").splitlines()}
MAY = {"writer": "wal history label scan part backup epoch horizon tie gap pin bucket_index cluster "
    "keyring checkpoint",
    "driller": "drill scan", "pruner": "prune checkpoint", "admin": "supersede hold keyring epoch",
    "custodian": ""}  # record kinds by the role that may sign them
CUSTODIANS = ("hpke-xwing", "master-key", "aws-kms", "vault-transit")
LENGTHS = {"ed25519": 32, "hpke-xwing": 1216}

def need(holds, why):
    if not holds: raise ValueError(why)
def sha(data): return hashlib.sha256(data).hexdigest()
def key_id(kind, form): return sha(b"walarchiver/1/" + kind.encode() + b"\0" + form)[:16]
def spelled(value): return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

def allowed(value, depth=0):
    need(depth <= 32 and isinstance(value, dict | list | str | int | None), "JSON that is not allowed")
    need(not isinstance(value, int) or abs(value) < 2**53, "number too large")
    json.dumps(value if isinstance(value, str) else "", ensure_ascii=False).encode()  # no unpaired surrogates
    need(not isinstance(value, dict) or all(name.isascii() for name in value), "name that is not ASCII")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        allowed(inner, depth + 1)

def parsed(raw):  # every value has one spelling
    try: allowed(value := json.loads(raw.decode("ascii")))
    except RecursionError: raise ValueError("nested too deep") from None
    need(spelled(value) == raw, "JSON is not in its canonical spelling")
    return value

def shaped(value, form):  # the value, when it has just the members, types and spellings of its form
    if form.endswith("*"):
        need(isinstance(value, list), f"not a list of {form}")
        [shaped(item, form[:-1]) for item in value]
    elif form == "record":
        need(isinstance(value, dict) and isinstance(value.get("kind"), str) and value["kind"], "no kind")
        if "." + value["kind"] in SHAPES:
            shaped({name: inner for name, inner in value.items() if name != "kind"}, "." + value["kind"])
    elif form in SHAPES:
        forms = {name.rstrip("?"): inner for name, inner in SHAPES[form]}
        must = {name for name, _ in SHAPES[form] if name[-1] != "?"}
        need(isinstance(value, dict) and must <= set(value) <= set(forms), f"{form}: wrong members")
        [shaped(inner, forms[name]) for name, inner in value.items()]
    elif form in ("int", "bool"):
        need(type(value).__name__ == form and value >= 0, f"{value!r} is not {form}")
    else:
        need(isinstance(value, str) and re.fullmatch(TEXTS[form], value, re.DOTALL), f"{value!r} is not {form}")
        need(form != "system" or int(value) < 2**64, "system identifier too large")
        form == "time" and datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f%z")
    return value

def signed(kind, raw):  # the JSON in signed text, and a function that checks its signature by a public key
    tail = re.fullmatch(rb"\n([0-9a-f]{128})\n", raw[-130:])
    need(tail, f"{kind}: not signed text")
    message = b"walarchiver/1/" + kind.encode() + b"\0" + raw[:-130]
    def by(public):
        try: Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(tail[1].decode()), message)
        except InvalidSignature: raise ValueError(f"{kind}: the signature does not verify") from None
    return shaped(parsed(raw[:-130]), kind), by

def keyrings(root, raws):  # section 4: {number: keyring}, from the pinned root and the bytes of 1, 2, ...
    rings, trusted = {}, False
    for n, raw in enumerate(raws, 1):
        ring, by = signed("keyring", raw)
        before = rings[n - 1] if rings else {"sha256": None, "repo": ring["repo"]}
        links = (n, before["sha256"], before["repo"])
        need((ring["n"], ring.get("prev"), ring["repo"]) == links, f"keyring {n} does not follow")
        places = [(m["role"], m["id"]) for m in ring["members"]]
        need(places == sorted(set(places)), "members of a keyring are not in order")
        need({"custodian", "writer"} <= dict(places).keys() <= MAY.keys(), "roles in a keyring")
        for m in ring["members"]:
            need(m["type"] in (CUSTODIANS if m["role"] == "custodian" else ["ed25519"]), "type of a key")
            need((m["type"] == "master-key") == ("public" not in m), "public form of a key")
            public = bytes.fromhex(m.get("public", ""))
            need(m["type"] == "master-key" or m["id"] == key_id(m["type"], public), "id of a key")
            need(len(public) == LENGTHS.get(m["type"], len(public)), "length of a key")
        try: by(root)
        except ValueError: need(not trusted, f"keyring {n} is not signed by the root in force")
        else:
            trusted, root = True, bytes.fromhex(ring.get("next_root", root.hex()))
        rings[n] = ring | {"sha256": sha(raw)}
    need(trusted, "no keyring is signed by the pinned root key")
    return rings

def roles(ring, who, system):  # {role: public key} of a signer, as far as its scope has the cluster
    mine = (m for m in ring["members"] if m["id"] == who and m["type"] == "ed25519")
    return {m["role"]: bytes.fromhex(m["public"]) for m in mine if system in m.get("systems", [system])}

def judged(raw, state, rings):  # section 5, points 1 to 6: the entry; whatever raises is void
    need(len(raw) <= 1 << 24, "longer than an entry can be")
    entry, by = signed("entry", raw)
    n, records = entry["keyring"], entry["records"]
    place = ("repo", "system", "seq", "prev")
    need(all(entry[name] == state[name] for name in place), "entry of another place")
    need(entry.get("void", []) == state["void"] and entry.get("void") != [], "other void entries are named")
    need(1 <= len(records) <= 256, "number of records")
    need(n in rings and n >= state["keyring"], f"keyring {n} is not known, or falls")
    named = [record for record in records if record["kind"] == "keyring"]
    need(all((r["n"], r["sha256"]) == (n, rings[n]["sha256"]) for r in named), "another keyring is named")
    need(named or n == state["keyring"], "keyring rises without its record")
    held = roles(rings[n], entry["writer"], entry["system"])
    need(held, f"signer {entry['writer']} is not in keyring {n} for this cluster")
    by(next(iter(held.values())))
    ruled, mine = " ".join(MAY.values()).split(), " ".join(MAY[role] for role in held).split()
    need(all(r["kind"] in mine or r["kind"] not in ruled for r in records), "role of the signer")
    revisions = [r["rev"] for r in records if r["kind"] == "epoch" and "rev" in r]
    need(not revisions or "admin" in held, "a revision of an epoch key, recorded by no admin")
    need(all(0 < rev < 10000 for rev in revisions), "number of a revision")
    need(state["keyring"] or records[0]["kind"] == "cluster", "the chain does not begin with cluster")
    need(all(r["kind"] != "cluster" or r["system"] == entry["system"] for r in records), "another cluster")
    return entry

def chain(folder, repo, system, rings):  # the valid entries, what is void or strange, and where the head is
    files = (path for path in (folder / "v1/c" / system / "ledger").glob("*.json"))
    there = {int(path.stem, 16): path for path in files if re.fullmatch("[0-9a-f]{16}", path.stem)}
    state = {"repo": repo, "system": system, "seq": 0, "prev": "0" * 64, "keyring": 0, "void": []}
    entries, alarms = [], []
    while (seq := state["seq"]) in there:
        raw = there.pop(seq).read_bytes()
        try:
            entries.append(entry := judged(raw, state, rings))
            state |= {"prev": sha(raw), "keyring": entry["keyring"], "void": []}
        except ValueError as why:
            state["void"] = [*state["void"], {"seq": seq, "sha256": sha(raw)}]
            alarms.append(f"entry {seq} ({sha(raw)}) is void: {why}")
        state["seq"] += 1
    for seq, path in sorted(there.items()):  # behind a missing number
        try:
            entry, by = signed("entry", path.read_bytes())
            held = [key for r in rings.values() for key in roles(r, entry["writer"], system).values()]
            by(held[0] if held else b"")
        except ValueError:
            alarms.append(f"object {seq} behind the missing entry {state['seq']} is a stranger's")
            continue
        here = (entry["repo"], entry["system"], entry["seq"]) == (repo, system, seq)
        need(not here, f"the chain is broken: entry {state['seq']} is missing before entry {seq}")
    return entries, alarms, state
