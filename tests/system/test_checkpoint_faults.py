#!/usr/bin/env python3
"""A checkpoint is the old one or the new one, whatever happens while it is saved, and damage to one
at rest is found.

    test_checkpoint_faults.py kill [all] [SEED]      SIGKILL at every system call of a save
    test_checkpoint_faults.py errors [all] [SEED]    every system call of a save fails once
    test_checkpoint_faults.py full                   a disk that fills up, and has room again
    test_checkpoint_faults.py damage [all] [SEED]    flipped bits, cut and lengthened files

Without "all" kill, errors and damage take a sample by a seed that is printed.

System calls are counted from the start of the save: the process stops itself at a fault point there,
strace is attached to the one thread that counts (the coordinator's, or the one that writes the files),
and the process goes on. A traced run without a fault tells which calls there are.
"""

import collections
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

from convoy_system import (check, command, kill_tree, lines, make_dataset, newest_checkpoint, read, run,
                           say, skip, start, start_train, state_hash, train, wait, write_job)

PART = sys.argv[1]
IS_ALL = "all" in sys.argv[2:]
SEED = int(next((word for word in sys.argv[2:] if word.isdigit()), random.randrange(10**6)))
RNG = random.Random(SEED)
ERRNOS = {"EIO": "Input/output error", "ENOSPC": "No space left on device",
          "EDQUOT": "Disk quota exceeded"}
OLD, NEW = 15, 20

# A role is a thread that takes part in a save: the fault point where it stops, and how its id is
# found. The writing thread is made for the save, so it is the newest.
ROLES = {
    "coordinator": ("coordinator.segment:step=%d=stop" % NEW, min),
    "writer": ("save.write:step=%d=stop" % NEW, max),
}

Point = collections.namedtuple("Point", "role call n text")


# --- A job that is about to save -------------------------------------------------------------------


def prepare(steps):
    """A run folder "base" with checkpoints of steps 10 and 15, killed in the save of step 20; and the
    bits in which the job ends when nobody touches it."""
    make_dataset("train.lmdb", 300)
    write_job(model="{arch: lenet5}", data="{train: {path: train.lmdb}}", steps=str(steps),
              checkpoint="{every_steps: 5, every_minutes: 0, keep: 2}")
    result = train(sets=["run=whole"])
    check(result.returncode == 0, result.stderr)
    alone = {"CONVOY_ATTEMPT": "1", "CONVOY_FAULT": "save.write:step=%d=kill" % NEW}
    result = train(sets=["run=base"], env=alone)
    check(result.returncode == -signal.SIGKILL, "the fault did not kill it:\n" + result.stderr)
    for name in os.listdir("base/checkpoints"):
        if ".tmp-" in name:
            shutil.rmtree("base/checkpoints/" + name)
    check(newest_checkpoint("base").endswith("step-%08d" % OLD), "the base has another checkpoint")
    return state_hash("whole")


def fresh_run():
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree("base", "run")


def start_stopped(role):
    """The job from step 15 on, stopped at the role's point; process and thread id."""
    fresh_run()
    point, pick = ROLES[role]
    process = start_train(env={"CONVOY_ATTEMPT": "1", "CONVOY_FAULT": point})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        check(process.poll() is None, "it ended before the save:\n" + open("train.log").read())
        with open("/proc/%d/stat" % process.pid) as f:
            if f.read().rpartition(")")[2].split()[0] == "T":
                return process, pick(int(t) for t in os.listdir("/proc/%d/task" % process.pid))
        time.sleep(0.002)
    kill_tree(process.pid)
    check(False, "it did not come to the save")


