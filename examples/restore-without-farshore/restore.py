#!/usr/bin/env python3
"""Restores a recovery point from a Farshore vault in a directory, without Farshore.

Written from docs/formats/vault.md alone. Needs Python 3 and its standard library, the program zstd, and for an encrypted vault
the shared library libcrypto.so.3, which every Linux distribution has.

  restore.py VAULT-DIRECTORY DISK OUTPUT [--at SEQUENCE|TAG|TIME|latest] [--key-file FILE | --passphrase-file FILE]
  restore.py VAULT-DIRECTORY DISK --list [--key-file FILE | --passphrase-file FILE]

--chunks FOLDER names the second place of a vault that keeps its chunks apart.

TIME, as 2026-11-21T14:03:07Z, is the newest recovery point or flush boundary at or before it.
"""
import argparse, base64, ctypes, datetime, hashlib, hmac, json, os, re, struct, subprocess, sys, tempfile

BLOCK = 4096


class Damaged(Exception):
    """An object of the vault is missing, or is not what was written there."""


# --- libcrypto and zstd  -------------------------------------------------------------------------------------------

def library():
    """OpenSSL's libcrypto, for AES-256-GCM: loaded when a vault is encrypted."""
    crypto = ctypes.CDLL("libcrypto.so.3")
    for name, result, arguments in CALLS:
        function = getattr(crypto, name)
        function.restype, function.argtypes = result, arguments
    return crypto


CALLS = [
    ("EVP_CIPHER_CTX_new", ctypes.c_void_p, []),
    ("EVP_CIPHER_CTX_free", None, [ctypes.c_void_p]),
    ("EVP_aes_256_gcm", ctypes.c_void_p, []),
    ("EVP_DecryptInit_ex", ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]),
    ("EVP_DecryptUpdate", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, ctypes.c_int]),
    ("EVP_DecryptFinal_ex", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)]),
    ("EVP_CIPHER_CTX_ctrl", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_char_p]),
]


def gcm_open(crypto, key, nonce, associated, sealed):
    """The plaintext of `sealed` (ciphertext and 16-byte tag), or None when it does not fit."""
    context, count = crypto.EVP_CIPHER_CTX_new(), ctypes.c_int()
    try:
        body, tag = sealed[:-16], sealed[-16:]
        output = ctypes.create_string_buffer(len(body) + 16)
        crypto.EVP_DecryptInit_ex(context, crypto.EVP_aes_256_gcm(), None, key, nonce)
        crypto.EVP_DecryptUpdate(context, None, ctypes.byref(count), associated, len(associated))
        crypto.EVP_DecryptUpdate(context, output, ctypes.byref(count), body, len(body))
        crypto.EVP_CIPHER_CTX_ctrl(context, 0x11, 16, tag)  # EVP_CTRL_AEAD_SET_TAG
        if crypto.EVP_DecryptFinal_ex(context, ctypes.create_string_buffer(16), ctypes.byref(count)) != 1:
            return None
        return output.raw[:len(body)]
    finally:
        crypto.EVP_CIPHER_CTX_free(context)


