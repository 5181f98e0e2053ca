#!/usr/bin/env python3
"""Compares convoy's nets with torchvision's: the same weights, images and updates.

For each net, from a random PyTorch model with perturbed batch norms:
  logits   parity_net loads the PyTorch state; logits in evaluation mode agree;
  return   the file that parity_net saves loads into PyTorch with strict=True and gives the same
           logits there;
  step N   five SGD steps (momentum 0.9, weight decay 1e-4) from the same weights on the same
           batches: each loss agrees, and so does what the steps did to each parameter.

One line per check: net, check, figure, bound. Exit 1 when a figure passes its bound, 77 (skip) when
PyTorch is not installed.

Bounds: single precision has 6e-8 per operation; sums of up to 4608 products in another order over
20 to 50 layers give 1e-6 of the largest logit. In training a ReLU whose input is within rounding of
0 may go either way, and each step of a deep net with the batch statistics of few images multiplies
that: PyTorch in single and in double precision then part by percents after two steps. So the batch
norms that end a residual branch start small, as zero_init_residual does; the same comparison then
gives some 1e-5 for the losses and up to 0.05 for the moves of single parameters, where a gradient
that is wrong or missing gives about 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

try:
    import numpy as np
    import torch
    import torchvision
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import cifar_resnet
import safetensors_io

CLASSES = 10
BATCH = 8
STEPS = 5
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
LOGITS_BOUND = 1e-4
LOSS_BOUND = 1e-3
MOVE_BOUND = 0.2
BRANCH_SCALE = 0.1


class Report:
    def __init__(self):
        self.n_failed = 0

    def check(self, net, what, figure, bound):
        is_good = figure <= bound  # false for NaN
        self.n_failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {net} {what}: {figure:.3g}, bound {bound:g}",
              flush=True)


def perturb(model, generator):
    """Untrained batch norms hold only 0 and 1, which would hide that something is mixed up."""
    last = "bn3" if hasattr(model.layer1[0], "bn3") else "bn2"
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(n, generator=generator) * 0.5 + 0.5)
            module.bias.data.copy_(torch.randn(n, generator=generator) * 0.1)
            if name.endswith(last):
                module.weight.data.mul_(BRANCH_SCALE)


def to_numpy(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def relative(a, b):
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


class Driver:
    def __init__(self, program, folder, backend, threads):
        self.program, self.folder = program, folder
        self.common = ["--backend", backend, "--threads", str(threads), "--classes", str(CLASSES),
                       "--batch", str(BATCH)]

    def path(self, name):
        return os.path.join(self.folder, name + ".safetensors")

    def run(self, arch, size, *more):
        for name in ("logits", "saved"):
            if os.path.exists(self.path(name)):
                os.remove(self.path(name))
        command = [self.program, "--arch", arch, "--image", f"3x{size}x{size}",
                   "--weights", self.path("weights"), "--data", self.path("data"),
                   "--logits", self.path("logits"), "--save", self.path("saved")]
        done = subprocess.run(command + self.common + list(more), stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"FAIL {arch}: parity_net ended with {done.returncode}")
        return [json.loads(line)["loss"] for line in done.stdout.splitlines()]


def eval_logits(model, images):
    model.eval()
    with torch.no_grad():
        return model(images).numpy()


def train_losses(model, images, labels):
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []
    model.train()
    for step in range(STEPS):
        part = slice(step * BATCH, (step + 1) * BATCH)
        loss = torch.nn.functional.cross_entropy(model(images[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def compare(report, driver, arch, make, size, with_training):
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    model, other = make(), make()
    n = BATCH * STEPS if with_training else BATCH
    images = torch.randn(n, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    name = f"{arch} {size}x{size}"

    perturb(model, generator)
    safetensors_io.save(driver.path("weights"), to_numpy(model))
    safetensors_io.save(driver.path("data"), {"images": images.numpy(), "labels": labels.numpy()})

    driver.run(arch, size)
    expected = eval_logits(model, images[:BATCH])
    logits = safetensors_io.load(driver.path("logits"))["logits"]
    report.check(name, "logits", relative(logits, expected), LOGITS_BOUND)
    load_strictly(other, driver.path("saved"))
    report.check(name, "return", relative(eval_logits(other, images[:BATCH]), expected), 0.0)
    if not with_training:
        return

    before = to_numpy(model)
    losses = driver.run(arch, size, "--steps", str(STEPS), "--lr", str(LR),
                        "--momentum", str(MOMENTUM), "--weight-decay", str(WEIGHT_DECAY))
    if len(losses) != STEPS:
        sys.exit(f"FAIL {name}: {len(losses)} losses, expected {STEPS}")
    for step, (ours, theirs) in enumerate(zip(losses, train_losses(model, images, labels))):
        report.check(name, f"step {step}", abs(ours - theirs) / abs(theirs), LOSS_BOUND)
    load_strictly(other, driver.path("saved"))
    compare_moves(report, name, before, to_numpy(other), to_numpy(model))
    logits = safetensors_io.load(driver.path("logits"))["logits"]
    # What was trained here, evaluated by both.
    report.check(name, "trained logits", relative(logits, eval_logits(other, images[:BATCH])),
                 LOGITS_BOUND)


def compare_moves(report, net, before, ours, theirs):
    """The worst parameter: |our move - their move| / |their move|, in the Euclidean norm; running
    statistics among them. And the counters of updates must be equal."""
    worst, worst_name, n_wrong = 0.0, "", 0
    for name, start in before.items():
        if name.endswith("num_batches_tracked"):
            n_wrong += int(ours[name]) != int(theirs[name])
            continue
        move = np.linalg.norm(theirs[name] - start)
        figure = float(np.linalg.norm(ours[name] - theirs[name]) / move)
        if not figure <= worst:
            worst, worst_name = figure, name
    report.check(net, f"moves ({worst_name})", worst, MOVE_BOUND)
    report.check(net, "wrong counters", n_wrong, 0)


def load_strictly(model, path):
    state = {name: torch.from_numpy(array) for name, array in safetensors_io.load(path).items()}
    model.load_state_dict(state, strict=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--driver", required=True, help="the program parity_net")
    parser.add_argument("--backend", default="cpu", choices=["ref", "cpu"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="resnet18 at 224 x 224 as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    report = Report()
    vision = torchvision.models
    with tempfile.TemporaryDirectory(prefix="convoy-parity-") as folder:
        driver = Driver(options.driver, folder, options.backend, options.threads)
        compare(report, driver, "resnet20_cifar", lambda: cifar_resnet.resnet20(CLASSES), 32, True)
        compare(report, driver, "resnet18", lambda: vision.resnet18(num_classes=CLASSES), 64, True)
        compare(report, driver, "resnet50", lambda: vision.resnet50(num_classes=CLASSES), 64, True)
        if options.full:
            compare(report, driver, "resnet18", lambda: vision.resnet18(num_classes=CLASSES), 224,
                    False)
    if report.n_failed:
        print(f"{report.n_failed} checks failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
