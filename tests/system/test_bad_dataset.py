#!/usr/bin/python3
"""Datasets that are missing, damaged, cut off or hold bad records: refused with what was found, or
the record is named, counted and replaced alike at any number of workers."""

import json
import os
import random
import shutil
import signal
import struct
import time

from bad_input import (as_owner, check_bad_records, datum, error_lines, raw, refused, varint,
                       write_lmdb)
from convoy_system import (check, descendants, hit, lines, make_dataset, read, run, say, start,
                           start_train, state_hash, train, wait, wait_for_ranks, wait_for_step,
                           write_job)

PIXELS = 144  # 12 x 12
BAD = "data.train.path=bad.lmdb"
META = 16  # a meta page's own head


def missing():
    refused(66, ["dataset none", "No such file"], sets=["data.train.path=none"])
    refused(66, ["dataset none", "No such file"], sets=["data.train.path=none"], workers=2)
    refused(66, ["dataset job.yaml", "not a folder", "data.mdb"], sets=["data.train.path=job.yaml"])
    os.mkdir("hollow.lmdb")
    refused(66, ["hollow.lmdb/data.mdb", "No such file"], sets=["data.val.path=hollow.lmdb"])
    shutil.copytree("train.lmdb", "locked.lmdb")
    os.chmod("locked.lmdb/data.mdb", 0)
    refused(77, ["locked.lmdb/data.mdb", "ermission denied"],
            sets=["data.train.path=locked.lmdb"], before=as_owner())


def with_bytes(data, texts, workers=0):
    """A dataset whose file holds these bytes is refused."""
    shutil.rmtree("bad.lmdb", ignore_errors=True)
    os.mkdir("bad.lmdb")
    with open("bad.lmdb/data.mdb", "wb") as f:
        f.write(data)
    refused(65, ["bad.lmdb/data.mdb"] + texts, sets=[BAD], workers=workers)


def patched(whole, changes):
    data = bytearray(whole)
    for offset, new in changes:
        data[offset:offset + len(new)] = new
    return bytes(data)


def other_files():
    whole = read("train.lmdb/data.mdb")
    with_bytes(b"", ["empty"])
    with_bytes(b"", ["empty"], workers=2)
    with_bytes(random.Random(1).randbytes(50000), ["not an LMDB file", "beefc0de"])
    with_bytes(patched(whole, [(META, b"\1\2\3\4")]), ["magic number is 04030201, not beefc0de"])
    for page in (0, 4096):
        check(whole[page + META:page + META + 4] == b"\xde\xc0\xef\xbe", "no meta page there")
    swapped = [(page + META, b"\xbe\xef\xc0\xde") for page in (0, 4096)]
    with_bytes(patched(whole, swapped), ["other byte order", "import the data anew"])
    with_bytes(patched(whole, [(META + 4, struct.pack("<I", 999))]), ["version 999"])
    with_bytes(patched(whole, [(META + 24, struct.pack("<I", 1000))]), ["page size 1000"])
    with_bytes(patched(whole, [(META + 24, struct.pack("<I", 65536))]), ["page size 65536"])
    narrow = whole[:12] + whole[16:]  # page heads of 12 bytes
    with_bytes(narrow, ["32-bit machine", "import the data anew"])


def cut_off():
    whole = read("train.lmdb/data.mdb")
    for percent in (1, 10, 50, 90, 99):
        n = len(whole) * percent // 100
        with_bytes(whole[:n], ["file has %d bytes, needs " % n], workers=2 if percent == 50 else 0)
    with_bytes(whole[:-1], ["file has %d bytes, needs %d" % (len(whole) - 1, len(whole))])
    with_bytes(whole[:1], ["file has 1 bytes, needs "])


