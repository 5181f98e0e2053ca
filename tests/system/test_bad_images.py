#!/usr/bin/python3
"""Encoded records that are no pictures, cut off, or bombs: each is named once and replaced alike at
any number of workers, in no time and no memory; grey and colour are converted into each other."""

import io
import random
import resource
import struct
import time

from bad_input import check_bad_records, datum, refused, write_lmdb
from convoy_system import (WITH_SANITIZERS, check, run, say, skip, start, state_hash, train,
                           write_job)

try:
    from PIL import Image
except ImportError:
    skip("python3-pil is not installed for /usr/bin/python3")

SIZE = 16


def picture(rng, mode="RGB", form="JPEG", **options):
    n_channels = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    image = Image.frombytes(mode, (SIZE, SIZE), rng.randbytes(SIZE * SIZE * n_channels))
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def with_size(jpeg, marker, width, height):
    """The same file, whose frame header says another size."""
    at = jpeg.index(marker)
    return jpeg[:at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9:]


def encoded(data, label, channels=3):
    return datum(data, label, channels, SIZE, SIZE, 1)


def one_job(sets, kinds, name):
    """Bits at 0 and 2 workers; the bad ones were told."""
    hashes = set()
    for workers in (0, 2):
        folder = "%s-%d" % (name, workers)
        result = train(workers=workers, sets=sets + ["run=" + folder])
        check(result.returncode == 0, result.stderr)
        check_bad_records(folder, result.stderr, kinds)
        hashes.add(state_hash(folder))
    check(len(hashes) == 1, "%s: other bits at another number of workers" % name)
    return hashes.pop()


def bad_pictures():
    rng = random.Random(5)
    jpeg = picture(rng)
    progressive = picture(rng, progressive=True)
    png = picture(rng, form="PNG")
    scan = jpeg.index(b"\xff\xda")
    huge = 65500
    kinds = {
        2: (b"", "says encoded, but has no data"),
        3: (b"GIF89a" + bytes(60), "neither JPEG nor PNG but a GIF"),
        4: (b"<!DOCTYPE html><html>not found</html>", "neither JPEG nor PNG but an HTML page"),
        5: (rng.randbytes(300), "neither JPEG nor PNG"),
        6: (b"\xff\xd8", "JPEG"),
        7: (b"\xff", "neither JPEG nor PNG"),
        8: (jpeg[:30], "JPEG"),
        9: (jpeg[:scan], "JPEG"),
        10: (jpeg[:(scan + len(jpeg)) // 2], "JPEG: Premature end"),
        11: (jpeg[:-2], "JPEG: Premature end"),
        12: (progressive[:len(progressive) * 2 // 3], "JPEG"),
        13: (png[:40], "PNG"),
        14: (png[:-20], "PNG"),
        15: (png[:60] + bytes([png[60] ^ 1]) + png[61:], "PNG"),
        40: (with_size(jpeg, b"\xff\xc0", huge, huge), "image of 65500 x 65500 pixels"),
        41: (with_size(progressive, b"\xff\xc2", huge, huge), "image of 65500 x 65500 pixels"),
        42: (with_size(jpeg, b"\xff\xc0", 0, 16), "JPEG"),
        43: (png[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + png[24:], "PNG"),
    }
    records = [encoded(picture(rng), i % 10) for i in range(128)]
    for i, (data, _) in kinds.items():
        records[i] = encoded(data, i % 10)
    # Good ones of other kinds, which are converted: grey, PNG of both kinds, progressive, CMYK.
    records[60] = encoded(picture(rng, "L"), 0)
    records[61] = encoded(picture(rng, "L", "PNG"), 1)
    records[62] = encoded(picture(rng, "RGB", "PNG"), 2)
    records[63] = encoded(picture(rng, progressive=True), 3)
    records[64] = encoded(picture(rng, "CMYK"), 4)
    write_lmdb("pictures.lmdb", records)
    one_job(["data.train.path=pictures.lmdb", "data.max_bad_fraction=0.2"],
            {i: text for i, (_, text) in kinds.items()}, "pictures")
    refused(65, ["pictures.lmdb", "1 of 128 records are bad", "data.max_bad_fraction"], workers=2,
            sets=["data.train.path=pictures.lmdb", "run=refused"], may_write=True)


def grey_set():
    """Where the dataset is grey, colour pictures become grey."""
    rng = random.Random(6)
    records = [encoded(picture(rng, "L"), i % 10, 1) for i in range(64)]
    records[7] = encoded(picture(rng, "RGB"), 7, 1)
    records[8] = encoded(picture(rng, "RGB", "PNG"), 8, 1)
    write_lmdb("grey.lmdb", records)
    one_job(["data.train.path=grey.lmdb", "data.val.path=null"], {}, "grey")


def bombs():
    """A hundred pictures that say they are huge: memory stays flat, and no time is lost."""
    rng = random.Random(8)
    records = [encoded(picture(rng), i % 10) for i in range(128)]
    jpeg, progressive = picture(rng), picture(rng, progressive=True)
    for i in range(1, 101):
        bomb = (with_size(progressive, b"\xff\xc2", 65500, 65500) if i % 2 else
                with_size(jpeg, b"\xff\xc0", 65500, 65500))
        records[i] = encoded(bomb, i % 10)
    write_lmdb("bombs.lmdb", records)
    limit = None if WITH_SANITIZERS else (1 << 30, 1 << 30)
    begin = time.monotonic()
    result = run(["train", "job.yaml", "--set", "data.train.path=bombs.lmdb", "--set", "run=bombs",
                  "--set", "data.max_bad_fraction=0.9"],
                 preexec_fn=lambda: limit and resource.setrlimit(resource.RLIMIT_AS, limit))
    took = time.monotonic() - begin
    check(result.returncode == 0, result.stderr)
    check(result.stderr.count("image of 65500 x 65500 pixels, max_pixels is 64000000") == 100,
          "not all 100 were told:\n" + result.stderr)
    check(took < 5, "100 bombs took %.1f s" % took)
    say("100 bombs within 1 GiB: %.2f s" % took)


def main():
    start()
    write_job(model="{arch: lenet5}", steps=None, epochs="1", checkpoint="{every_minutes: 0}",
              data="{train: {path: none}, val: {path: null}}")
    bad_pictures()
    grey_set()
    bombs()


main()
