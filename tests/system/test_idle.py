#!/usr/bin/env python3
"""What a long job costs beside its computing: the coordinator sleeps, the workers' memory is flat and a
step allocates nothing."""

import os
import signal
import time

from convoy_system import (WITH_SANITIZERS, check, lines, make_dataset, ranks, say, skip, start,
                           start_train, wait, wait_for_ranks, write_job)

EARLY, LATE = 200, 2200
WINDOW_S = 5.0
MAX_SHARE = 0.02
MAX_GROWTH_BYTES = 256 << 10


def cpu_s(pid):
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    with open("/proc/%d/statm" % pid) as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def step_now():
    try:
        return lines("run/metrics.jsonl")[-1]["step"]
    except (OSError, ValueError, IndexError):
        return 0


def wait_for_step(step, process):
    deadline = time.monotonic() + 200
    while step_now() < step:
        check(process.poll() is None, "it ended early:\n" + open("train.log").read())
        check(time.monotonic() < deadline, "step %d was not reached" % step)
        time.sleep(0.05)


def main():
    if WITH_SANITIZERS:
        skip("sanitizers keep freed memory")
    start()
    make_dataset("train.lmdb", 700, height=28, width=28)
    # No save or evaluation in the middle; the job is stopped when enough was seen.
    write_job(model="{arch: lenet5}", minibatch="32", data="{train: {path: train.lmdb}}",
              steps="1000000", checkpoint="{every_steps: 0, every_minutes: 0}",
              metrics_every_steps="10")
    process = start_train(workers=2)
    pids = wait_for_ranks(process, 3)
    wait_for_step(EARLY, process)
    early = {rank: resident_bytes(pids[rank]) for rank in (1, 2)}
    began, used = time.monotonic(), cpu_s(pids[0])
    shares = []
    while step_now() < LATE or not shares:
        time.sleep(0.05)
        check(process.poll() is None, "it ended early:\n" + open("train.log").read())
        now = time.monotonic()
        if now - began >= WINDOW_S:
            shares.append((cpu_s(pids[0]) - used) / (now - began))
            began, used = now, cpu_s(pids[0])
    late = {rank: resident_bytes(pids[rank]) for rank in (1, 2)}
    check(ranks(process.pid) == pids, "it was started again meanwhile")
    process.send_signal(signal.SIGTERM)
    check(wait(process) == 75, open("train.log").read())

    check(max(shares) < MAX_SHARE, "the coordinator uses %.2f %% of a core" % (100 * max(shares)))
    for rank in (1, 2):
        growth = late[rank] - early[rank]
        check(growth < max(MAX_GROWTH_BYTES, early[rank] // 100),
              "rank %d grew by %d bytes in %d steps" % (rank, growth, LATE - EARLY))
    counts = {line["step"]: line["allocations"] for line in lines("run/metrics.jsonl")}
    check(counts[20] > 0, "allocations are not counted")
    check(counts[LATE] == counts[20], "allocations between steps 20, 120 and %d: %d, %d, %d" %
          (LATE, counts[20], counts[120], counts[LATE]))
    say("coordinator %.2f %% of a core; resident %s MB, grown by %s KiB; %d allocations, none in a step" %
        (100 * max(shares), [early[r] // 10**6 for r in (1, 2)],
         [(late[r] - early[r]) // 1024 for r in (1, 2)], counts[LATE]))


main()
