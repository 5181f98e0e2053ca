#!/usr/bin/env python3
"""Damaged, foreign and misplaced checkpoints: the next older whole one is used with a warning, or the
job is refused; nothing damaged is ever loaded, nothing starts from zero silently."""

import json
import os
import random
import shutil
import struct

from bad_input import refused
from convoy_system import (check, lines, make_dataset, newest_checkpoint, read, run, say, start,
                           state_hash, train, write_job)

NEWEST, OLDER = "step-00000008", "step-00000006"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def fresh(folder="run"):
    """A run that was stopped after step 8 of 12, with whole checkpoints of steps 6 and 8."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("stopped", folder)


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def flip(data, bit):
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def header(data):
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])


def older_is_used(name, data, texts, expected):
    fresh()
    write("run/checkpoints/%s/%s" % (NEWEST, name), data)
    result = train(workers=0)
    check(result.returncode == 0, result.stderr)
    warned = [line for line in result.stderr.splitlines() if " warn " in line]
    check(len(warned) == 1 and NEWEST in warned[0] and name in warned[0], result.stderr)
    check("the next older one is tried" in warned[0], warned[0])
    for text in texts:
        check(text in warned[0], "expected '%s' in: %s" % (text, warned[0]))
    resumed = [e["step"] for e in lines("run/events.jsonl") if e["event"] == "resumed"]
    check(resumed == [6], "went on from %s, not from step 6" % resumed)
    check(state_hash() == expected, "other bits after falling back")
    say(warned[0].split(" ", 1)[1])


def damages(expected):
    model = read("stopped/checkpoints/%s/%s" % (NEWEST, MODEL))
    states = read("stopped/checkpoints/%s/%s" % (NEWEST, OPTIMIZER))
    state = read("stopped/checkpoints/%s/%s" % (NEWEST, STATE))
    older = read("stopped/checkpoints/%s/%s" % (OLDER, MODEL))
    n_header = 8 + struct.unpack("<Q", model[:8])[0]
    first = min((t["data_offsets"][0], name) for name, t in header(model).items()
                if name != "__metadata__")[1]
    check(len(older) == len(model), "the two files have other sizes")
    half = len(model) // 2
    size = "has %d bytes, expected " + str(len(model))
    for name, data, texts in (
            (MODEL, b"", [size % 0]), (MODEL, b"x", [size % 1]),
            (MODEL, model[:n_header // 2], [size % (n_header // 2)]),
            (MODEL, model[:-1], [size % (len(model) - 1)]),
            (MODEL, model + b"junk", [size % (len(model) + 4)]),
            (MODEL, bytes(len(model)), []),
            (MODEL, flip(model, n_header * 8 + 5), [first]),
            (MODEL, flip(model, 8 * 40), ["header"]),
            (MODEL, model[:half] + older[half:], []),
            (OPTIMIZER, flip(states, len(states) * 8 - 1), []),
            (STATE, b"", []), (STATE, state[:-20], []),
            (STATE, state.replace(b'"step"', b'"stop"'), ['no "step"']),
            (STATE, state.replace(b'"version": 1', b'"version": 2'),
             ["format version 2", "reads up to 1", "use a newer one"]),
            (STATE, flip(state, 8 * (state.index(b'"step"') + 9)), [])):
        older_is_used(name, data, texts, expected)


def cut_header_bytes():
    """The header cut at many a byte, through the command that only looks."""
    model = read("stopped/checkpoints/%s/%s" % (NEWEST, MODEL))
    n_header = 8 + struct.unpack("<Q", model[:8])[0]
    fresh()
    for n in list(range(12)) + list(range(12, n_header, 191)):
        write("run/checkpoints/%s/%s" % (NEWEST, MODEL), model[:n])
        result = run(["inspect", "run/checkpoints/" + NEWEST])
        check(result.returncode == 65 and "has %d bytes" % n in result.stderr,
              "cut at %d: exit %d: %s" % (n, result.returncode, result.stderr))
    say("header cut at every %d bytes: refused" % 191)


def flipped_bits():
    """Single bits anywhere in any of the three files."""
    rng = random.Random(11)
    fresh()
    for name in (MODEL, OPTIMIZER, STATE):
        path = "run/checkpoints/%s/%s" % (NEWEST, name)
        whole = read(path)
        for _ in range(40):
            bit = rng.randrange(len(whole) * 8)
            write(path, flip(whole, bit))
            result = run(["inspect", "run/checkpoints/" + NEWEST])
            check(result.returncode == 65 and name in result.stderr,
                  "bit %d of %s: exit %d: %s" % (bit, name, result.returncode, result.stderr))
        write(path, whole)
    check(run(["inspect", "run/checkpoints/" + NEWEST]).returncode == 0, "the whole one is refused")
    say("120 single bits: all noticed")


def none_left():
    fresh()
    for step in os.listdir("run/checkpoints"):
        if step.startswith("step-"):
            path = "run/checkpoints/%s/%s" % (step, MODEL)
            write(path, read(path)[:100])
    for workers in (0, 2):
        refused(65, ["run/checkpoints", "none of", "is whole", "--from-scratch"], workers=workers,
                may_write=True)
    result = run(["train", "job.yaml", "--from-scratch"])
    check(result.returncode == 0 and "starting from scratch as asked" in result.stderr, result.stderr)


def tensor_file(text, data=b"", n_header=None):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text) if n_header is None else n_header) + text + data


def foreign_files():
    """Files named by init_from, which no digest protects."""
    good = read("stopped/checkpoints/%s/%s" % (NEWEST, MODEL))
    swapped = struct.pack(">Q", struct.unpack("<Q", good[:8])[0]) + good[8:]
    cases = [(b"", ["0 bytes"]), (b"x", ["1 byte"]),
             (b"\x89HDF\r\n\x1a\n" + bytes(100), ["no safetensors file"]),
             (swapped, ["no safetensors file", "header length 86", "expected 2 to 16777216"]),
             (tensor_file("", bytes(64)), ["header length 0"]),
             (tensor_file("{}", n_header=1000), ["its header alone needs 1008"]),
             (tensor_file("{}", bytes(100), 2**63), ["header length 9223372036854775808"]),
             (tensor_file("{}", bytes(100), (16 << 20) + 1), ["header length 16777217"]),
             (good[:-1], ["needs at least 1 more"]), (good + b"junk", ["4 bytes of junk"]),
             (tensor_file("[1, 2]"), ["no JSON header"]),
             (flip(good, len(good) * 8 - 1), ["tensor 'fc3.bias' is damaged"])]
    for data, texts in cases:
        write("foreign.safetensors", data)
        refused(65, ["foreign.safetensors"] + texts, sets=["init_from=foreign.safetensors", "run=new"],
                may_write=True)
        check(not os.path.exists("new/checkpoints/step-00000004"), "it trained")
        shutil.rmtree("new")
    refused(66, ["none.safetensors"], sets=["init_from=none.safetensors", "run=new"], may_write=True)
    shutil.rmtree("new")


def other_models():
    newest = os.path.join("stopped/checkpoints", NEWEST, MODEL)
    refused(65, [newest, "tensors differ", "conv1.weight is F32 (6, 1, 5, 5), expected", "missing "
                  "layer1.0.conv1.weight", "and more"], workers=2, may_write=True,
            sets=["model={arch: resnet20_cifar}", "run=new", "init_from=" + newest])
    shutil.rmtree("new")
    refused(65, [newest, "2 tensors differ", "fc3.weight is F32 (10, 84), expected F32 (12, 84)"],
            may_write=True, sets=["model={arch: lenet5, classes: 12}", "run=new", "init_from=" + newest])
    shutil.rmtree("new")
    fresh()
    for assignment, text in (("model.arch=resnet20_cifar", "model.arch is resnet20_cifar, was lenet5"),
                             ("model.classes=12", "model.classes is 12, was 10"),
                             ("optimizer.momentum=0.5", "optimizer.momentum is 0.5, was 0.9"),
                             ("minibatch=2", "minibatch is 2, was 4")):
        refused(65, ["run/checkpoints/" + NEWEST, "another job (" + text + ")", "another run folder",
                     "init_from"], sets=[assignment], may_write=True)
    make_dataset("other.lmdb", 160, seed=3)
    refused(65, ["run/checkpoints/" + NEWEST, "another training set", "other.lmdb"], workers=2,
            sets=["data.train.path=other.lmdb"], may_write=True)
    check(newest_checkpoint().endswith(NEWEST), "a refused job touched the checkpoints")


def other_worker_counts(expected):
    for workers in (1, 2, 3, 4):
        fresh()
        result = train(workers=workers)
        check(result.returncode == 0, result.stderr)
        check(state_hash() == expected, "other bits on %d workers" % workers)
    say("goes on with the same bits on 1 to 4 workers")


def latest_is_a_hint(expected):
    def remove(path):
        os.remove(path)

    def point(target):
        def action(path):
            write(path, target)
        return action

    def link(path):
        os.remove(path)
        os.symlink("/etc/passwd", path)

    def folder(path):
        os.remove(path)
        os.mkdir(path)

    def half_deleted(path):
        write(path, NEWEST.encode())
        os.remove("run/checkpoints/%s/%s" % (NEWEST, MODEL))

    for action, step in ((remove, 8), (point(b"step-00000099"), 8), (point(b"../../../etc"), 8),
                         (point(OLDER.encode()), 8), (point(b"\0" * 5000), 8), (link, 8),
                         (folder, 8), (half_deleted, 6)):
        fresh()
        action("run/checkpoints/latest")
        result = train()
        check(result.returncode == 0, result.stderr)
        resumed = [e["step"] for e in lines("run/events.jsonl") if e["event"] == "resumed"]
        check(resumed == [step], "went on from %s, not %d: %s" % (resumed, step, result.stderr))
        check(state_hash() == expected, "other bits with a wrong 'latest'")
    say("'latest' missing, dangling, outside, wrong or no file: the newest whole one is found")


def main():
    start()
    make_dataset("train.lmdb", 160)
    make_dataset("val.lmdb", 20, seed=2)
    write_job(model="{arch: lenet5}", steps="12",
              checkpoint="{every_steps: 2, every_minutes: 0, keep: 9}",
              data="{train: {path: train.lmdb, augment: [{pad_crop: 1}, {flip: 0.5}]},"
              " mean: [0.25], deviation: [0.25]}")
    result = train(sets=["run=whole"])
    check(result.returncode == 0, result.stderr)
    expected = state_hash("whole")
    shutil.copytree("whole", "stopped")
    for step in os.listdir("stopped/checkpoints"):
        if step.startswith("step-") and step not in (NEWEST, OLDER):
            shutil.rmtree("stopped/checkpoints/" + step)
    write("stopped/checkpoints/latest", NEWEST.encode())
    damages(expected)
    cut_header_bytes()
    flipped_bits()
    none_left()
    foreign_files()
    other_models()
    other_worker_counts(expected)
    latest_is_a_hint(expected)


main()
