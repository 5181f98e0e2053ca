#!/usr/bin/env python3
"""Compare training steps of convoy with PyTorch's and with the machine's limit.

Starts bench_step, PyTorch (NCHW and channels last, one thread and all) and bench_peak once per net
and lets them take turns, so that whatever else happens on the machine meets all of them. Prints
rows for RESULTS.md.
"""
import argparse
import datetime
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
QUIET_CORES = 0.1  # other work on a machine whose figures are worth keeping

# name: arch, image, classes, minibatch, mode
NETS = {
    "resnet20_cifar": ("resnet20_cifar", "3x32x32", 10, 128, "train"),
    "resnet18": ("resnet18", "3x224x224", 1000, 32, "train"),
    "resnet50": ("resnet50", "3x224x224", 1000, 16, "train"),
    "lenet5": ("lenet5", "1x28x28", 10, 64, "train"),
    "resnet50-eval": ("resnet50", "3x224x224", 1000, 16, "eval"),
}
DEFAULT_NETS = ("resnet20_cifar", "resnet18")

# glibc gives large blocks back to the system at once by default, so that PyTorch's activations
# fault in anew at every step; a tuned set-up keeps them.
TORCH_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 40),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 * MIB),
}
TORCH_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Server:
    """A program that measures on request."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.python = self.threads = self.layout = None  # of PyTorch's variants
        self.rounds = []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})})
        try:
            self._read()  # warmed up and ready
        except BaseException:
            self.close()
            raise

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}; its "
                               "message is above")
        return json.loads(line)

    def ask(self, count):
        """The figures of so many repetitions; they are not recorded."""
        self.process.stdin.write(f"run {count}\n")
        self.process.stdin.flush()
        return self._read()

    def take_turn(self, count):
        """The same, recorded as the next round."""
        self.rounds.append(self.ask(count))

    def median(self, key):
        """Of a figure over the rounds."""
        return statistics.median(figures[key] for figures in self.rounds)

    def cpu_s(self):
        """Processor seconds used so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def close(self):
        """End the program: at once if it is busy."""
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def machine_busy_s():
    """Processor seconds used, or taken by the host, on the whole machine so far."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, soft_irq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft_irq + steal) / CLOCK_TICKS


class OtherLoad:
    """How many cores other processes kept busy meanwhile."""

    def __init__(self, servers):
        self.servers = servers
        self.start = (time.monotonic(), machine_busy_s(), self._own_s())

    def _own_s(self):
        return sum(server.cpu_s() for server in self.servers)

    def cores(self):
        """Mean since the object was made."""
        wall_s = time.monotonic() - self.start[0]
        busy_s = machine_busy_s() - self.start[1] - (self._own_s() - self.start[2])
        return max(0.0, busy_s / wall_s)


def step_arguments(net, options, threads):
    arch, image, classes, minibatch, mode = net
    return ["--arch", arch, "--image", image, "--classes", str(classes), "--minibatch",
            str(options.minibatch or minibatch), "--threads", str(threads), "--mode", mode,
            "--warmup", "2", "--serve"]


def start_servers(net, options, servers):
    """Append convoy, PyTorch's variants and the peak to servers."""
    arguments = step_arguments(net, options, options.threads)
    programs = options.build / "bench"
    servers.append(Server("convoy", [str(programs / "bench_step"), *arguments]))
    for python, threads, layout in itertools.product(
            options.torch_python, options.torch_threads, ("NCHW", "channels last")):
        command = [python, str(HERE / "bench_step_torch.py"),
                   *step_arguments(net, options, threads)]
        if layout != "NCHW":
            command.append("--channels-last")
        environment = {**TORCH_ENVIRONMENT, **{name: str(threads) for name in TORCH_THREADS}}
        server = Server(f"PyTorch {layout}, {threads} threads ({python})", command, environment)
        server.python, server.threads, server.layout = python, threads, layout
        servers.append(server)
    servers.append(Server("peak", [str(programs / "bench_peak"), "--threads", str(options.threads),
                                  "--serve"]))


def compare(name, options):
    """Let all take turns; returns what was measured."""
    servers = []
    try:
        start_servers(NETS[name], options, servers)
        counts = []
        for server in servers:
            is_peak = server.name == "peak"
            step_s = 1.0 if is_peak else server.ask(1)["step_median_s"]
            wanted = 1 if is_peak else math.ceil(options.turn_s / step_s)
            counts.append(max(1, wanted if is_peak or not options.steps else options.steps))
        load = OtherLoad(servers)
        for i in range(options.rounds):
            for server, count in zip(servers, counts):
                server.take_turn(count)
            print(f"{name}: round {i + 1} of {options.rounds}", file=sys.stderr)
        return {"net": name, "other_load_cores": load.cores(),
                "rounds": {server.name: server.rounds for server in servers},
                "rows": [table_row(name, servers, python) for python in options.torch_python]}
    finally:
        for server in servers:
            server.close()


