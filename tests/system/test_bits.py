#!/usr/bin/env python3
"""The same bits at any number of workers and threads: hash of weights, statistics and momentum."""

import sys

from convoy_system import check, make_dataset, say, start, state_hash, train, write_job

CASES = {
    "resnet20": dict(model="{arch: resnet20_cifar}", replicas="8", minibatch="4", steps="60"),
    "dropout": dict(model="{arch: resnet20_cifar, dropout: 0.3}", replicas="8", minibatch="3",
                    steps="60"),
    "resnet18": dict(model="{arch: resnet18, dropout: 0.2}", replicas="8", minibatch="2",
                     steps="60"),
    "resnet18_short": dict(model="{arch: resnet18, dropout: 0.2}", replicas="8", minibatch="2",
                           steps="6"),
}


def main():
    name = sys.argv[1]
    workers = [int(w) for w in sys.argv[2].split(",")]
    threads = [int(t) for t in sys.argv[3].split(",")]
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", 50, seed=2)
    # Small buckets, so that there are many, and some workers own no part of a few.
    write_job(checkpoint="{every_minutes: 0}", bucket_kib="64", **CASES[name])
    found = {}
    for w in workers:
        for t in threads:
            folder = "run-%d-%d" % (w, t)
            result = train(workers=w, sets=["run=" + folder, "threads=%d" % t])
            check(result.returncode == 0, "%d workers, %d threads: exit %d\n%s"
                  % (w, t, result.returncode, result.stderr))
            found[(w, t)] = state_hash(folder)
            say("%s, %d workers, %d threads: %s" % (name, w, t, found[(w, t)]))
    check(len(set(found.values())) == 1, "the bits differ: %s" % found)


main()