def go_on_traced(process, thread, inject):
    """Let it go on under strace; its exit status."""
    args = ["strace", "-q", "-s", "200", "-o", "trace", "-p", str(thread), "-e", "trace=%file,%desc"]
    tracer = subprocess.Popen(args + (["-e", "inject=" + inject] if inject else []),
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while tracer.poll() is None:
        with open("/proc/%d/task/%d/status" % (process.pid, thread)) as f:
            if "TracerPid:\t0\n" not in f.read():
                break
        time.sleep(0.002)
    if tracer.poll() is not None:
        kill_tree(process.pid)
        skip("strace cannot attach: " + tracer.stderr.read())
    os.kill(process.pid, signal.SIGCONT)
    code = wait(process, 60)
    tracer.wait(10)
    tracer.stderr.close()
    return code


def points_of(role):
    """Every system call on files that this thread makes in a save."""
    process, thread = start_stopped(role)
    code = go_on_traced(process, thread, None)
    check(code == 0, "the traced run ended with %d:\n%s" % (code, open("train.log").read()))
    counts, points = collections.Counter(), []
    with open("trace") as f:
        for line in f:
            call = re.match(r"(\w+)\(", line)
            if call is None:
                continue
            counts[call.group(1)] += 1
            points.append(Point(role, call.group(1), counts[call.group(1)], line.strip()))
            if '\\"saved\\"' in line:
                break
    return points


def all_points():
    if shutil.which("strace") is None:
        skip("strace is not there")
    found = points_of("coordinator") + points_of("writer")
    for wanted in ("mkdir", "openat", "write", "fsync", "close", "rename"):
        check(any(p.call.startswith(wanted) for p in found), "no %s in a save?" % wanted)
    return found


def said(level, log):
    """Lines of a rank's log at this level."""
    return [line for line in log.splitlines() if re.match(r"\S+ \d+ %s " % level, line)]


def inspect(folder="run"):
    """Step of the newest whole checkpoint by `convoy inspect`, and what it said on stderr."""
    result = run(["inspect", folder])
    check(result.returncode == 0, "no whole checkpoint is left:\n" + result.stderr)
    check(re.search(r"^whole +yes", result.stdout, re.M), result.stdout)
    return int(re.search(r"^step +(\d+)", result.stdout, re.M).group(1)), result.stderr


# --- kill ------------------------------------------------------------------------------------------


def kill_at(point, must_resume, expected):
    process, thread = start_stopped(point.role)
    code = go_on_traced(process, thread, "%s:signal=KILL:when=%d" % (point.call, point.n))
    step, warnings = inspect()
    check(step in (OLD, NEW), "%s\nstep %d is neither old nor new" % (point.text, step))
    check(warnings == "", "%s\nit left a damaged checkpoint:\n%s" % (point.text, warnings))
    check(code == 0 or code == -signal.SIGKILL, "%s\nexit %d" % (point.text, code))
    if must_resume:
        result = train()
        check(result.returncode == 0, "%s\n%s" % (point.text, result.stderr))
        check(state_hash() == expected, "%s\nother bits after going on" % point.text)
        names = os.listdir("run/checkpoints")
        check(all(".tmp-" not in n and not n.startswith(".trash") for n in names),
              "%s\nleftovers stay: %s" % (point.text, names))
    return code == -signal.SIGKILL, step


def test_kill():
    expected = prepare(NEW)
    points = all_points()
    chosen = points if IS_ALL else [p for p in points if RNG.randrange(5) == 0]
    n_killed, found = 0, collections.Counter()
    for i, point in enumerate(chosen):
        was_killed, step = kill_at(point, IS_ALL or i % 3 == 0, expected)
        n_killed += was_killed
        found[step] += 1
    # The number of log lines may differ by one between runs: the last point may not be reached.
    check(n_killed >= 0.95 * len(chosen), "%d of %d points killed" % (n_killed, len(chosen)))
    check(not IS_ALL or (found[OLD] > 0 and found[NEW] > 0), "only one of old and new was seen")
    say("seed %d: %d of %d system calls of a save, killed at %d: old %d times, new %d times" %
        (SEED, len(chosen), len(points), n_killed, found[OLD], found[NEW]))


# --- errors ----------------------------------------------------------------------------------------


def fail_at(point, errno, expected):
    """One call fails in the save of step 20; the job goes on to its end. Was the save given up?"""
    process, thread = start_stopped(point.role)
    code = go_on_traced(process, thread, "%s:error=%s:when=%d" % (point.call, errno, point.n))
    log = open("train.log").read()
    where = "%s with %s\n%s" % (point.text, errno, log)
    check(code == 0, "exit %d after %s" % (code, where))
    check(state_hash() == expected, "other bits after " + where)
    step, warnings = inspect()
    check(step == NEW + 10 and warnings == "", "the next save is not whole: " + warnings)
    given_up = [e["step"] for e in lines("run/events.jsonl") if e["event"] == "save_failed"]
    warned = said("warn", log)
    causes = [line for line in warned if ERRNOS[errno] in line]
    check(not said("error", log), "an error that is none: " + where)
    if given_up:
        check(given_up == [NEW], where)
        check(len(causes) == 1 and "run/checkpoints" in causes[0], "not one cause: " + where)
        check(len(warned) == 1 and "step %d was not saved" % NEW in warned[-1], where)
    else:
        check(len(warned) <= 1, where)
    return bool(given_up)


def test_errors():
    expected = prepare(NEW + 10)
    # What may fail without harm is what only looks, or tells: the log, the hint, what is removed.
    writing = ("write", "fsync", "fdatasync", "close", "openat", "rename", "mkdir", "chmod", "ftruncate")
    points = [p for p in all_points() if p.call.startswith(writing)]
    cases = [(p, e) for p in points for e in sorted(ERRNOS)]
    if not IS_ALL:
        cases = RNG.sample(cases, 40)
        cases += [(next(p for p in points if p.role == role and p.call == call), RNG.choice(sorted(ERRNOS)))
                  for role, call in (("writer", "openat"), ("writer", "write"), ("writer", "fsync"),
                                     ("writer", "close"), ("coordinator", "mkdir"),
                                     ("coordinator", "rename"), ("coordinator", "fsync"))]
    n_given_up, calls = 0, set()
    for point, errno in cases:
        is_given_up = fail_at(point, errno, expected)
        n_given_up += is_given_up
        if is_given_up:
            calls.add(point.call)
        check(is_given_up or point.role != "writer",
              "a failed call of the writer was overlooked: %s %s" % (errno, point.text))
    for call in ("write", "fsync", "close", "openat", "mkdir", "rename"):
        check(call in calls, "no failed %s failed a save" % call)
    say("seed %d: %d of %d failed calls, %d saves given up, the next one whole each time" %
        (SEED, len(cases), 3 * len(points), n_given_up))


# --- full ------------------------------------------------------------------------------------------


def enter_namespace():
    """Go on in a mount namespace of its own, where a tmpfs can be mounted."""
    if os.environ.get("CONVOY_TEST_NAMESPACE") == "1":
        return
    how = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-m"]
    probe = how + ["sh", "-c", "mkdir -p mnt-probe && mount -t tmpfs -o size=64k none mnt-probe"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode != 0:
        skip("no tmpfs can be mounted in a namespace here")
    os.environ["CONVOY_TEST_NAMESPACE"] = "1"
    os.execvp("unshare", how + [sys.executable, os.path.abspath(__file__)] + sys.argv[1:])


def fill(path):
    """Take all the room there is."""
    with open(path, "wb", buffering=0) as f:
        for size in (4096, 512, 1):
            try:
                while True:
                    f.write(b"x" * size)
            except OSError:
                continue


def failed_saves(log="train.log"):
    return [line for line in open(log).read().splitlines() if "was not saved" in line]


def wait_for(condition, process, what):
    deadline = time.monotonic() + 60
    while not condition():
        check(process.poll() is None, "it ended before %s:\n%s" % (what, open("train.log").read()))
        check(time.monotonic() < deadline, "no %s:\n%s" % (what, open("train.log").read()))
        time.sleep(0.01)


def whole_lines(path):
    """On a full disk a line may be cut."""
    found = []
    for line in read(path).decode().splitlines() if os.path.exists(path) else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def saves(folder):
    return [e["step"] for e in whole_lines(folder + "/events.jsonl") if e["event"] == "saved"]


def test_full():
    enter_namespace()
    os.makedirs("disk", exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", "disk"],
                             capture_output=True, text=True)
    check(mounted.returncode == 0, mounted.stderr)
    make_dataset("train.lmdb", 300)
    write_job(model="{arch: lenet5}", data="{train: {path: train.lmdb}}", steps="1000000",
              run="disk/run", checkpoint="{every_steps: 400, every_minutes: 0, max_failed: 1000}")

    process = start_train()
    wait_for(lambda: len(saves("disk/run")) >= 2, process, "first checkpoint")
    fill("disk/ballast")
    wait_for(lambda: len(failed_saves()) >= 3, process, "failed save")
    step, warnings = inspect("disk/run")
    check(warnings == "", "a damaged checkpoint on a full disk: " + warnings)
    os.unlink("disk/ballast")
    n_failed = len(failed_saves())
    n_saved = len(saves("disk/run"))
    wait_for(lambda: len(saves("disk/run")) >= n_saved + 2, process, "save after there was room")
    check(len(failed_saves()) <= n_failed + 1, "saves fail although there is room")
    process.send_signal(signal.SIGTERM)
    check(wait(process) == 75, open("train.log").read())
    after, warnings = inspect("disk/run")
    check(after > step and warnings == "", "no newer whole checkpoint: " + warnings)
    log = open("train.log").read()
    n_causes = len([line for line in log.splitlines()
                    if ERRNOS["ENOSPC"] in line and "/checkpoints/" in line])
    check(n_causes == len(failed_saves()), "%d causes, %d failed saves:\n%s" %
          (n_causes, len(failed_saves()), log))
    check(not said("error", log), "an error that is none:\n" + log)
    steps = [line["step"] for line in whole_lines("disk/run/metrics.jsonl")]
    check(steps == sorted(set(steps)), "the metrics have a seam")
    say("full from step %d on: %d saves failed, whole again at step %d" % (step, len(failed_saves()),
                                                                         after))

    process = start_train(sets=["run=disk/ends", "checkpoint.max_failed=3"])
    wait_for(lambda: len(saves("disk/ends")) >= 1, process, "first checkpoint")
    fill("disk/ballast")
    code = wait(process)
    check(code == 73, "exit %d:\n%s" % (code, open("train.log").read()))
    check(len(failed_saves()) == 3, open("train.log").read())
    _, warnings = inspect("disk/ends")
    check(warnings == "", warnings)
    say("3 failures in a row end the job with 73")


# --- damage ----------------------------------------------------------------------------------------


def tensor_at(path, position):
    """The tensor of a safetensors file that this byte belongs to; None in the header."""
    content = read(path)
    size = struct.unpack("<Q", content[:8])[0]
    for name, entry in json.loads(content[8:8 + size]).items():
        if name == "__metadata__":
            continue
        first, end = (8 + size + offset for offset in entry["data_offsets"])
        if first <= position < end:
            return name
    return None


def expect_older(name, what, tensor=None):
    """The newest is damaged in this file: one warning says so and the older one is taken."""
    step, warnings = inspect()
    told = warnings.splitlines()
    check(step == OLD, "%s: %s is accepted" % (name, what))
    check(len(told) == 1 and name in told[0] and "step-%08d is damaged" % NEW in told[0],
          "%s: %s\n%s" % (name, what, warnings))
    check(tensor is None or tensor in told[0], "%s: %s in %s\n%s" % (name, what, tensor, warnings))


def flip(path, position, bit):
    with open(path, "r+b") as f:
        f.seek(position)
        byte = f.read(1)[0]
        f.seek(position)
        f.write(bytes([byte ^ 1 << bit]))


def other_contents(content):
    n = len(content)
    cuts = {0, 1, 7, 8, 9, n // 2, n - 1} | {RNG.randrange(n) for _ in range(4)}
    for cut in sorted(cuts):
        yield "cut to %d of %d bytes" % (cut, n), content[:cut]
    yield "a byte more", content + b"\0"
    yield "a line more", content + b"\n"
    yield "4 KiB of junk more", content + RNG.randbytes(4096)
    yield "a copy of itself more", content + content
    yield "all zero", bytes(n)
    yield "all junk", RNG.randbytes(n)


def test_damage():
    expected = prepare(NEW)
    fresh_run()
    result = train()
    check(result.returncode == 0 and state_hash() == expected, result.stderr)
    newest = newest_checkpoint()
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    contents = {name: read(newest + "/" + name) for name in names}

    flips = []
    for name in names:
        n = len(contents[name])
        flips += [(name, RNG.randrange(n), RNG.randrange(8)) for _ in range(40)]
        flips += [(name, RNG.randrange(min(n, 2048)), RNG.randrange(8)) for _ in range(26)]
        flips += [(name, 0, 0), (name, n - 1, 7)]
    if IS_ALL:
        flips += [("state.json", i, bit) for i in range(len(contents["state.json"])) for bit in range(8)]
    for name, position, bit in flips:
        path = newest + "/" + name
        tensor = tensor_at(path, position) if name != "state.json" else None
        flip(path, position, bit)
        expect_older(name, "bit %d of byte %d" % (bit, position), tensor)
        flip(path, position, bit)
    step, warnings = inspect()
    check(step == NEW and warnings == "", "a flipped bit was not put back: " + warnings)

    n_others = 0
    for name in names:
        path = newest + "/" + name
        cases = list(other_contents(contents[name]))
        if name != "state.json":
            cases.append(("that of the older checkpoint", read("run/checkpoints/step-%08d/%s" % (OLD, name))))
            cases.append(("the other file", contents[names[1 - names.index(name)]]))
        for what, content in cases:
            with open(path, "wb") as f:
                f.write(content)
            expect_older(name, what)
            n_others += 1
        os.unlink(path)
        expect_older(name, "is missing")
        os.mkdir(path)
        expect_older(name, "is a folder")
        os.rmdir(path)
        with open(path, "wb") as f:
            f.write(contents[name])

    # Training itself goes on from the older one, and replaces the damaged one by a whole one.
    for name in names:
        path = newest + "/" + name
        flip(path, RNG.randrange(len(contents[name])), RNG.randrange(8))
        result = train()
        check(result.returncode == 0, result.stderr)
        warned = said("warn", result.stderr)
        check(len(warned) == 1 and name in warned[0] and "is damaged" in warned[0], result.stderr)
        check(state_hash() == expected, "other bits after a damaged " + name)
        step, warnings = inspect()
        check(step == NEW and warnings == "", warnings)
    # With no whole one left nothing starts from zero silently.
    for folder in os.listdir("run/checkpoints"):
        if folder.startswith("step-"):
            flip("run/checkpoints/%s/model.safetensors" % folder, 0, 0)
    result = train()
    check(result.returncode == 65 and "--from-scratch" in result.stderr,
          "exit %d: %s" % (result.returncode, result.stderr))
    result = train(more=["--from-scratch"])
    check(result.returncode == 0 and state_hash() == expected, result.stderr)
    say("seed %d: %d flipped bits, %d other contents, each found and named" % (SEED, len(flips), n_others))


def main():
    say("seed %d: %s" % (SEED, " ".join(command(sys.argv[1:])[1:])))
    start()
    {"kill": test_kill, "errors": test_errors, "full": test_full, "damage": test_damage}[PART]()


main()
