#!/usr/bin/env python3
"""Exact evaluation: 10,007 records at 1 to 4 workers give the same counts, the same confusion matrix
and the same JSON bytes; `convoy eval` gives what the coordinator reported in training."""

import json

from convoy_system import check, make_dataset, read, run, say, start, train, write_job

N_RECORDS = 10007


def main():
    start()
    make_dataset("train.lmdb", 700)
    make_dataset("val.lmdb", N_RECORDS, seed=2)
    write_job(steps="12", model="{arch: lenet5}")
    in_training = set()
    for workers in (0, 1, 2, 3, 4):
        folder = "run-%d" % workers
        result = train(workers=workers, sets=["run=" + folder])
        check(result.returncode == 0, result.stderr)
        in_training.add(read(folder + "/eval/step-00000012-val.json"))
    check(len(in_training) == 1, "evaluations in training differ between worker counts")
    expected = in_training.pop()
    for workers in (0, 1, 2, 3, 4):
        args = ["eval", "job.yaml", "--checkpoint", "run-2", "--json"]
        result = run(args + (["--workers", workers] if workers else []))
        check(result.returncode == 0, result.stderr)
        check(result.stdout.encode() == expected, "convoy eval at %d workers differs" % workers)
    figures = json.loads(expected)
    rows = figures["confusion"]["counts"]
    check(figures["records"] == N_RECORDS and sum(map(sum, rows)) == N_RECORDS, "not every record once")
    check(sum(rows[i][i] for i in range(len(rows))) == figures["n_top1"], "matrix and top-1 disagree")
    say("%d records, top-1 %d, the same bytes 10 times" % (N_RECORDS, figures["n_top1"]))


main()
