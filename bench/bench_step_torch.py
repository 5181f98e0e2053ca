#!/usr/bin/env python3
"""Time steps of one net in PyTorch: the peer of bench_step, with the same nets, options and output.

Prints one JSON object a line; with --serve it answers each line "run N" on stdin with the figures
of N steps.
"""
import argparse
import json
import math
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional
import torchvision
from torchvision.models.resnet import BasicBlock

RATE = 1e-3  # as bench_step: labels are random and the run must stay finite


class LeNet5(nn.Sequential):
    """nn/models/lenet.c: smaller images than 32 x 32 get a margin of 2."""

    def __init__(self, image, classes):
        channels, height, width = image
        pad = 2 if min(height, width) < 32 else 0
        planes = [((extent + 2 * pad - 4) // 2 - 4) // 2 for extent in (height, width)]
        super().__init__(
            nn.Conv2d(channels, 6, 5, padding=pad), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * planes[0] * planes[1], 120), nn.ReLU(inplace=True),
            nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, classes))


def cifar_stage(inputs, outputs, stride, n_blocks):
    """nn/models/residual.c: the first block's shortcut is a strided 1x1 convolution with batch
    norm where the shape changes."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                 nn.BatchNorm2d(outputs))
    blocks = [BasicBlock(inputs, outputs, stride, shortcut)]
    blocks += [BasicBlock(outputs, outputs) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)


class CifarResNet(nn.Sequential):
    """nn/models/resnet_cifar.c: 6 n + 2 layers."""

    def __init__(self, n_layers, image, classes):
        n_blocks = (n_layers - 2) // 6
        super().__init__(
            nn.Conv2d(image[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
            nn.ReLU(inplace=True), cifar_stage(16, 16, 1, n_blocks),
            cifar_stage(16, 32, 2, n_blocks), cifar_stage(32, 64, 2, n_blocks),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def build(arch, image, classes):
    """The net of this name; ValueError when there is none."""
    if arch == "lenet5":
        return LeNet5(image, classes)
    if arch.startswith("resnet") and arch.endswith("_cifar"):
        return CifarResNet(int(arch[len("resnet"):-len("_cifar")]), image, classes)
    if not hasattr(torchvision.models, arch):
        raise ValueError(f"no net {arch}: torchvision's names, resnetN_cifar or lenet5")
    return getattr(torchvision.models, arch)(num_classes=classes)


class Stepper:
    """One net that is trained (or evaluated) on one minibatch of random images."""

    def __init__(self, options):
        self.options = options
        torch.manual_seed(1)
        torch.set_num_threads(options.threads)
        self.model = build(options.arch, options.image, options.classes)
        self.images = torch.randn(options.minibatch, *options.image)
        self.labels = torch.randint(options.classes, (options.minibatch,))
        self.loss = None
        if options.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.model.train(options.mode == "train")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=0.9)

    def step(self):
        """Forward, backward and update, or forward to the logits."""
        if self.options.mode == "eval":
            with torch.inference_mode():
                self.model(self.images)
            return
        self.optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"{self.options.arch}: the loss is not finite")

    def measure(self, n_steps):
        """The figures of n_steps steps."""
        times_s = []
        for _ in range(n_steps):
            start_s = time.perf_counter()
            self.step()
            times_s.append(time.perf_counter() - start_s)
        median_s = statistics.median(times_s)
        figures = {
            "program": "torch", "version": torch.__version__, "arch": self.options.arch,
            "mode": self.options.mode, "channels_last": self.options.channels_last,
            "minibatch": self.options.minibatch, "threads": torch.get_num_threads(),
            "steps": n_steps, "step_median_s": median_s, "step_min_s": min(times_s),
            "step_max_s": max(times_s), "images_per_s": self.options.minibatch / median_s,
            "peak_rss_bytes": peak_rss_bytes(),
        }
        if self.loss is not None:
            figures["loss"] = self.loss
        return figures


def peak_rss_bytes():
    """The most memory this process has held so far; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def image_shape(text):
    """'3x224x224' -> (3, 224, 224)."""
    shape = tuple(int(extent) for extent in text.split("x"))
    if len(shape) != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected CxHxW such as 3x224x224")
    return shape


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", required=True, help="lenet5, resnetN_cifar or torchvision's name")
    parser.add_argument("--image", required=True, type=image_shape, help="CxHxW")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--minibatch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", choices=("train", "eval"), default="train")
    parser.add_argument("--channels-last", action="store_true", help="NHWC inside")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--serve", action="store_true", help="answer lines 'run N' on stdin")
    return parser.parse_args()


def main():
    options = parse_options()
    stepper = Stepper(options)
    for _ in range(options.warmup):
        stepper.step()
    if not options.serve:
        print(json.dumps(stepper.measure(options.steps)), flush=True)
        return
    print(json.dumps({"ready": "torch"}), flush=True)
    for line in sys.stdin:
        word, count = line.split()
        if word != "run":
            raise ValueError(f"stdin: {line!r}, expected lines 'run N'")
        print(json.dumps(stepper.measure(int(count))), flush=True)


if __name__ == "__main__":
    main()
