#!/usr/bin/env python3
"""Job files and ranks that cannot be right: refused with line, column, range and the nearest right
spelling, before anything is read or written; ranks that differ are named."""

import os
import shutil
import stat
import subprocess

from bad_input import as_owner, error_lines, refused, tree
from convoy_system import CONVOY, check, make_dataset, read, say, start, write_job


def job_text(*replacements, extra=""):
    text = read("job.yaml").decode() + extra
    for old, new in replacements:
        check(text.count(old) == 1, "'%s' is not once in the job" % old)
        text = text.replace(old, new)
    with open("bad.yaml", "w") as f:
        f.write(text)


def place_of(text):
    """bad.yaml:LINE:COLUMN of a text."""
    for i, line in enumerate(read("bad.yaml").decode().splitlines()):
        if text in line:
            return "bad.yaml:%d:%d" % (i + 1, line.index(text) + 1)
    check(False, "'%s' is not in the job" % text)


def keys():
    bad = ("train", "bad.yaml")
    job_text(("minibatch: 4", "minibtach: 4"))
    for workers in (0, 2):
        refused(78, [place_of("minibtach"), "unknown key 'minibtach'", "did you mean 'minibatch'"],
                bad, workers=workers)
    job_text(extra="colour: red\n")
    refused(78, [place_of("colour"), "unknown key 'colour'"], bad)
    job_text(("momentum: 0.9", "momentun: 0.9"))
    refused(78, [place_of("momentun"), "momentun", "did you mean 'momentum'"], bad, workers=2)
    job_text(("flip: 0.5", "flop: 0.5"))
    refused(78, ["bad.yaml:", "flop", "did you mean 'flip'"], bad)
    job_text(("lenet5", "lenet6"))
    refused(78, [place_of("lenet6"), "lenet6", "did you mean 'lenet5'"], bad)
    job_text(("type: sgd", "type: sdg"))
    refused(78, ["bad.yaml:", "sdg", "did you mean 'sgd'"], bad)
    job_text(extra="replicas: 8\n")
    refused(78, [place_of("replicas: 8"), "replicas", "second time", "first at line"], bad)
    job_text(("steps: 6", "steps: six"))
    refused(78, [place_of("six"), "steps is 'six'", "expected an integer"], bad)
    job_text(("steps: 6\n", ""))
    refused(78, ["bad.yaml", "epochs is missing", "epochs or steps"], bad)
    job_text(extra="epochs: 3\n")
    refused(78, [place_of("6"), "epochs and steps exclude each other"], bad)
    job_text(("minibatch: 4", "minibatch: [4"))
    refused(78, ["bad.yaml:6:6: ", "expected ',' or ']'", "began at line 5"], bad)
    job_text(("name: small\n", ""))
    refused(78, ["bad.yaml", "name is missing", "expected a text"], bad)


def ranges():
    for assignment, text in (
            ("minibatch=0", "from 1 to 65536"), ("minibatch=-1", "from 1 to 65536"),
            ("minibatch=1e18", "from 1 to 65536"), ("replicas=0", "from 1 to 65536"),
            ("replicas=-3", "from 1 to 65536"), ("epochs=0", "from 1 to 1000000"),
            ("steps=0", "from 1 to"), ("schedule.lr=nan", "a finite number from 0 to 1000000"),
            ("schedule.lr=inf", "a finite number from 0 to 1000000"),
            ("schedule.lr=-0.1", "a finite number from 0 to 1000000"),
            ("schedule.lr=1e999", "a finite number from 0 to 1000000"),
            ("optimizer.momentum=1.5", "from 0 to 1"), ("checkpoint.keep=1", "from 2 to"),
            ("data.max_bad_fraction=2", "from 0 to 1"), ("reduce=fast", "ordered"),
            ("precision=float8", "float32")):
        key, _, value = assignment.partition("=")
        refused(78, [key, "'%s'" % value, text], sets=[assignment])
    job_text(("minibatch: 4", "minibatch: 0"))
    refused(78, ["bad.yaml:5:12", "minibatch is '0'", "from 1 to 65536 images"], ("train", "bad.yaml"))


