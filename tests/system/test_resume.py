#!/usr/bin/env python3
"""Exact resume: SIGKILL to a random rank at a random moment, as often as asked for; each time the job
starts again by itself and ends in the bits of a run that nobody touched. Then everything is killed by
hand, and the job goes on with another number of workers."""

import random
import signal
import sys
import time

from convoy_system import (check, hit, kill_tree, lines, make_dataset, ranks, say, start, start_train,
                           state_hash, train, wait, wait_for_ranks, wait_for_step, write_job)


def kill_at_random(seed, workers, length_s, expected):
    rng = random.Random(seed)
    folder = "run-%d" % seed
    process = start_train(workers=workers, sets=["run=" + folder])
    wait_for_ranks(process, workers + 1)
    n_kills = rng.choice((1, 1, 2))
    told = []
    for _ in range(n_kills):
        time.sleep(rng.uniform(0.05, 0.8 * length_s))
        found = ranks(process.pid)
        if process.poll() is not None or not found:
            break
        rank = rng.choice(sorted(found))
        if hit(found[rank], signal.SIGKILL):
            told.append(rank)
    code = wait(process, 120)
    check(code == 0, "seed %d: exit %d\n%s" % (seed, code, open("train.log").read()))
    check(state_hash(folder) == expected, "seed %d: other bits" % seed)
    launches = sum(e["event"] == "workers" for e in lines(folder + "/events.jsonl"))
    say("seed %d: %d workers, killed %s, %d launches, same bits" % (seed, workers, told, launches))
    return len(told) > 0


def kill_all(expected):
    process = start_train(workers=2, sets=["run=all"])
    wait_for_ranks(process, 3)
    wait_for_step(100, "all", process=process)
    kill_tree(process.pid)
    process.wait()
    time.sleep(0.5)
    result = train(workers=3, sets=["run=all"])
    check(result.returncode == 0, result.stderr)
    resumed = [e["step"] for e in lines("all/events.jsonl") if e["event"] == "resumed"]
    check(resumed and resumed[0] > 0, "it did not go on from a checkpoint")
    check(state_hash("all") == expected, "other bits after killing everything")
    steps = [line["step"] for line in lines("all/metrics.jsonl")]
    check(steps == sorted(set(steps)), "the record has a seam")
    say("all killed: went on from step %d on 3 workers, same bits" % resumed[0])


def main():
    n_kills = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", 50, seed=2)
    write_job(steps="200", checkpoint="{every_steps: 20, every_minutes: 0}")
    begin = time.monotonic()
    result = train(workers=2, sets=["run=whole"])
    length_s = time.monotonic() - begin
    check(result.returncode == 0, result.stderr)
    expected = state_hash("whole")
    say("first seed %d, the job takes %.1f s" % (seed, length_s))
    n_hit = tried = 0
    while n_hit < n_kills:
        # A job that had ended before its moment came does not count.
        n_hit += kill_at_random(seed + tried, (2, 3, 1, 4)[tried % 4], length_s, expected)
        tried += 1
        check(tried <= 3 * n_kills + 5, "too few kills came in time")
    say("%d jobs hit of %d" % (n_hit, tried))
    kill_all(expected)


main()
