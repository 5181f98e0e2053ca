#!/usr/bin/env python3
"""Compares convoy's nets with torchvision's: the same weights, images and updates.

For each net, from a random PyTorch model with perturbed running statistics:
  logits   parity_net loads the PyTorch state; logits in evaluation mode agree;
  return   the file that parity_net saves loads into PyTorch with strict=True and gives the same
           logits there;
  step N   five SGD steps (momentum 0.9, weight decay 1e-4) from the same weights on the same
           batches: each loss agrees.

One line per check: net, check, figure, bound. Exit 1 when a figure passes its bound, 77 (skip) when
PyTorch is not installed.

Bounds: single precision has 6e-8 per operation; sums over up to 4608 products in another order and
20 to 50 layers give about 1e-6 to 1e-5 of the largest logit. In training each step amplifies the
difference through batch statistics of a small minibatch; a wrong update rule shows at 1e-2.
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


class Report:
    def __init__(self):
        self.n_failed = 0

    def check(self, net, what, figure, bound):
        is_good = figure <= bound  # false for NaN
        self.n_failed += not is_good
        print(f"{'ok  ' if is_good else 'FAIL'} {net} {what}: {figure:.3g}, bound {bound:g}",
              flush=True)


def perturb_statistics(model, generator):
    """Untrained running statistics are 0 and 1, which would hide that they are mixed up."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            n = module.num_features
            module.running_mean.copy_(torch.randn(n, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(n, generator=generator) * 0.5 + 0.5)
            module.bias.data.copy_(torch.randn(n, generator=generator) * 0.1)


def to_numpy(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


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

    perturb_statistics(model, generator)
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

    losses = driver.run(arch, size, "--steps", str(STEPS), "--lr", str(LR),
                        "--momentum", str(MOMENTUM), "--weight-decay", str(WEIGHT_DECAY))
    for step, (ours, theirs) in enumerate(zip(losses, train_losses(model, images, labels))):
        report.check(name, f"step {step}", abs(ours - theirs) / abs(theirs), LOSS_BOUND)
    if len(losses) != STEPS:
        sys.exit(f"FAIL {name}: {len(losses)} losses, expected {STEPS}")
    load_strictly(other, driver.path("saved"))
    logits = safetensors_io.load(driver.path("logits"))["logits"]
    # What was trained here, evaluated by both.
    report.check(name, "trained logits", relative(logits, eval_logits(other, images[:BATCH])),
                 LOGITS_BOUND)
    report.check(name, "trained statistics", statistics_difference(other, model), LOSS_BOUND * 10)
    counts = {int(value) for key, value in other.state_dict().items()
              if key.endswith("num_batches_tracked")}
    report.check(name, "updates counted", float(counts != {STEPS}), 0.0)


def load_strictly(model, path):
    state = {name: torch.from_numpy(array) for name, array in safetensors_io.load(path).items()}
    model.load_state_dict(state, strict=True)


def statistics_difference(ours, theirs):
    """The largest relative difference of a batch norm's running statistics."""
    worst = 0.0
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if name.endswith("running_mean") or name.endswith("running_var"):
            worst = max(worst, relative(value.numpy(), expected[name].numpy()))
    return worst


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
