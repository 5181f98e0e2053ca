#!/usr/bin/env python3
"""`convoy bench`: the figures of LeNet-5 agree with each other and with its multiply-adds worked out
by hand; a job file gives the net, options override it; wrong usage ends with 64."""

import json

from convoy_system import WITH_SANITIZERS, check, make_dataset, run, say, start, write_job

PASSES = ("forward", "backward_data", "backward_filter")
QUICK = ("--steps", "2", "--warmup", "1", "--threads", "2", "--json")
LAYERS = ("conv1 pool1 relu1 conv2 pool2 relu2 flatten fc1 relu3 fc2 relu4 fc3 loss").split()
# Multiply-adds of one image of 28 x 28, forward.
WORK = {"conv1": 6 * 28 * 28 * 25, "conv2": 16 * 10 * 10 * 6 * 25, "fc1": 400 * 120, "fc2": 120 * 84,
        "fc3": 84 * 10}


def bench(*args):
    result = run(["bench", *args, *QUICK])
    check(result.returncode == 0, "bench %s: exit %d: %s"
          % (" ".join(args), result.returncode, result.stderr))
    check(result.stdout.count("\n") == 1, "not one line: " + result.stdout)
    return json.loads(result.stdout)


def same(a, b, what):
    """Printed figures have six digits."""
    check(abs(a - b) <= 1e-4 * max(abs(a), abs(b)) + 1e-7, "%s: %g and %g" % (what, a, b))


def passes_of(row):
    return [row[name] for name in PASSES if name in row]


def time_of(row):
    return sum(cost["time_s"] for cost in passes_of(row))


def check_costs(name, row, found):
    step_s, ceilings = found["step"]["step_mean_s"], found["ceilings"]
    same(row["share_of_step"], time_of(row) / step_s, name + ": share")
    for cost in passes_of(row):
        same(cost["gflops"], 2e-9 * cost["multiply_adds"] / cost["time_s"], name + ": GFLOP/s")
        same(cost["share_of_peak"], cost["gflops"] / ceilings["gflops"], name + ": peak")
        same(cost["share_of_bandwidth"],
             1e-9 * cost["bytes"] / ceilings["triad_gbytes_per_s"] / cost["time_s"],
             name + ": bandwidth")
        check(cost["bytes"] > 0, name + ": no bytes")


def check_ceilings(ceilings, threads):
    check(ceilings["threads"] == threads, "threads: %s" % ceilings)
    for key in ("gflops_one_thread", "gflops", "triad_gbytes_per_s_one_thread",
                "triad_gbytes_per_s"):
        check(0 < ceilings[key] < 1e6, "%s is %s" % (key, ceilings[key]))


def machine():
    found = bench()
    check(sorted(found) == ["ceilings", "convoy", "host"], "keys: %s" % sorted(found))
    check_ceilings(found["ceilings"], 2)
    say("ceilings: %s" % found["ceilings"])


def training():
    found = bench("--arch", "lenet5", "--minibatch", "8")
    step, layers = found["step"], {row["name"]: row for row in found["layers"]}
    check_ceilings(found["ceilings"], 2)
    check([row["name"] for row in found["layers"]] == LAYERS, "layers: %s" % list(layers))
    check((step["arch"], step["mode"], step["minibatch"], step["steps"]) ==
          ("lenet5", "train", 8, 2), "step: %s" % step)
    for name, row in layers.items():
        check_costs(name, row, found)
        check("forward" in row and ("backward_data" in row) == (name != "conv1")
              and ("backward_filter" in row) == (name in WORK), "passes of %s: %s" % (name, row))
        for cost in passes_of(row):
            check(cost["multiply_adds"] == 8 * WORK.get(name, 0), "%s: %s" % (name, cost))
    # The gradient of the images is not computed.
    expected = 8 * (3 * sum(WORK.values()) - WORK["conv1"])
    check(step["multiply_adds"] == expected, "multiply-adds: %s, not %d" % (step, expected))
    same(step["gflops"], 2e-9 * expected / step["step_median_s"], "GFLOP/s of the step")
    same(step["images_per_s"], 8 / step["step_median_s"], "images/s")
    check(step["step_min_s"] <= step["step_median_s"] <= step["step_max_s"], "spread: %s" % step)
    check_sums(found)


def check_sums(found):
    step_s, layers, types = found["step"]["step_mean_s"], found["layers"], found["types"]
    for row in types:
        ours = [layer for layer in layers if layer["type"] == row["type"]]
        check_costs(row["type"], row, found)
        check(row["layers"] == len(ours), "%s: %d layers" % (row["type"], row["layers"]))
        for name in PASSES:
            for key in ("time_s", "multiply_adds", "bytes"):
                same(row.get(name, {}).get(key, 0),
                     sum(layer.get(name, {}).get(key, 0) for layer in ours), row["type"] + key)
    layers_s = sum(time_of(layer) for layer in layers)
    same(layers_s + found["update"]["time_s"] + found["rest_s"], step_s, "sum of the step")
    check(found["rest_s"] > 0, "more than the step: %s" % found["rest_s"])
    convolutions_s = sum(time_of(layer) for layer in layers if layer["type"] == "conv2d")
    same(found["outside_convolutions"], 1 - convolutions_s / step_s, "outside convolutions")