def workers():
    refused(78, ["--workers is 5", "4 replicas", "1 to 4 workers"], workers=5)
    result = subprocess.run(["mpirun", "--quiet", "-n", "6", CONVOY, "train", "job.yaml"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    found = error_lines(result.stderr)
    check(result.returncode == 78 and len(found) == 1 and "5 workers for 4 replicas" in found[0]
          and "1 to 4 workers" in found[0], "exit %d: %s" % (result.returncode, result.stderr))
    check(not os.path.exists("run"), "a refused job made its run folder")
    refused(65, ["train.lmdb", "160 records", "fewer than one global batch", "smaller minibatch"],
            sets=["minibatch=100"])


def layers():
    net = ("model={net: [{type: conv2d, name: conv1, %s}, {type: avgpool2d, global: true},"
           " {type: flatten}, {type: dense, out: 10}]}")
    refused(78, ["layer 'conv1'", "kernel 99 x 99", "input of (4, 1, 12, 12)"],
            sets=[net % "out: 4, kernel: 99"])
    refused(78, ["out is '0'", "from 1 to"], sets=[net % "out: 0, kernel: 3"])
    refused(78, ["layer 'fc_big'", "52.4 TiB of memory"],
            sets=["model={net: [{type: flatten}, {type: dense, name: fc_big, out: 100000000000}]}"])
    for workers_wanted in (0, 2):
        refused(78, ["layer 'fc2'", "32.7 TiB of memory"], workers=workers_wanted,
                sets=["model={net: [{type: flatten}, {type: dense, name: fc1, out: 3000000},"
                      " {type: dense, name: fc2, out: 3000000}, {type: dense, out: 10}]}"])


def files():
    os.mkdir("folder.yaml")
    refused(66, ["folder.yaml", "folder"], ("train", "folder.yaml"))
    os.mkfifo("fifo.yaml")
    refused(66, ["fifo.yaml"], ("train", "fifo.yaml"))
    refused(66, ["none.yaml", "No such file"], ("train", "none.yaml"))
    refused(66, ["none.yaml", "No such file"], ("train", "none.yaml"), workers=2)
    shutil.copy("job.yaml", "locked.yaml")
    os.chmod("locked.yaml", 0)
    refused(77, ["locked.yaml", "ermission denied"], ("train", "locked.yaml"), before=as_owner())
    refused(66, ["/dev/null"], ("train", "/dev/null"))
    refused(64, ["--wrokers", "--workers"], ("train", "job.yaml", "--wrokers", "2"))


def mpirun_refused(code, texts, parts):
    files_before = tree()
    args = ["mpirun", "--quiet"]
    for i, (n, words) in enumerate(parts):
        args += [":"] * (i > 0) + ["-n", str(n)] + words
    try:
        result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                timeout=60)
    except subprocess.TimeoutExpired:
        check(False, "%s hung" % " ".join(args))
    shown = "%s: exit %d\n%s" % (" ".join(args), result.returncode, result.stderr)
    found = error_lines(result.stderr)
    check(result.returncode == code and len(found) == 1, shown)
    for text in texts:
        check(text in found[0], "expected '%s' of %s" % (text, shown))
    check(tree() == files_before, "something was written by " + shown)
    say("%d %s" % (code, found[0].split(" ", 1)[1]))


def different_ranks():
    shutil.copy("job.yaml", "other.yaml")
    train = [CONVOY, "train", "job.yaml"]
    mpirun_refused(78, ["rank 1 on ", "another command line than rank 0"],
                   [(1, train), (2, [CONVOY, "train", "other.yaml"])])
    mpirun_refused(78, ["rank 2 on ", "another command line"],
                   [(2, train), (1, train + ["--set", "minibatch=2"])])
    shutil.copy(CONVOY, "convoy-other")
    with open("convoy-other", "ab") as f:
        f.write(b"another build")
    os.chmod("convoy-other", os.stat("convoy-other").st_mode | stat.S_IXUSR)
    mpirun_refused(78, ["rank 1 on ", "another build of convoy", "same program"],
                   [(1, train), (1, ["./convoy-other", "train", "job.yaml"])])


def different_data():
    """Rank 2 stands in another folder, where another dataset lies at the same path."""
    os.mkdir("elsewhere")
    shutil.copytree("other.lmdb", "elsewhere/train.lmdb")
    with open("elsewhere.sh", "w") as f:
        f.write("#!/bin/sh\n[ \"$OMPI_COMM_WORLD_RANK\" = 2 ] && cd elsewhere\nexec \"$@\"\n")
    os.chmod("elsewhere.sh", 0o755)
    words = [os.path.abspath("elsewhere.sh"), CONVOY, "train", "job.yaml"]
    result = subprocess.run(["mpirun", "--quiet", "-n", "3"] + words, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=60)
    found = error_lines(result.stderr)
    shown = "exit %d\n%s" % (result.returncode, result.stderr)
    check(result.returncode == 78 and len(found) == 1, shown)
    for text in ("rank 2 on ", "another dataset at data.train.path", "than rank 0", "same data"):
        check(text in found[0], "expected '%s': %s" % (text, shown))
    check(not os.path.exists("run/checkpoints/step-00000006"), "it trained")
    say("78 " + found[0].split(" ", 1)[1])


def main():
    start()
    make_dataset("train.lmdb", 160)
    make_dataset("other.lmdb", 160, seed=3)
    write_job(model="{arch: lenet5}", steps="6",
              data="{train: {path: train.lmdb, augment: [{pad_crop: 1}, {flip: 0.5}]}}")
    keys()
    ranges()
    workers()
    layers()
    files()
    different_ranks()
    different_data()


main()