def wait_for_stopped(process):
    """The pid below this supervisor that stopped itself."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        for pid in descendants(process.pid):
            try:
                with open("/proc/%d/stat" % pid) as f:
                    if f.read().rpartition(")")[2].split()[0] == "T":
                        return pid
            except OSError:
                continue
        time.sleep(0.01)
    check(False, "no process stopped itself")


def cut_while_training(workers):
    """Cut in the middle of an epoch, so that a record is asked for before the size is looked at."""
    shutil.rmtree("bad.lmdb", ignore_errors=True)
    shutil.copytree("train.lmdb", "bad.lmdb")
    fault = "step.forward:step=21:attempt=1" + (":rank=1" if workers else "")
    process = start_train(workers=workers, sets=[BAD, "steps=1000", "run=cut-%d" % workers],
                          env={"CONVOY_FAULT": fault + "=stop"})
    pid = wait_for_stopped(process)
    os.truncate("bad.lmdb/data.mdb", 8192)
    begin = time.monotonic()
    hit(pid, signal.SIGCONT)
    code = wait(process, 60)
    took = time.monotonic() - begin
    with open("train.log") as f:
        log = f.read()
    check(code == 65, "cut while training: exit %d\n%s" % (code, log))
    check("bad.lmdb/data.mdb: a page cannot be read: the file was cut" in log, "not said:\n" + log)
    check(took < 15, "cut while training: ended after %.1f s\n%s" % (took, log))
    if workers == 0:
        check(len(error_lines(log)) == 1, "expected one line of error:\n" + log)
    say("cut while training, %d workers: exit 65 after %.2f s" % (workers, took))


def unlinked_while_training():
    shutil.rmtree("bad.lmdb", ignore_errors=True)
    shutil.copytree("train.lmdb", "bad.lmdb")
    process = start_train(workers=2, sets=[BAD, "steps=3000", "run=unlinked"])
    wait_for_ranks(process, 3)
    wait_for_step(20, "unlinked", process=process)
    os.remove("bad.lmdb/data.mdb")
    check(process.poll() is None, "it had ended before the file went")
    code = wait(process, 120)
    with open("train.log") as f:
        check(code == 0, "unlinked while training: exit %d\n%s" % (code, f.read()))
    say("unlinked while training: went on to its end")


def ends_in_words(what):
    """Whatever is damaged: done, or exit 65 and a line that says so. Never a bare signal."""
    train_args = ["train", "job.yaml", "--set", BAD, "--set", "run=damaged"]
    for args in (["inspect", "bad.lmdb"], train_args):
        shutil.rmtree("damaged", ignore_errors=True)
        result = run(args, timeout=30)
        check(result.returncode in (0, 65), "%s: exit %d of %s\n%s" %
              (what, result.returncode, args[0], result.stderr))
        if result.returncode == 65:
            found = error_lines(result.stderr)
            check(len(found) == 1 and "bad.lmdb" in found[0], "%s: %s" % (what, result.stderr))
    return result.returncode


def page_of(data, number):
    return struct.unpack_from("<H", data, number * 4096 + 10)[0]  # its flags


def put_dataset(data, with_manifest):
    shutil.rmtree("bad.lmdb", ignore_errors=True)
    shutil.copytree("train.lmdb", "bad.lmdb")
    with open("bad.lmdb/data.mdb", "wb") as f:
        f.write(data)
    if not with_manifest:
        os.remove("bad.lmdb/manifest.json")


def root_page(data):
    metas = [struct.unpack_from("<QQQ", data, page + META + 112) for page in (0, 4096)]
    return max(metas, key=lambda meta: meta[2])[0]


def damaged_pages(n_times):
    whole = read("train.lmdb/data.mdb")
    rng = random.Random(7)
    root = root_page(whole)
    check(page_of(whole, root) == 1, "page %d is no branch page" % root)
    n_noticed = 0
    for i in range(n_times):
        page = rng.randrange(2, len(whole) // 4096)
        if i % 4 == 0:
            page = root
        at = page * 4096 + rng.randrange(48)
        put_dataset(patched(whole, [(at, rng.randbytes(1))]), i % 2)
        n_noticed += ends_in_words("byte %d" % at) == 65
    for with_manifest in (0, 1):
        put_dataset(patched(whole, [(root * 4096, bytes(4096))]), with_manifest)
        check(ends_in_words("zeroed root") == 65, "a zeroed root page went unnoticed")
        # A cycle: the third child of the root page is the root page. Nodes lie where the offsets
        # after the page's head say, and begin with the child's number.
        node = root * 4096 + struct.unpack_from("<H", whole, root * 4096 + 16 + 2 * 2)[0]
        put_dataset(patched(whole, [(node, struct.pack("<HHH", root, 0, 0))]), with_manifest)
        check(ends_in_words("cycle") == 65, "a cycle went unnoticed")
        say("cycle, %s manifest: exit 65" % ("with" if with_manifest else "without"))
    say("%d damaged pages: %d ended in a refusal, none in silence" % (n_times, n_noticed))


def bad_records():
    """Every kind at once, at 1 and at 2 workers: the same bits."""
    rng = random.Random(3)
    records = [raw(rng.randbytes(PIXELS), i % 10) for i in range(160)]
    data = bytes(PIXELS)
    kinds = {
        3: (b"", "record of 0 bytes"),
        4: (b"\x08", "not a Datum message, or cut"),
        5: (datum(None, None, 1, 12, 12), "are 144 values, but it has 0"),
        20: (raw(data[:-1], 3), "it has 143"),
        21: (raw(data + b"x", 3), "it has 145"),
        22: (raw(data, 3, channels=3), "are 432 values"),
        30: (raw(data, 3, width=0), "width is 0"),
        31: (raw(data, 3, height=0), "height is 0"),
        32: (raw(data, 3, channels=0), "channels is 0"),
        33: (raw(data, 3, width=2**31 - 1, height=2**31 - 1, channels=2**31 - 1),
             "more than can be counted"),
        34: (raw(data, 3, height=2**31), "height is -2147483648"),
        35: (raw(data, 3, width=-1), "width is -1"),
        50: (raw(data, -1), "label -1"),
        51: (raw(data, 2**31 - 1), "label 2147483647"),
        52: (raw(data, None), "no label"),
        60: (varint(4 << 3 | 2) + varint(2**63) + data, "not a Datum message, or cut"),
        61: (raw(data, 3)[:-10], "not a Datum message, or cut"),
        159: (b"\xff" * 40, "not a Datum message, or cut"),
    }
    for i, (record, _) in kinds.items():
        records[i] = record
    write_lmdb("caffe.lmdb", records)
    sets = ["data.train.path=caffe.lmdb", "data.max_bad_fraction=0.2", "steps=null", "epochs=2"]
    hashes = set()
    for workers in (0, 2, 3):
        folder = "kinds-%d" % workers
        result = train(workers=workers, sets=sets + ["run=" + folder])
        check(result.returncode == 0, result.stderr)
        hashes.add(state_hash(folder))
        check_bad_records(folder, result.stderr, {i: kinds[i][1] for i in kinds})
    check(len(hashes) == 1, "bad records were replaced in other ways at other worker counts")
    for workers in (0, 2):
        refused(65, ["caffe.lmdb", "of 160 records are bad", "data.max_bad_fraction allows 0.001"],
                sets=sets[:1] + ["run=refused"], workers=workers, may_write=True)
        shutil.rmtree("refused", ignore_errors=True)


def wrong_hash():
    """One flipped bit of a payload of an imported dataset."""
    whole = read("train.lmdb/data.mdb")
    picture = read("set-1-images-idx3-ubyte")[16 + 77 * PIXELS:16 + 78 * PIXELS]
    at = whole.find(picture)
    check(at > 0, "picture 77 is not in the dataset")
    put_dataset(patched(whole, [(at + 50, bytes([whole[at + 50] ^ 4]))]), True)
    result = train(sets=[BAD, "data.max_bad_fraction=0.01", "steps=null", "epochs=1", "run=flip"])
    check(result.returncode == 0, result.stderr)
    check_bad_records("flip", result.stderr, {77: "hash"})
    refused(65, ["bad.lmdb: record 77", "hash", "data.on_bad_record"], workers=2, may_write=True,
            sets=[BAD, "data.on_bad_record=fail", "steps=null", "epochs=1", "run=refused"])
    shutil.rmtree("refused")


def labels():
    """A label beyond the manifest's classes is a bad record; beyond the job's, a wrong job."""
    put_dataset(read("train.lmdb/data.mdb"), True)
    about = json.loads(read("bad.lmdb/manifest.json"))
    about["classes"].pop()
    n_last = about["class_counts"].pop()
    about["class_counts"][-1] += n_last
    with open("bad.lmdb/manifest.json", "w") as f:
        json.dump(about, f)
    refused(65, ["bad.lmdb", "of 320 records are bad", "data.max_bad_fraction"], workers=2,
            sets=[BAD, "run=refused"], may_write=True)
    events = [e for e in lines("refused/events.jsonl") if e["event"] == "bad_record"]
    check("label 9, but there are 9 classes" in events[0]["reason"], str(events))
    shutil.rmtree("refused")
    refused(78, ["model.classes: classes is 7", "train.lmdb has labels of 10 classes", "at least 10"],
            sets=["model.classes=7"])


def main():
    start()
    make_dataset("train.lmdb", 320)
    make_dataset("val.lmdb", 20, seed=2)
    write_job(model="{arch: lenet5}", steps="6", checkpoint="{every_minutes: 0}",
              evaluate="{every_epochs: 0}")
    missing()
    other_files()
    cut_off()
    damaged_pages(24)
    bad_records()
    wrong_hash()
    labels()
    cut_while_training(0)
    cut_while_training(2)
    unlinked_while_training()


main()
