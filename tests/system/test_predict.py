#!/usr/bin/env python3
"""`convoy predict`: the logits of every picture imply what evaluation found (label, loss, confidence,
rank of the label); a bare file with --arch gives the same; bad pictures do not stop the others."""

import collections
import json
import math
import os
import random
import struct
import zlib

from convoy_system import (check, lines, newest_checkpoint, read, run, say, start, train, write_job)

CLASSES = ("ant", "bee", "cat", "dog")
SIZE = 16
TOLERANCE = 1e-5


def png(width, height, pixels):
    """An RGB picture as a PNG file."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + pixels[3 * width * y:3 * width * (y + 1)] for y in range(height))
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) +
            chunk(b"IEND", b""))


def write_pictures(folder, n_each, seed):
    """Class folders of pictures of several sizes; the class tints them. Paths by class."""
    rng = random.Random(seed)
    paths = {}
    for label, name in enumerate(CLASSES):
        os.makedirs(os.path.join(folder, name))
        paths[name] = []
        for i in range(n_each):
            width, height = rng.randrange(12, 40), rng.randrange(12, 40)
            pixels = bytearray(b // 2 for b in rng.randbytes(3 * width * height))
            for at in range(label % 3, len(pixels), 3):
                pixels[at] = min(255, pixels[at] + 40 + 30 * (label // 3))
            paths[name].append("%s/%s/%03d.png" % (folder, name, i))
            with open(paths[name][-1], "wb") as f:
                f.write(png(width, height, bytes(pixels)))
    return paths


def predict(paths, *options, checkpoint="run", code=0):
    result = run(["predict", "--json", "--checkpoint", checkpoint] + list(options) + paths)
    check(result.returncode == code, "exit %d: %s" % (result.returncode, result.stderr))
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    return {answer["image"]: answer for answer in answers}, result.stderr


def close(a, b, tolerance=TOLERANCE):
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


def check_answer(answer):
    """The figures of one answer agree with its logits."""
    logits = answer["logits"]
    total = sum(math.exp(x) for x in logits)
    check(len(logits) == len(CLASSES), "logits of %s" % answer)
    check(all(close(math.exp(x) / total, p) for x, p in zip(logits, answer["probabilities"])),
          "probabilities are not the softmax of the logits: %s" % answer)
    best = max(range(len(logits)), key=lambda k: logits[k])
    check(answer["class"] == best and answer["name"] == CLASSES[best], str(answer))
    check(close(answer["confidence"], answer["probabilities"][best]), str(answer))


def implied(answer, label):
    """What evaluation must find in a picture with these logits: loss, confidence, prediction."""
    logits = answer["logits"]
    loss = math.log(sum(math.exp(x) for x in logits)) - logits[label]
    return loss, max(answer["probabilities"]), answer["class"]


def compare_with_evaluation(answers, paths):
    """Evaluation keeps records, not file names: within a class both are compared in order of loss."""
    evaluation = json.loads(read("run/eval/%s-val.json" % os.path.basename(newest_checkpoint())))
    found = collections.defaultdict(list)
    for record in evaluation["hardest"]:
        found[record["label"]].append((record["loss"], record["confidence"], record["predicted"]))
    for label, name in enumerate(CLASSES):
        wanted = sorted(implied(answers[path], label) for path in paths[name])
        check(len(found[label]) == len(wanted), "not every record is listed")
        for want, have in zip(wanted, sorted(found[label])):
            check(close(want[0], have[0]) and close(want[1], have[1]) and want[2] == have[2],
                  "class %s: predict implies %s, evaluation found %s" % (name, want, have))
    n_right = sum(answers[path]["name"] == name for name in CLASSES for path in paths[name])
    check(n_right == evaluation["n_top1"], "%d right, evaluation: %d" % (n_right, evaluation["n_top1"]))
    return n_right


def compare_bare(answers, all_paths):
    with open("names.txt", "w") as f:
        f.write("\n".join(CLASSES) + "\n")
    bare, _ = predict(all_paths, "--arch", "resnet20_cifar", "--size", str(SIZE), "--mean", "0.5,0.4,0.3",
                      "--deviation", "0.25,0.2,0.3", "--names", "names.txt", "--threads", "1",
                      checkpoint=newest_checkpoint() + "/model.safetensors")
    for path in all_paths:
        check(all(close(a, b) for a, b in zip(answers[path]["logits"], bare[path]["logits"])),
              "%s: a bare file gives other logits: %s, %s" % (path, answers[path], bare[path]))
        check(bare[path]["name"] == answers[path]["name"], "another name")
    result = run(["predict", "--checkpoint", newest_checkpoint() + "/model.safetensors", all_paths[0]])
    check(result.returncode == 64 and "--arch" in result.stderr, result.stderr)
    result = run(["predict", "--checkpoint", newest_checkpoint() + "/model.safetensors", "--arch",
                  "resnet20cifar", all_paths[0]])
    check(result.returncode == 64 and "'resnet20_cifar'" in result.stderr, result.stderr)


def check_bad_pictures(answers, all_paths):
    good = all_paths[:4]
    whole = read(good[0])
    bad = {"cut.png": whole[:len(whole) // 2], "text.png": b"not a picture\n", "empty.jpg": b""}
    for name, content in bad.items():
        with open(name, "wb") as f:
            f.write(content)
        found, stderr = predict([good[0], good[1], name, good[2], good[3]], code=65)
        check(sorted(found) == sorted(good), "%s: answers for %s" % (name, sorted(found)))
        check(all(found[path] == answers[path] for path in good), "%s changes other answers" % name)
        told = stderr.splitlines()
        check(len(told) == 1 and name in told[0], "%s: %s" % (name, stderr))
    found, stderr = predict([good[0], "nowhere.png", good[1]], code=66)
    check(sorted(found) == sorted(good[:2]) and len(stderr.splitlines()) == 1, stderr)


def check_text(answers, all_paths):
    result = run(["predict", "--checkpoint", "run"] + all_paths[:3])
    check(result.returncode == 0, result.stderr)
    for line, path in zip(result.stdout.splitlines(), all_paths):
        first = "%s: %s %.4f" % (path, answers[path]["name"], answers[path]["confidence"])
        check(line.startswith(first), "'%s' does not start with '%s'" % (line, first))


def main():
    start()
    write_pictures("train", 40, seed=1)
    paths = write_pictures("val", 12, seed=2)
    for name in ("train", "val"):
        result = run(["import", "images", name, name + ".lmdb"])
        check(result.returncode == 0, result.stderr)
    resize = "augment: [{resize: [%d, %d]}]" % (SIZE, SIZE)
    write_job(data="{train: {path: train.lmdb, %s}, val: {path: val.lmdb, %s},"
                   " mean: [0.5, 0.4, 0.3], deviation: [0.25, 0.2, 0.3]}" % (resize, resize),
              evaluate="{every_epochs: 0, hardest: 1000}", steps="25")
    result = train()
    check(result.returncode == 0, result.stderr)
    check(lines("run/events.jsonl")[-1]["event"] == "finished", "not finished")

    all_paths = [path for name in CLASSES for path in paths[name]]
    answers, stderr = predict(all_paths)
    check(list(answers) == all_paths, "not one answer a picture, in order")
    check(stderr == "", stderr)
    for answer in answers.values():
        check_answer(answer)
    n_right = compare_with_evaluation(answers, paths)
    folder, _ = predict(all_paths, checkpoint=newest_checkpoint())
    check(folder == answers, "a checkpoint folder gives other answers than its run")
    compare_bare(answers, all_paths)
    check_bad_pictures(answers, all_paths)
    check_text(answers, all_paths)
    say("%d pictures, %d right, as evaluated" % (len(all_paths), n_right))


main()
