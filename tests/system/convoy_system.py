"""What the system tests share: datasets, jobs, running the program, finding and hitting its ranks.

A test is a script that drives the built program (CONVOY) in a folder of its own (TEST_DIR) and exits
with 0, 1 after a failed check, or 77 with a reason when it cannot run here.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

CONVOY = os.environ["CONVOY"]
SOURCE = os.environ["CONVOY_SOURCE"]
FOLDER = os.environ["TEST_DIR"]
WITH_SANITIZERS = os.environ.get("CONVOY_SANITIZERS") == "1"


def start():
    """An empty folder to work in; the working directory from here on."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.makedirs(FOLDER)
    os.chdir(FOLDER)


def skip(reason):
    print("skipped:", reason)
    sys.exit(77)


def check(condition, text):
    if condition:
        return
    print("FAILED:", text, flush=True)
    sys.exit(1)


def say(text):
    print(text, flush=True)


# --- Data ----------------------------------------------------------------------------------------


def write_idx(prefix, n, height, width, classes, seed=1):
    """IDX files of n pictures whose class shows as a bright bar in noise: learnt in a few steps."""
    rng = random.Random(seed)
    labels = bytes(rng.randrange(classes) for _ in range(n))
    noise = rng.randbytes(n * height * width)
    with open(prefix + "-images-idx3-ubyte", "wb") as f:
        f.write(struct.pack(">4B3I", 0, 0, 8, 3, n, height, width))
        for i in range(n):
            picture = bytearray(b // 4 for b in noise[i * height * width:(i + 1) * height * width])
            row = labels[i] * height // classes
            for x in range(width):
                picture[row * width + x] = 255 - picture[row * width + x]
            f.write(picture)
    with open(prefix + "-labels-idx1-ubyte", "wb") as f:
        f.write(struct.pack(">4BI", 0, 0, 8, 1, n) + labels)


def make_dataset(path, n, height=12, width=12, classes=10, seed=1):
    write_idx("set-%d" % seed, n, height, width, classes, seed)
    result = run(["import", "idx", "set-%d-images-idx3-ubyte" % seed, path,
                  "--labels", "set-%d-labels-idx1-ubyte" % seed])
    check(result.returncode == 0, "import of %s: %s" % (path, result.stderr))


def write_job(path="job.yaml", **keys):
    """A small job; keyword arguments replace its lines ("augment", "model", ... are YAML text)."""
    lines = {
        "name": "small",
        "model": "{arch: resnet20_cifar}",
        "data": "{train: {path: train.lmdb, augment: [{pad_crop: 1}, {flip: 0.5}]},"
                " val: {path: val.lmdb}}",
        "replicas": "4",
        "minibatch": "4",
        "steps": "30",
        "optimizer": "{type: sgd, momentum: 0.9, nesterov: true, weight_decay: 1e-4}",
        "schedule": "{type: cosine, lr: 0.05, warmup_epochs: 0.1}",
        "checkpoint": "{every_steps: 5, every_minutes: 0}",
        "evaluate": "{every_epochs: 0, minibatch: 64}",
        "threads": "1",
        "run": "run",
    }
    lines.update(keys)
    with open(path, "w") as f:
        for key, value in lines.items():
            if value is not None:
                f.write("%s: %s\n" % (key, value))
    return path


# --- The program ---------------------------------------------------------------------------------


def command(args):
    return [CONVOY] + [str(a) for a in args]


def run(args, env=None, timeout=240, **more):
    """Run to the end. A time-out is a failed check: nothing may hang."""
    full = dict(os.environ, **(env or {}))
    try:
        return subprocess.run(command(args), env=full, timeout=timeout, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    except subprocess.TimeoutExpired as expired:
        text = expired.stderr.decode() if isinstance(expired.stderr, bytes) else expired.stderr
        check(False, "convoy %s hung:\n%s" % (" ".join(map(str, args)), text))


def train(job="job.yaml", workers=0, sets=(), env=None, timeout=240, more=()):
    args = ["train", job] + (["--workers", workers] if workers else []) + list(more)
    for assignment in sets:
        args += ["--set", assignment]
    return run(args, env, timeout)


def start_train(job="job.yaml", workers=0, sets=(), env=None, log="train.log"):
    args = ["train", job] + (["--workers", workers] if workers else [])
    for assignment in sets:
        args += ["--set", assignment]
    full = dict(os.environ, **(env or {}))
    out = open(log, "wb")
    return subprocess.Popen(command(args), env=full, stdout=out, stderr=out)


def wait(process, timeout=120):
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        check(False, "it hung")


# --- Its processes -------------------------------------------------------------------------------


def parents():
    """pid -> parent of all living processes."""
    table = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            table[int(name)] = int(fields[1])
    return table


def descendants(pid):
    table = parents()
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in table.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {pid}


def ranks(pid):
    """rank -> pid of the MPI ranks below a supervisor."""
    found = {}
    for child in descendants(pid):
        try:
            with open("/proc/%d/environ" % child, "rb") as f:
                environ = f.read().split(b"\0")
            if os.path.realpath("/proc/%d/exe" % child) != os.path.realpath(CONVOY):
                continue
        except OSError:
            continue
        for variable in environ:
            if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                found[int(variable.split(b"=")[1])] = child
    return found


def mpirun_of(pid):
    """The mpirun that a supervisor started."""
    for child in descendants(pid):
        try:
            with open("/proc/%d/comm" % child) as f:
                if f.read().strip() in ("mpirun", "orterun"):
                    return child
        except OSError:
            continue
    return None


def wait_for_ranks(process, n, timeout=30):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        found = ranks(process.pid)
        if len(found) == n:
            return found
        time.sleep(0.02)
    check(False, "%d ranks did not appear" % n)


def hit(pid, number):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def kill_tree(pid):
    for child in descendants(pid) | {pid}:
        hit(child, signal.SIGKILL)


# --- What a run left -----------------------------------------------------------------------------


def read(path):
    with open(path, "rb") as f:
        return f.read()


def newest_checkpoint(folder="run"):
    steps = sorted(n for n in os.listdir(folder + "/checkpoints")
                   if n.startswith("step-") and ".tmp-" not in n)
    check(steps, "no checkpoint in " + folder)
    return os.path.join(folder, "checkpoints", steps[-1])


def state_hash(folder="run"):
    """Of weights, batch-norm statistics and momentum in the newest checkpoint."""
    newest = newest_checkpoint(folder)
    digest = hashlib.sha256()
    for name in ("model.safetensors", "optimizer.safetensors"):
        digest.update(read(os.path.join(newest, name)))
    return os.path.basename(newest) + ":" + digest.hexdigest()[:16]


def lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def wait_for_step(step, folder="run", timeout=60, process=None):
    """Until metrics tell of this step."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if any(line["step"] >= step for line in lines(folder + "/metrics.jsonl")):
                return
        except (OSError, ValueError):
            pass
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.02)
    check(False, "step %d was not reached" % step)
