#!/usr/bin/env python3
"""A disk that is full at the start, a file size limit, a read-only folder, the same run started twice.
Runs in a mount namespace of its own, so nothing is left mounted."""

import os
import resource
import shutil
import signal
import subprocess
import sys

from bad_input import error_lines, refused
from convoy_system import (check, hit, make_dataset, run, say, skip, start,
                           start_train, train, wait, wait_for_step, write_job)

INSIDE = "CONVOY_TEST_INSIDE"
ENDLESS = "steps=100000000"


def enter_namespace():
    """Start again where mounting is allowed; all mounts go with the process."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    probe = unshare + ["sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    if shutil.which("unshare") is None or subprocess.run(
            probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
        skip("mounting a tmpfs is not permitted here")
    os.environ[INSIDE] = "1"
    os.execvp(unshare[0], unshare + [sys.executable] + sys.argv)


def mount(folder, size):
    os.mkdir(folder)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "none", folder])
    check(done.returncode == 0, "mount of " + folder)


def log_text():
    with open("train.log") as f:
        return f.read()


def full_at_start():
    mount("tiny", "128k")
    for workers in (0, 2):
        refused(73, ["tiny/run", "bytes are free, two checkpoints need ", "make room"],
                sets=["run=tiny/run"], workers=workers, may_write=True)
        check(not os.path.exists("tiny/run/checkpoints"), "it made a folder of checkpoints")


def read_only():
    os.makedirs("frozen/run")
    check(subprocess.run(["mount", "--bind", "frozen", "frozen"]).returncode == 0, "bind")
    check(subprocess.run(["mount", "-o", "remount,bind,ro", "frozen"]).returncode == 0, "remount")
    for workers in (0, 2):
        refused(73, ["frozen/run", "Read-only file system"], sets=["run=frozen/run"],
                workers=workers)


def file_size_limit():
    """EFBIG instead of a death by SIGXFSZ."""
    result = run(["train", "job.yaml", "--set", "run=limited", "--set", "checkpoint.every_steps=20",
                  "--set", "steps=400", "--set", "checkpoint.max_failed=2"],
                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)))
    found = error_lines(result.stderr)
    warned = [line for line in result.stderr.splitlines() if " warn " in line]
    shown = "exit %d\n%s" % (result.returncode, result.stderr)
    check(result.returncode == 73 and len(found) == 1 and len(warned) == 1, shown)
    for line in (warned[0], found[0]):
        check("was not saved: write limited/checkpoints/" in line and "File too large" in line, shown)
    check("training goes on (failure 1 in a row" in warned[0], shown)
    check("failure 2 in a row, checkpoint.max_failed is 2" in found[0], shown)
    say("73 " + found[0][24:])


def started_twice():
    process = start_train(workers=2, sets=["run=twice", ENDLESS])
    wait_for_step(20, "twice", process=process)
    for workers in (0, 2):
        refused(73, ["twice/lock is locked by process ", " since ", "give another run folder"],
                sets=["run=twice", ENDLESS], workers=workers, may_write=True)
    check(process.poll() is None, "the first run ended:\n" + log_text())
    hit(process.pid, signal.SIGTERM)
    check(wait(process, 30) == 75, log_text())
    check(error_lines(log_text()) == [], log_text())
    result = train(sets=["run=twice", "steps=100000000"], more=["--max-restarts", 0],
                   env={"CONVOY_FAULT": "step.forward:rank=0=exit"})
    check(result.returncode == 70, "the lock outlived its run:\n" + result.stderr)


def main():
    if os.environ.get(INSIDE) != "1":
        enter_namespace()
    start()
    make_dataset("train.lmdb", 160)
    write_job(model="{arch: lenet5}", data="{train: {path: train.lmdb}}",
              checkpoint="{every_steps: 100, every_minutes: 0}")
    full_at_start()
    read_only()
    file_size_limit()
    started_twice()


main()