def decompress(frames, size):
    """What zstd makes of frames that stand one behind the other: `size` bytes, and never more are taken."""
    with tempfile.TemporaryFile() as file:
        file.write(frames)
        file.seek(0)
        with subprocess.Popen(["zstd", "-d", "-c", "-q"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as zstd:
            output = zstd.stdout.read(size + 1)
            zstd.stdout.close()
    if len(output) != size:
        raise Damaged("its zstd frames do not give their bytes")
    return output


def hkdf(secret, salt, info, count):
    key = hmac.digest(salt, secret, "sha256")
    output, block = b"", b""
    while len(output) < count:
        block = hmac.digest(key, block + info + bytes([len(output) // 32 + 1]), "sha256")
        output += block
    return output[:count]


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def key_bytes(text, path):
    """The 32 bytes of a key file: as they are, as hex digits or as base64."""
    if len(text) == 32:
        return text
    try:
        stripped = text.strip()
        secret = bytes.fromhex(stripped.decode()) if len(stripped) == 64 else base64.b64decode(stripped, validate=True)
    except ValueError:
        secret = b""
    return secret if len(secret) == 32 else sys.exit(f"wrong key: {path} is no key file (32 bytes, hex or base64) and no recovery kit")


# --- sections 3 and 4: keys and sealed objects ---------------------------------------------------------------------

KINDS = {"catalog": 1, "head": 3, "manifest": 4, "map": 5, "segment": 6, "chunk": 7, "kept": 10}


class Vault:
    def __init__(self, directory, key_file=None, passphrase_file=None, chunks=None):
        self.directory, self.chunks = directory, chunks or directory
        marker = self.self_hashed("farshore.json")
        if marker["format"] not in (1, 2):
            sys.exit("this vault has another format version")
        if (marker.get("chunks") == "apart") != bool(chunks):
            sys.exit("this vault keeps its chunks at another place: give it by --chunks" if not chunks else "this vault keeps its chunks with everything else: leave out --chunks")
        if chunks and self.self_hashed("chunks/farshore.json") != marker:
            sys.exit(f"{chunks} does not hold the chunks of this vault")
        self.id, self.encrypted = marker["vault"], marker["cipher"] == "aes-256-gcm"
        self.id_key, self.data_keys = bytes.fromhex(self.id), {}
        if self.encrypted:
            self.crypto = library()
            self.unlock(key_file, passphrase_file)
        elif key_file or passphrase_file:
            sys.exit("wrong key: this vault is not encrypted, it opens without a key")

    def path(self, key):
        return os.path.join(self.chunks if key.startswith("chunks/") else self.directory, key)

    def raw(self, key):
        try:
            with open(self.path(key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise Damaged(f"{key} is missing") from None

    def exists(self, key):
        return os.path.exists(self.path(key))

    def self_hashed(self, key):
        try:
            document = json.loads(self.raw(key))
            rest = {name: value for name, value in document.items() if name != "sha256"}
            canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
            if hashlib.sha256(canonical).hexdigest() == document["sha256"]:
                return document
        except (ValueError, KeyError, AttributeError):
            pass
        raise Damaged(f"{key} is not what was written there")

    def unlock(self, key_file, passphrase_file):
        secret = passphrase = None
        if passphrase_file:
            passphrase = re.sub(rb"\r?\n\Z", b"", contents(passphrase_file))
        elif key_file:
            text = contents(key_file)
            if re.search(rb"^id-key: ", text, re.M):
                return self.use_kit(text, key_file)
            secret = key_bytes(text, key_file)
        else:
            sys.exit("wrong key: this vault is encrypted; give --key-file or --passphrase-file")
        for number in range(1, 65):
            if self.exists(f"keys/{number}"):
                self.try_key(number, secret, passphrase)
        if not self.data_keys:
            sys.exit(f"wrong key: {key_file or passphrase_file} opens none of the vault's keys")

    def try_key(self, number, secret, passphrase):
        wrapped = self.self_hashed(f"keys/{number}")
        salt = bytes.fromhex(wrapped["salt"])
        if passphrase is not None and wrapped["method"] == "scrypt":
            n, r, p = wrapped["n"], wrapped["r"], wrapped["p"]
            if n > 1 << 20 or r > 8 or p > 4:
                raise Damaged(f"keys/{number} asks for too much work")
            okm = hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=48)
        elif secret is not None and wrapped["method"] == "hkdf-sha256":
            okm = hkdf(secret, salt, b"farshore key file v1", 48)
        else:
            return
        if okm[32:].hex() != wrapped["check"]:
            return
        place = f"farshore keys v1 {self.id} {number} aes-256-gcm".encode()
        opened = gcm_open(self.crypto, okm[:32], bytes(12), place, bytes.fromhex(wrapped["wrapped"]))
        if opened is None:
            raise Damaged(f"keys/{number} does not open")
        keys = json.loads(opened)
        self.id_key = bytes.fromhex(keys["id"])
        # After a rotation a later key object has more generations.
        self.data_keys.update((entry["generation"], bytes.fromhex(entry["key"])) for entry in keys["data"])

    def use_kit(self, text, path):
        vault = re.search(rb"^vault: ([0-9a-f]{32})\s*$", text, re.M)
        lines = re.findall(rb"^((?:id-key|data-key-\d+): [0-9a-f]{64})\s*$", text, re.M)
        check = re.search(rb"^check: ([0-9a-f]{16})\s*$", text, re.M)
        if not vault or not check or hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()[:16] != check[1].decode():
            sys.exit(f"wrong key: {path} looks like a recovery kit, but its lines are not whole")
        if vault[1].decode() != self.id:
            sys.exit(f"wrong key: {path} is the recovery kit of the vault {vault[1].decode()}, this one is {self.id}")
        keys = {name.decode(): bytes.fromhex(value.decode()) for name, value in (line.split(b": ") for line in lines)}
        self.id_key = keys.pop("id-key")
        self.data_keys = {int(name[9:]): value for name, value in keys.items()}

    def read(self, key, kind):
        """The plaintext of a sealed object; raises Damaged, naming it, unless every byte is what was sealed here."""
        data = self.raw(key)
        try:
            return self.opened(data, key, kind)
        except (Damaged, struct.error, IndexError, KeyError) as error:
            raise Damaged(f"{key}: {error}") from None

    def opened(self, data, key, kind):
        magic, version, found, cipher, generation, salt, length, size, count = struct.unpack_from("<8sHBBI32sQII", data)
        if (magic, version, found, cipher) != (b"FARSHORE", 1, KINDS[kind], 1 if self.encrypted else 0):
            raise Damaged("its header is not valid")
        if count != max(1, -(-length // size)) or length > 64 << 20:
            raise Damaged("its lengths are not valid")
        if self.encrypted and generation not in self.data_keys:
            sys.exit(f"wrong key: {key} is sealed with key generation {generation}, made later than the key given")
        table = struct.unpack_from(f"<{count}I", data, 64)
        start = 64 + 4 * count
        # A chunk is bound to its id alone: its place is chunks/<id>, without folder and epoch.
        place = f"{self.id}/" + ("chunks/" + key.split("/")[2].split(".")[0] if kind == "chunk" else key)
        associated = data[:start] + place.encode()
        secret = hkdf(self.data_keys[generation], salt, b"farshore object v1", 32) if self.encrypted else b""
        bodies = []
        for number, entry in enumerate(table):
            stored = data[start:start + (entry & 0x7FFFFFFF)]
            start += entry & 0x7FFFFFFF
            if self.encrypted:
                body = gcm_open(self.crypto, secret, struct.pack("<I8x", number), associated, stored)
            else:
                body = stored[:-32]
                if hashlib.sha256(associated + struct.pack("<I", number) + body).digest() != stored[-32:]:
                    body = None
            if body is None:
                raise Damaged(f"frame {number} does not open")
            bodies.append(body)
        sizes = [min(size, length - number * size) for number in range(count)]
        compressed = [number for number in range(count) if table[number] >> 31]
        if compressed:
            # All frames of an object in one go: a program is started for it.
            output, at = decompress(b"".join(bodies[number] for number in compressed), sum(sizes[number] for number in compressed)), 0
            for number in compressed:
                bodies[number], at = output[at:at + sizes[number]], at + sizes[number]
        if start != len(data) or [len(body) for body in bodies] != sizes:
            raise Damaged("its length is not what its table says")
        return b"".join(bodies)

    # --- section 7: chains ---

    def newest(self, prefix, kind):
        def exists(number):
            return self.exists(f"{prefix}/{number:020}")

        def last(low, step_by):
            step = 1
            while exists((low + step) * step_by):
                low, step = low + step, step * 2
            while step >= 1:
                if exists((low + step) * step_by):
                    low += step
                step //= 2
            return low * step_by

        number = last(last(0, 1024), 1)
        while exists(number + 1):
            number += 1
        return json.loads(self.read(f"{prefix}/{number:020}", kind)) if number else None


# --- sections 5, 6 and 9: what a state is made of ------------------------------------------------------------------

class Disk:
    def __init__(self, vault, name):
        self.vault = vault
        catalog = vault.newest("catalog", "catalog") or sys.exit("damaged: the vault has no catalog")
        found = [disk for disk in catalog["disks"] if name in (disk["name"], disk["id"])]
        if not found:
            sys.exit(f"no disk {name}; there are: " + ", ".join(disk["name"] for disk in catalog["disks"]))
        self.id = found[0]["id"]
        head = vault.newest(f"heads/{found[0]['group']}", "head") or sys.exit("nothing of the disk is in the vault yet")
        self.state = next((state for state in head["disks"] if state["disk"] == self.id and state["lineages"]), None) or sys.exit("nothing of the disk is in the vault yet")
        self.oldest = self.state["oldestSequence"]
        self.lineages = [lineage for lineage in self.state["lineages"] if lineage["sequence"] >= self.oldest]
        # The points below the window, each with a map of its own.
        self.kept = json.loads(vault.read(f"disks/{self.id}/kept/{self.state['kept']}", "kept"))["points"] if "kept" in self.state else []

    def manifest(self, ref, lineage):
        own = ref.get("lineage", lineage)
        key = f"disks/{self.id}/{own}/manifests/{ref['sequence']:020}"
        if hashlib.sha256(self.vault.raw(key)).hexdigest() != ref["hash"]:
            raise Damaged(f"{key} is not the one that the head leads to")
        return json.loads(self.vault.read(key, "manifest"))

    def manifests(self, lineage):
        """From the newest back: the tail, then the full ones."""
        for ref in reversed(lineage["tail"]):
            yield self.manifest(ref, lineage["id"])
        full = self.manifest(lineage["full"], lineage["id"])
        while full:
            yield full
            before = [ref for ref in full.get("fulls", []) if ref["fullNumber"] == full["fullNumber"] - 1]
            full = self.manifest(before[0], full["lineage"]) if before and before[0]["sequence"] >= self.oldest else None

    def points(self):
        points = {point["sequence"]: point for lineage in self.lineages for manifest in self.manifests(lineage) for point in manifest["points"]
                  if point["sequence"] >= self.oldest}
        points |= {point["sequence"]: point for point in self.kept if point["sequence"] < self.oldest}
        return [points[sequence] for sequence in sorted(points)]

    def resolve(self, name):
        if name == "latest":
            return self.lineages[-1]["sequence"]
        if name.lstrip("#").isdigit():
            return int(name.lstrip("#"))
        if re.match(r"\d{4}-\d\d-\d\dT", name):
            at = datetime.datetime.fromisoformat(name.replace("Z", "+00:00")) - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
            return self.newest_at(at // datetime.timedelta(microseconds=1)) or sys.exit("no point at or before that time")
        tagged = [point["sequence"] for point in self.points() if point.get("tag") == name]
        return tagged[-1] if tagged else sys.exit(f"no point {name}")

    def newest_at(self, micros):
        """The newest point at or before the time, or a flush boundary between it and the next one (section 9)."""
        for lineage in reversed(self.lineages):
            manifests, newest, last = [], None, lineage["sequence"]
            for manifest in self.manifests(lineage):
                manifests.append(manifest)
                for point in reversed([point for point in manifest["points"] if point["sequence"] >= self.oldest]):
                    if newest is None and point["timeMicros"] <= micros:
                        newest = point["sequence"]
                    elif newest is None:
                        last = point["sequence"] - 1
                if newest is not None:
                    break
            if newest is not None:
                return self.boundary(manifests[::-1], newest, last, micros, lineage["sequence"])
        earlier = [point["sequence"] for point in self.kept if point["timeMicros"] <= micros]
        return earlier[-1] if earlier else None

    def boundary(self, manifests, newest, last, micros, end):
        """The newest flush boundary after `newest`, at most `last`, whose last write is not younger than the time."""
        seen, told = [], newest
        merged = [(gap["after"], gap["through"]) for manifest in manifests for gap in manifest.get("merged", [])]
        for manifest, entry in [(manifest, entry) for manifest in manifests for entry in manifest["segments"] if entry["last"] > newest]:
            for sequence, wall, flushed in self.records(manifest, entry):
                if flushed > told:
                    told, before, seen = flushed, [time for number, time in seen if number <= flushed], [record for record in seen if record[0] > flushed]
                    hidden = any(after < told < through for after, through in merged)
                    if told <= last and not hidden and before and before[-1] // 1000 <= micros:
                        newest = told
                    if told >= last:
                        return newest
                if sequence > told:
                    seen.append((sequence, wall))
        # All that was sent had been flushed: the end of a history is a boundary.
        return end if last == end and seen and seen[-1][1] // 1000 <= micros else newest

    def records(self, manifest, entry):
        data = self.vault.read(self.segment_key(entry.get("lineage", manifest["lineage"]), entry["first"], entry["last"]), "segment")
        for number in range(struct.unpack_from("<8sI", data)[1]):
            sequence, wall, flushed = struct.unpack_from("<Q24xQQ", data, 64 + 64 * number)
            if manifest["after"] < sequence <= manifest["sequence"]:
                yield sequence, wall, flushed

    def plan(self, sequence):
        """The map to start from, and the segments to lay over it."""
        for point in self.kept:
            if point["sequence"] == sequence < self.oldest:
                return point["sizeBytes"], point["root"], []
        sizes = [grown["sizeBytes"] for grown in self.state.get("grown", []) if grown["through"] >= sequence]
        size = (sizes + [self.state["sizeBytes"]])[0]
        reaching = [lineage for lineage in self.lineages if lineage["sequence"] >= sequence]
        if not reaching or sequence < self.oldest:
            sys.exit(f"the vault has sequences {self.oldest} to {self.lineages[-1]['sequence']}")
        chain = []
        for manifest in self.manifests(reaching[0]):
            chain.append(manifest)
            if manifest["kind"] == "full" and manifest["sequence"] <= sequence:
                break
        for manifest in chain:
            if any(gap["after"] < sequence < gap["through"] for gap in manifest.get("merged", [])):
                sys.exit(f"of the sequences around {sequence} the vault has the last one only: name a point")
        base, segments = chain[-1], []
        if base["sequence"] > sequence:
            # The window begins between two full manifests: the later one names the map that its segments go over.
            if sequence < base["after"] or "baseRoot" not in base:
                sys.exit(f"the vault has nothing at {sequence}: the history after it begins at {base['sequence']}")
            return size, base["baseRoot"], [(entry.get("lineage", base["lineage"]), entry) for entry in base["segments"] if entry["first"] <= sequence]
        reached = base["sequence"]
        for manifest in reversed(chain[:-1]):
            if manifest["after"] == reached and reached < sequence:
                segments += [(entry.get("lineage", manifest["lineage"]), entry) for entry in manifest["segments"] if entry["first"] <= sequence]
                reached = manifest["sequence"]
        return size, base["root"], segments

    def restore(self, sequence, path):
        size, root, segments = self.plan(sequence)
        self.cache = {}
        # The output gets its name when it is whole.
        partial = path + ".partial"
        try:
            with open(partial, "wb") as output:
                output.truncate(size)
                self.page(root["id"], root["level"], 0, size, output)
                for lineage, entry in segments:
                    self.segment(lineage, entry, sequence, output)
                output.truncate(size)
                output.flush()
                os.fsync(output.fileno())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise

    def segment_key(self, lineage, first, last):
        return f"disks/{self.id}/{lineage}/segments/{first:020}-{last:020}"

    def segment(self, lineage, entry, sequence, output):
        key = self.segment_key(lineage, entry["first"], entry["last"])
        data = self.vault.read(key, "segment")
        magic, count, size = struct.unpack_from("<8sII", data)
        if magic != b"FSEGMENT" or size != 64:
            raise Damaged(f"{key} is no segment")
        for number in range(count):
            (own, offset, length, position, _, _, _, kind) = struct.unpack_from("<QQQQQQIB", data, 64 + 64 * number)
            if own > sequence or kind == 4:
                continue
            output.seek(offset)
            if kind == 1:
                output.write(data[position:position + length])
            while kind != 1 and length:
                output.write(bytes(min(length, 1 << 20)))
                length -= min(length, 1 << 20)

    def page(self, page_id, level, first, size, output):
        if page_id == "0" * 64:
            return
        page = self.vault.read(f"maps/{page_id}", "map")
        magic, found, block, _, a, b = struct.unpack_from("<4sB3xQIII", page)
        if (magic, found, block) != (b"FMAP", level, first) or hmac.digest(self.vault.id_key, page, "sha256").hex() != page_id:
            raise Damaged(f"maps/{page_id} is not the page that was named")
        if level > 0:
            present = [child for child in range(256) if page[32 + child // 8] >> child % 8 & 1]
            for number, child in enumerate(present):
                below = page[64 + 32 * number:96 + 32 * number].hex()
                self.page(below, level - 1, first + child * 16384 * 256 ** (level - 1), size, output)
            return
        for number in range(b):
            start, count, source, _, source_block = struct.unpack_from("<HHHHI", page, 32 + 40 * a + 12 * number)
            data = self.source(page[32 + 40 * source:72 + 40 * source])[source_block * BLOCK:(source_block + count) * BLOCK]
            offset = (first + start) * BLOCK
            output.seek(offset)
            output.write(data[:size - offset])

    def source(self, record):
        if record in self.cache:
            return self.cache[record]
        if record[0] == 1:
            chunk = record[8:40].hex()
            data = self.vault.read(f"chunks/{chunk[:2]}/{chunk}.{struct.unpack_from('<I', record, 4)[0]}", "chunk")
            if hmac.digest(self.vault.id_key, data, "sha256").hex() != chunk:
                raise Damaged(f"the content of the chunk {chunk} is not its own")
        else:
            first, last = struct.unpack_from("<QQ", record, 24)
            data = self.vault.read(self.segment_key(record[8:24].hex(), first, last), "segment")
        if len(self.cache) > 16:
            self.cache.clear()
        self.cache[record] = data
        return data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vault")
    parser.add_argument("disk")
    parser.add_argument("output", nargs="?")
    parser.add_argument("--at", default="latest")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--chunks", help="the folder of the chunks, where they are kept apart")
    parser.add_argument("--key-file")
    parser.add_argument("--passphrase-file")
    options = parser.parse_args()
    try:
        disk = Disk(Vault(options.vault, options.key_file, options.passphrase_file, options.chunks), options.disk)
        if options.list:
            for point in disk.points():
                print(f"#{point['sequence']} {point['kind']} {point.get('tag', '')}".rstrip())
        elif options.output:
            sequence = disk.resolve(options.at)
            disk.restore(sequence, options.output)
            print(f"restored #{sequence} to {options.output}")
        else:
            parser.error("give OUTPUT or --list")
    except Damaged as error:
        sys.exit(f"damaged: {error}")
    except OSError as error:
        sys.exit(f"{error.filename or 'the vault'}: {error.strerror or error}")
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        # Authenticated, and still not as the format says.
        sys.exit(f"damaged: the vault holds something this script does not understand: {type(error).__name__} {error}")


if __name__ == "__main__":
    main()