def rate_text(images_per_s):
    """Three digits or more."""
    return f"{images_per_s:,.0f}" if images_per_s >= 100 else f"{images_per_s:.3g}"


def best_step_s(servers):
    """The fastest single step of any of them, which other work disturbs least."""
    return min(figures["step_min_s"] for server in servers for figures in server.rounds)


def table_row(name, servers, python):
    """One line of the table of RESULTS.md: against the PyTorch of one interpreter."""
    convoy, peak = servers[0], servers[-1]
    torches = [server for server in servers if server.python == python]
    best = max(torches, key=lambda server: server.median("images_per_s"))
    ratios = [ours["images_per_s"] / theirs["images_per_s"]
              for ours, theirs in zip(convoy.rounds, best.rounds)]
    by_best_step = best_step_s(torches) / best_step_s([convoy])
    figures, theirs = convoy.rounds[-1], best.rounds[-1]
    limit = max(figures["gflops"] for figures in peak.rounds)
    threads = f"{best.threads} thread{'s' if best.threads > 1 else ''}"
    return (f"| {name} | {figures['minibatch']} | {rate_text(convoy.median('images_per_s'))} "
            f"| {rate_text(best.median('images_per_s'))} ({theirs['version']}, {best.layout}, {threads}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {by_best_step:.2f} "
            f"| {100 * convoy.median('gflops') / limit:.0f} % of {limit:.0f} GFLOP/s "
            f"| {figures['peak_rss_bytes'] / MIB:.0f} / {theirs['peak_rss_bytes'] / MIB:.0f} |")


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown processor"


def commit():
    described = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty=+changes", "--exclude=*"],
        capture_output=True, text=True, check=False)
    return described.stdout.strip() or "unknown commit"


def header(options):
    command = " ".join(["bench/compare_step.py", *sys.argv[1:]])
    settings = "".join(f"{name}={value}; " for name, value in sorted(os.environ.items())
                       if name.startswith(("OPENBLAS_", "OMP_", "MKL_", "DNNL_", "ONEDNN_")))
    return (f"Commit {commit()}; {cpu_model()}, {os.cpu_count()} cores, {options.threads} threads; "
            f"{settings}{datetime.date.today().isoformat()}; `{command}`")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", metavar="NET", default=list(DEFAULT_NETS),
                        help=f"{', '.join(NETS)} (default: {', '.join(DEFAULT_NETS)})")
    parser.add_argument("--build", type=pathlib.Path, default=HERE.parent / "build" / "release",
                        help="build folder (default: build/release)")
    parser.add_argument("--torch-python", action="append", metavar="PROGRAM",
                        help="a Python that has torch and torchvision; may be repeated "
                        "(default: /usr/bin/python3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-threads", type=int, action="append", metavar="N",
                        help="threads that PyTorch runs with; may be repeated, the best counts "
                        "(default: 1, and as many as convoy)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minibatch", type=int, help="instead of each net's own")
    parser.add_argument("--steps", type=int, help="steps per turn (default: --turn-s worth)")
    parser.add_argument("--turn-s", type=float, default=2.0, help="seconds per turn (default 2)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    options.torch_python = options.torch_python or ["/usr/bin/python3"]
    options.torch_threads = options.torch_threads or sorted({1, options.threads})
    unknown = [name for name in options.nets if name not in NETS]
    if unknown:
        parser.error(f"no net {unknown[0]}: {', '.join(NETS)}")
    if options.rounds < 5:
        parser.error("at least 5 rounds, or the spread means nothing")
    return options


def main():
    options = parse_options()
    try:
        results = [compare(name, options) for name in options.nets]
    except (OSError, RuntimeError) as error:
        sys.exit(f"compare_step.py: {error}")
    print(header(options))
    loads = [result["other_load_cores"] for result in results]
    verdict = "" if max(loads) <= QUIET_CORES else (
        f"; above {QUIET_CORES} only the ratios of best steps mean something")
    print("Cores busy with other work meanwhile: "
          + ", ".join(f"{load:.2f}" for load in loads) + f"{verdict}.\n")
    print("| net | minibatch | convoy images/s | PyTorch images/s (version, fastest variant) "
          "| ratio (min-max) | ratio of best steps | convoy's share of the peak "
          "| memory convoy / PyTorch, MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in results:
        print("\n".join(result["rows"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