def evaluation():
    found = bench("--arch", "lenet5", "--minibatch", "8", "--mode", "eval", "--image", "1x32x32",
                  "--classes", "7", "--backend", "ref")
    check(found["step"]["mode"] == "eval" and found["step"]["backend"] == "ref", "options")
    work = dict(WORK, fc3=84 * 7)  # 32 x 32 without a margin has the same planes as 28 x 28 with one
    check(found["step"]["multiply_adds"] == 8 * sum(work.values()), "step: %s" % found["step"])
    check("update" not in found, "an update in evaluation")
    for row in found["layers"]:
        check([name for name in PASSES if name in row] ==
              (["forward"] if row["name"] != "loss" else []), "passes: %s" % row)


def job_file():
    """The shape and the classes are those of the job's dataset; chains say where they ran."""
    make_dataset("train.lmdb", 32, classes=6)
    write_job(data="{train: {path: train.lmdb}}")
    found = bench("job.yaml")
    check((found["step"]["arch"], found["step"]["minibatch"], found["step"]["threads"]) ==
          ("resnet20_cifar", 4, 2), "step: %s" % found["step"])
    layers = {row["name"]: row for row in found["layers"]}
    check(layers["conv1"]["output"] == [4, 16, 12, 12], "conv1: %s" % layers["conv1"])
    check(layers["fc"]["output"] == [4, 6], "fc: %s" % layers["fc"])
    for name, row in layers.items():
        check(("within" in row) != ("forward" in row), "%s: %s" % (name, row))
        if "within" in row:
            end = layers[row["within"]]
            check("forward" in end and row["type"] in end["type"].split("+"), "%s: %s" % (name, end))
    check(layers["bn1"].get("within") == "relu", "bn1: %s" % layers["bn1"])

    write_job(data="{train: {path: none.lmdb}}", model="{arch: lenet5}")
    found = bench("job.yaml", "--image", "1x28x28", "--minibatch", "2", "--arch", "resnet20_cifar")
    check((found["step"]["arch"], found["step"]["minibatch"]) == ("resnet20_cifar", 2),
          "overridden: %s" % found["step"])
    check(found["layers"][-2]["output"] == [2, 10], "classes: %s" % found["layers"][-2])


def text():
    result = run(["bench", "--arch", "lenet5", "--minibatch", "2", "--steps", "1", "--threads", "2"])
    check(result.returncode == 0, "text: " + result.stderr)
    for part in ("multiply-adds, GFLOP/s", "memory, GB/s", "images/s", "of the peak",
                 "backward-data", "backward-filter", "update of the weights", "rest of the step",
                 "outside convolutions: ", *LAYERS):
        check(part in result.stdout, "'%s' is not in %s" % (part, result.stdout))


def refused(code, part, *args):
    result = run(["bench", *args])
    lines = result.stderr.splitlines()
    check(result.returncode == code and len(lines) == 1 and part in lines[0] and not result.stdout,
          "bench %s: exit %d, not %d with '%s': %s%s" % (" ".join(args), result.returncode, code,
                                                        part, result.stderr, result.stdout))
    say("%d %s" % (code, lines[0]))


def refusals():
    refused(64, "unknown option --archs, did you mean --arch?", "--archs", "lenet5")
    refused(64, "--steps is '0'", "--arch", "lenet5", "--steps", "0")
    refused(64, "--threads is '2000'", "--threads", "2000")
    refused(64, "--image is '3x0x8', expected CxHxW", "--arch", "lenet5", "--image", "3x0x8")
    refused(64, "--mode is 'test', expected train or eval", "--arch", "lenet5", "--mode", "test")
    refused(64, "there is no net", "--minibatch", "8")
    refused(64, "'b.yaml' is one argument too many", "a.yaml", "b.yaml")
    refused(78, "no arch 'lenet6'; did you mean 'lenet5'?", "--arch", "lenet6")
    refused(78, "no backend 'gpu'; did you mean 'cpu'?", "--arch", "lenet5", "--backend", "gpu")
    refused(78, "kernel 5 x 5 does not fit", "--arch", "lenet5", "--image", "1x4x4")
    refused(66, "none.yaml", "none.yaml")
    refused(66, "none.lmdb", "job.yaml")
    if not WITH_SANITIZERS:  # their allocator ends the program instead
        refused(71, "try a smaller one", "--arch", "resnet152", "--minibatch", "65536")


def main():
    start()
    machine()
    training()
    evaluation()
    job_file()
    text()
    refusals()


main()
