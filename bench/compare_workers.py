#!/usr/bin/env python3
"""Compare `convoy train` on one worker with two workers, one thread each.

Both train the same job (two replicas, so the same bits) on random images; they take turns. What the
machine itself gives is measured in the same rounds: bench_step alone and two of them at once, which
share nothing but the memory. Prints rows for RESULTS.md.
"""
import argparse
import datetime
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent

# name: side of an image, classes, minibatch of a replica, images, steps
NETS = {
    "resnet20_cifar": (32, 10, 64, 1280, 60),
    "resnet18": (224, 10, 16, 64, 8),
}
METRICS_EVERY = 2  # steps of a line of metrics


def write_png(path, side, source):
    """An RGB image of random bytes, stored without compression."""
    rows = b"".join(b"\0" + source.randbytes(3 * side) for _ in range(side))

    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))

    path.write_bytes(b"\x89PNG\r\n\x1a\n"
                     + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b""))


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with exit code "
                           f"{done.returncode}:\n{done.stderr}")
    return done.stdout


def make_job(net, convoy, folder):
    side, classes, minibatch, n_images, steps = NETS[net]
    source = random.Random(1)
    for i in range(n_images):
        path = folder / "images" / f"class{i % classes}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, side, source)
    run([convoy, "import", "images", "images", "data.lmdb", "--raw"], folder)
    (folder / "job.yaml").write_text(
        f"name: workers\nmodel: {{arch: {net}}}\ndata: {{train: {{path: data.lmdb}}}}\n"
        f"replicas: 2\nminibatch: {minibatch}\nsteps: {steps}\nthreads: 1\n"
        f"metrics_every_steps: {METRICS_EVERY}\nschedule: {{type: constant, lr: 0.001}}\n", encoding="utf-8")


def train(convoy, folder, n_workers, idx):
    """Images per second: the median over the lines of metrics, without the first."""
    name = f"run-{n_workers}-{idx}"
    run([convoy, "train", "job.yaml", "--workers", str(n_workers), "--set", f"run={name}"], folder)
    lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return statistics.median(json.loads(line)["images_per_s"] for line in lines[1:])


def step_alone(net, options, n_processes):
    """Images per second of so many bench_step with one thread, side by side."""
    side, classes, minibatch, _, steps = NETS[net]
    command = [str(options.build / "bench" / "bench_step"), "--arch", net, "--image",
               f"3x{side}x{side}", "--classes", str(classes), "--minibatch", str(minibatch),
               "--threads", "1", "--steps", str(steps)]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                for _ in range(n_processes)]
    return sum(json.loads(program.communicate()[0].splitlines()[0])["images_per_s"]
               for program in programs)


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def compare(net, options):
    convoy = options.build / "launch" / "convoy"
    rates = {1: [], 2: []}
    alone = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="convoy-workers-") as name:
        folder = pathlib.Path(name)
        make_job(net, convoy, folder)
        for i in range(options.rounds):
            for n in (1, 2):
                rates[n].append(train(convoy, folder, n, i))
                alone[n].append(step_alone(net, options, n))
            print(f"{net}: round {i + 1} of {options.rounds}", file=sys.stderr)
    return (f"| {net} | 2 x {NETS[net][2]} | {statistics.median(rates[1]):,.4g} "
            f"| {statistics.median(rates[2]):,.4g} "
            f"| {spread([b / a for a, b in zip(rates[1], rates[2])])} "
            f"| {spread([b / a for a, b in zip(alone[1], alone[2])])} |")


def commit():
    described = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty=+changes", "--exclude=*"],
        capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown commit"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", default=list(NETS),
                        help=f"{', '.join(NETS)} (default: all)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.build = options.build.resolve()
    unknown = [net for net in options.nets if net not in NETS]
    if unknown:
        parser.error(f"no net {unknown[0]}: {', '.join(NETS)}")
    if options.rounds < 5:
        parser.error("at least 5 rounds, or the spread means nothing")
    try:
        rows = [compare(net, options) for net in options.nets]
    except (OSError, RuntimeError, json.JSONDecodeError) as error:
        sys.exit(f"compare_workers.py: {error}")
    print(f"Commit {commit()}; {os.cpu_count()} cores; {datetime.date.today().isoformat()}; "
          f"`{' '.join(['bench/compare_workers.py', *sys.argv[1:]])}`\n")
    print("| net | minibatches | one worker, images/s | two workers, images/s | ratio (min-max) "
          "| two nets without communication over one (min-max) |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
