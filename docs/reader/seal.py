"""Half of the stand-alone reader: custodians' keys, epoch keys, sealed objects (format.md 3 and 4)."""
import base64, hashlib, hmac
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke, keywrap
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from trust import key_id, need, parsed, roles, sha, shaped, signed, spelled

def root_key(text):  # section 4: what follows wa-root1
    raw = base64.b32decode(text.upper() + "=" * 6)
    need(raw[32:] == hashlib.sha256(b"wa-root1" + raw[:32]).digest()[:4], "the root key is mistyped")
    return raw[:32]

def key_file(text):  # section 4: (type, secret, root, repository)
    lines = [line.rstrip() for line in text.split("\n") if line.strip() and line[0] != "#"]
    names = ["role", "name", "repo", "root", "type", "secret", "check"]
    need([line.split(": ")[0] for line in lines] == ["walarchiver key 1", *names], "not a key file")
    values = dict(line.split(": ", 1) for line in lines[1:])
    covered = "".join(line + "\n" for line in lines[:-1])
    need(values["check"] == sha(covered.encode())[:16], "the key file is damaged: its check does not fit")
    root = root_key(values["root"].removeprefix("wa-root1"))
    return values["type"], bytes.fromhex(values["secret"]), root, values["repo"]

def unwrap(kind, secret, body, info):  # section 4: the epoch key in a stanza
    if kind == "master-key":
        master = hmac.digest(bytes(32), secret, "sha256")  # HKDF-Extract, no salt; then -Expand
        wrapping = hmac.digest(master, b"walarchiver/1/master-key\0" + info + b"\1", "sha256")
        return keywrap.aes_key_unwrap(wrapping, body)
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return suite.decrypt(body, hpke.MLKEM768X25519PrivateKey(*xwing(secret)), info=info)

def xwing(seed):
    both = hashlib.shake_256(seed).digest(96)
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(both[:64])
    return lattice, x25519.X25519PrivateKey.from_private_bytes(both[64:])

def recipient(kind, secret):  # the id that stanzas for this key carry
    if kind == "master-key": return key_id(kind, secret)
    return key_id(kind, b"".join(key.public_key().public_bytes_raw() for key in xwing(secret)))

def epoch_key(revisions, place, recorded, rings, kind, secret):  # section 4: the highest one that verifies
    problem = ValueError(f"no key object of {place}")
    for rev, raw in sorted(revisions.items(), reverse=True):
        try:
            wrap, by = signed("epoch", raw)
            need(wrap["rev"] == rev and all(wrap[name] == place[name] for name in place), "another place's")
            stanzas = {stanza["recipient"]: stanza["body"] for stanza in wrap["stanzas"]}
            need([s["recipient"] for s in wrap["stanzas"]] == sorted(stanzas) != [], "stanzas out of order")
            held = [roles(ring, wrap["by"], place["system"]) for ring in rings.values()]
            public = [h["admin" if rev else "writer"] for h in held if ("admin" if rev else "writer") in h]
            need(public, "key object by somebody whose role it is not")
            by(public[0])
            need(rev or wrap["by"] == wrap["writer"], "revision 0 by another than its writer")
            need(sha(raw) == recorded.get(rev), "not the one in the ledger")
        except ValueError as error: problem = error; continue
        me = recipient(kind, secret)
        info = spelled({**place, "recipient": me, "writer": wrap["writer"]})
        need(me in stanzas, f"epoch {place['epoch']} is wrapped to {sorted(stanzas)}, this key is {me}")
        try: key = unwrap(kind, secret, bytes.fromhex(stanzas[me]), info)
        except (InvalidTag, keywrap.InvalidUnwrap): raise ValueError(f"{me} does not open it") from None
        need(sha(b"walarchiver/1/epoch-check\0" + key) == wrap["check"], "another key than the epoch's")
        return key
    raise problem

def unsealed(stored, want, key_of):  # section 3: the plain bytes of an object that is what was wanted
    size = int.from_bytes(stored[8:12], "big")
    need(stored[:8] == bytes.fromhex("5049545200010d0a") and 0 < size <= 65536, "not a sealed object")
    head = shaped(parsed(stored[12 : 12 + size]), "header")
    kind, parts = head["kind"], head.get("parts", 10**8)
    need((head["v"], head["comp"]) == (1, "zstd"), "another version or compression")
    need(kind in ("wal", "history", "label", "base"), "unknown kind")
    need(("parts" in head) == (kind != "base") and head["part"] < parts, "parts")
    need(kind == "base" or 0 < parts <= 10**4, "number of parts")
    need(0 < head["tli"] < 2**32 and head["raw"] <= 64 << 20, "timeline or length")
    need(all(head.get(name) == value for name, value in want.items()), f"another object than {want}")
    stream = stored[12 + size :]
    salt, commitment, body = stream[:24], stream[24:56], stream[56:]
    context = hashlib.sha256(stored[: 12 + size]).digest()
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    key = key_of(head["epoch"])
    okm = hmac.digest(key, info + b"\1", "sha512")  # HKDF-Expand to 76 bytes: key 32, nonce 12, commitment 32
    okm += hmac.digest(key, okm + info + b"\2", "sha512")
    need(hmac.compare_digest(okm[44:76], commitment), "the key commitment is another")
    cipher, base, frame = AESGCM(okm[:32]), int.from_bytes(okm[32:44], "big"), bytearray()
    for number in range(len(body) // 16400 + 1):  # chunks of 16 KiB and a tag; the last one is short
        chunk = body[number * 16400 : (number + 1) * 16400]
        try: inner = cipher.decrypt((base ^ number).to_bytes(12, "big"), chunk, None)
        except (InvalidTag, ValueError): raise ValueError(f"chunk {number} is damaged or missing") from None
        frame += inner
    need(len(inner) < 16384, "the stream is cut off")
    return inflated(bytes(frame), head["raw"])

def inflated(frame, raw):  # section 3: just one zstd frame of `raw` bytes
    plain = bytearray()
    try:
        facts, reader = zstandard.get_frame_parameters(frame), zstandard.ZstdDecompressor().decompressobj()
        need(frame[:4] == b"\x28\xb5\x2f\xfd" and facts.content_size == raw and facts.has_checksum, "frame")
        need(not facts.dict_id and facts.window_size <= 1 << 23, "dictionary or window of the frame")
        for at in range(0, len(frame), 1024):  # small steps, so that nothing grows far over `raw`
            plain += reader.decompress(frame[at : at + 1024])
            need(len(plain) <= raw, "the frame gives more than it says")
    except zstandard.ZstdError: raise ValueError("the zstd frame is damaged") from None
    need(reader.eof and not reader.unused_data and len(plain) == raw, "frame cut off, or bytes behind it")
    return bytes(plain)
