#!/usr/bin/env python3
"""A polite stop: a signal to the supervisor, to mpirun or to any rank ends in exit 75 with no step
lost; the job that goes on ends in the bits of one that was never stopped."""

import signal
import time

from convoy_system import (check, descendants, hit, lines, make_dataset, mpirun_of,
                           newest_checkpoint, say, start, start_train, state_hash, train, wait,
                           wait_for_ranks, wait_for_step, write_job)

# "all": Slurm, systemd and docker signal every process of a job; it is one request nevertheless.
SIGNALS = [("supervisor", signal.SIGTERM), ("mpirun", signal.SIGTERM), (0, signal.SIGTERM),
           (1, signal.SIGUSR1), (2, signal.SIGTERM), ("supervisor", signal.SIGINT),
           ("all", signal.SIGTERM)]


def stop_once(target, number, folder, workers=2):
    process = start_train(workers=workers, sets=["run=" + folder])
    found = wait_for_ranks(process, workers + 1) if workers else {}
    wait_for_step(20, folder, process=process)
    pids = dict(found, supervisor=process.pid, mpirun=mpirun_of(process.pid))
    everyone = descendants(process.pid) | {process.pid}
    begin = time.monotonic()
    for pid in everyone if target == "all" else [pids[target]]:
        check(hit(pid, number), "the job had ended before the signal")
    code = wait(process, 30)
    took = time.monotonic() - begin
    check(code == 75, "signal %d to %s: exit %d\n%s" % (number, target, code, open("train.log").read()))
    check(took < 25, "signal %d to %s: took %.1f s" % (number, target, took))
    stopped = [e for e in lines(folder + "/events.jsonl") if e["event"] == "stopped"]
    check(len(stopped) == 1, "one stop, not %d" % len(stopped))
    step = stopped[0]["step"]
    check(newest_checkpoint(folder).endswith("step-%08d" % step), "its checkpoint is not the newest")
    return step, took


def second_signal(folder):
    """Leaves within 2 s of the second signal, whatever the step does."""
    process = start_train(workers=2, sets=["run=" + folder],
                          env={"CONVOY_FAULT": "step.forward:rank=1:step=30=hang"})
    wait_for_ranks(process, 3)
    wait_for_step(20, folder, process=process)
    time.sleep(0.5)
    hit(process.pid, signal.SIGTERM)
    time.sleep(0.5)
    begin = time.monotonic()
    hit(process.pid, signal.SIGTERM)
    code = wait(process, 30)
    took = time.monotonic() - begin
    check(code == 75 and took < 4, "second signal: exit %d after %.1f s" % (code, took))
    say("second signal: exit 75 after %.1f s" % took)


def main():
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", 50, seed=2)
    write_job(steps="200", checkpoint="{every_minutes: 0}")
    result = train(workers=2, sets=["run=whole"])
    check(result.returncode == 0, result.stderr)
    expected = state_hash("whole")
    for i, (target, number) in enumerate(SIGNALS):
        folder = "run-%d" % i
        step, took = stop_once(target, number, folder)
        check(0 < step < 200, "stopped at step %d: too early or too late to tell" % step)
        result = train(workers=3 if i % 2 else 2, sets=["run=" + folder])
        check(result.returncode == 0, result.stderr)
        check(state_hash(folder) == expected, "other bits after a stop by %s" % target)
        resumed = [e for e in lines(folder + "/events.jsonl") if e["event"] == "resumed"]
        check(resumed and resumed[0]["step"] == step, "steps were lost")
        say("signal %d to %s: exit 75 after %.2f s at step %d, same bits" % (number, target, took, step))
    step, took = stop_once("all", signal.SIGTERM, "alone", workers=0)
    say("signal to both processes of a job without mpirun: exit 75 after %.2f s at step %d" % (took, step))
    second_signal("second")


main()
