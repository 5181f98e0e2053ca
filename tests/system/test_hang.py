#!/usr/bin/env python3
"""No silent hang: a rank that is stopped in its step is named with host and phase within the deadline
and two seconds; the job starts again by itself and ends in the same bits. The arguments are fault
points at which a rank hangs by itself."""

import re
import signal
import socket
import sys
import time

from convoy_system import (check, hit, make_dataset, say, start, start_train, state_hash, train, wait,
                           wait_for_ranks, wait_for_step, write_job)

DEADLINE_S = 3.0


def stopped_rank(rank, folder, expected):
    process = start_train(workers=2, sets=["run=" + folder])
    found = wait_for_ranks(process, 3)
    wait_for_step(20, folder, process=process)
    begin = time.monotonic()
    check(hit(found[rank], signal.SIGSTOP), "the job had ended")
    line = None
    pattern = re.compile(r"rank %d .*%s.*(silent|has not moved).*phase" % (rank, re.escape(socket.gethostname())))
    while line is None and time.monotonic() - begin < 30:
        line = next((l for l in open("train.log") if pattern.search(l)), None)
        time.sleep(0.02)
    took = time.monotonic() - begin
    check(line is not None, "no line names rank %d:\n%s" % (rank, open("train.log").read()))
    check(took <= DEADLINE_S + 2, "named after %.1f s" % took)
    check(rank == 0 or "phase idle" not in line, "its phase is not the true one: " + line)
    check(wait(process, 60) == 0, "the job did not end well:\n" + open("train.log").read())
    named = [l for l in open("train.log") if "silent" in l or "has not moved" in l]
    check(len(named) == 1, "one line, not %d: %s" % (len(named), named))
    check(state_hash(folder) == expected, "other bits after a hang of rank %d" % rank)
    say("rank %d: %.1f s: %s" % (rank, took, line.strip()))


def faulty_phase(fault, folder, expected):
    process = start_train(workers=2, sets=["run=" + folder], env={"CONVOY_FAULT": fault})
    check(wait(process, 90) == 0, "%s: the job did not end well:\n%s" % (fault, open("train.log").read()))
    check(re.search(r"rank 2 .*(silent|has not moved)", open("train.log").read()) is not None,
          "%s: rank 2 was not named:\n%s" % (fault, open("train.log").read()))
    check(state_hash(folder) == expected, "other bits after " + fault)
    say(fault + ": named, started again, same bits")


def hung_disk(workers, folder, expected):
    """A file system that hangs in a save has the save's deadline, and the job goes on after it."""
    process = start_train(workers=workers, sets=["run=" + folder],
                          env={"CONVOY_FAULT": "save.write:step=50:attempt=1=hang"})
    check(wait(process, 90) == 0, "it did not end well:\n" + open("train.log").read())
    check("the checkpoint of step 50 is not written after" in open("train.log").read(),
          "the hung save was not named:\n" + open("train.log").read())
    check(state_hash(folder) == expected, "other bits after a hung save")
    say("save.write on %d workers: named, started again, same bits" % workers)


def main():
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", 50, seed=2)
    write_job(steps="150", checkpoint="{every_steps: 25, every_minutes: 0}",
              deadline="{step_s: %g, save_s: 5, evaluate_s: 3}" % DEADLINE_S)
    result = train(workers=2, sets=["run=whole"])
    check(result.returncode == 0, result.stderr)
    expected = state_hash("whole")
    for rank in (2, 1, 0):
        stopped_rank(rank, "run-%d" % rank, expected)
    for workers in (2, 0):
        hung_disk(workers, "disk-%d" % workers, expected)
    for phase in sys.argv[1:]:
        step = "" if phase == "evaluate" else ":step=40"
        faulty_phase("%s:rank=2%s:attempt=1=hang" % (phase, step), "run-" + phase, expected)


main()
