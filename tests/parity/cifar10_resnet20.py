#!/usr/bin/env python3
"""Trains convoy's resnet20_cifar on CIFAR-10 in plain PyTorch: the twin of the convoy job

    model: {arch: resnet20_cifar, classes: 10}
    data: {train: {augment: [{pad_crop: 4}, {flip: 0.5}]}}
    replicas x minibatch = 128, epochs: 10
    optimizer: {type: sgd, momentum: 0.9, nesterov: true, weight_decay: 1e-4}
    schedule: {type: cosine, lr: 0.1, warmup_epochs: 1}

to see that both reach the same accuracy, and how fast. The data folder has train/CLASS/*.jpg and
test/CLASS/*.jpg (or .png). All images are decoded once into one uint8 tensor; augmentation works on
whole batches, so the loader does not slow PyTorch down. Batch norm sees 128 images here and a
replica's minibatch in convoy.

Prints a JSON object per line: one per epoch with train_loss, val_loss, val_top1 (fractions) and
seconds. Exit 77 where PyTorch or torchvision is not installed.
"""

import argparse
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

try:
    import torch
    import torchvision
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import cifar_resnet

PADDING = 4
WARMUP_START = 0.01
EVAL_BATCH = 500


def load(folder, limit_per_class):
    """(images (n, 3, h, w) uint8, labels (n), names of the classes) of a folder per class."""
    classes = sorted(entry for entry in os.listdir(folder)
                     if os.path.isdir(os.path.join(folder, entry)))
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(os.listdir(os.path.join(folder, name)))[:limit_per_class]
        for file in files:
            path = os.path.join(folder, name, file)
            images.append(torchvision.io.read_image(path, torchvision.io.ImageReadMode.RGB))
            labels.append(label)
    if not images:
        sys.exit(f"{folder}: no images in folders of classes")
    return torch.stack(images), torch.tensor(labels), classes


def statistics(images):
    """Mean and deviation per channel, in [0, 1]; summed in double, a slice at a time."""
    total, squares, n = torch.zeros(3).double(), torch.zeros(3).double(), 0
    for part in images.split(1000):
        values = part.double() / 255
        total += values.sum(dim=(0, 2, 3))
        squares += (values * values).sum(dim=(0, 2, 3))
        n += values.numel() // 3
    mean = total / n
    return mean, (squares / n - mean * mean).sqrt()


class Normalizer:
    def __init__(self, mean, deviation):
        self.scale = (1 / (255 * deviation)).float().view(1, 3, 1, 1)
        self.shift = (mean / deviation).float().view(1, 3, 1, 1)

    def __call__(self, images):
        return images.float() * self.scale - self.shift


def augment(images, generator):
    """Zero-pad by 4, crop the old size at a random place, mirror half of the images."""
    n, _, h, w = images.shape
    padded = torch.nn.functional.pad(images, [PADDING] * 4)
    top = torch.randint(2 * PADDING + 1, (n, 1), generator=generator)
    left = torch.randint(2 * PADDING + 1, (n, 1), generator=generator)
    rows, columns = top + torch.arange(h), left + torch.arange(w)  # (n, h), (n, w)
    is_flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(is_flipped, columns.flip(1), columns)
    sample = torch.arange(n).view(n, 1, 1, 1)
    channel = torch.arange(3).view(1, 3, 1, 1)
    return padded[sample, channel, rows.view(n, 1, h, 1), columns.view(n, 1, 1, w)]


def rate_at(step, steps_per_epoch, total_steps, peak, warmup_epochs):
    """Linear warm-up, then half a cosine that counts from the start of training."""
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
    return peak * (1 + math.cos(math.pi * step / total_steps)) / 2


def evaluate(model, normalize, images, labels):
    """Mean loss and top-1 over all images."""
    n_correct, loss_sum = 0, 0.0
    model.eval()
    with torch.no_grad():
        for part, truth in zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH)):
            logits = model(normalize(part))
            loss_sum += torch.nn.functional.cross_entropy(logits, truth, reduction="sum").item()
            n_correct += int((logits.argmax(1) == truth).sum())
    model.train()
    return loss_sum / len(labels), n_correct / len(labels)


def train_epoch(model, optimizer, normalize, data, options, epoch, generator):
    """Mean loss of the epoch's steps and their number; a partial last batch is dropped."""
    images, labels = data
    steps_per_epoch = len(labels) // options.batch
    total_steps = options.epochs * steps_per_epoch
    order = torch.randperm(len(labels), generator=generator)
    losses = []
    for i in range(steps_per_epoch):
        step = epoch * steps_per_epoch + i
        if options.max_steps and step >= options.max_steps:
            break
        chosen = order[i * options.batch:(i + 1) * options.batch]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps_per_epoch, total_steps, options.lr,
                                  options.warmup_epochs)
        x = normalize(augment(images[chosen], generator))
        loss = torch.nn.functional.cross_entropy(model(x), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / max(1, len(losses)), len(losses)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--warmup-epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=0, help="stop after so many; 0: never")
    parser.add_argument("--limit-per-class", type=int, default=None, help="read fewer images")
    return parser.parse_args()


def main():
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    start = time.monotonic()
    images, labels, classes = load(os.path.join(options.data, "train"), options.limit_per_class)
    val_images, val_labels, val_classes = load(os.path.join(options.data, "test"),
                                               options.limit_per_class)
    if classes != val_classes:
        sys.exit(f"{options.data}: train and test have other classes")
    if len(labels) < options.batch:
        sys.exit(f"{options.data}: {len(labels)} training images are fewer than one batch")
    mean, deviation = statistics(images)
    normalize = Normalizer(mean, deviation)
    print(json.dumps({"torch": torch.__version__, "threads": options.threads,
                      "n_train": len(labels), "n_val": len(val_labels),
                      "mean": [round(float(v), 5) for v in mean],
                      "deviation": [round(float(v), 5) for v in deviation],
                      "load_s": round(time.monotonic() - start, 2)}), flush=True)

    model = cifar_resnet.resnet20(len(classes))
    optimizer = torch.optim.SGD(model.parameters(), options.lr, momentum=0.9, nesterov=True,
                                weight_decay=1e-4)
    n_steps = 0
    for epoch in range(options.epochs):
        start = time.monotonic()
        train_loss, n = train_epoch(model, optimizer, normalize, (images, labels), options, epoch,
                                    generator)
        train_s = time.monotonic() - start
        if n == 0:
            break
        n_steps += n
        val_loss, val_top1 = evaluate(model, normalize, val_images, val_labels)
        print(json.dumps({"epoch": epoch + 1, "step": n_steps, "train_loss": round(train_loss, 5),
                          "val_loss": round(val_loss, 5), "val_top1": round(val_top1, 5),
                          "train_s": round(train_s, 2),
                          "images_per_s": round(n * options.batch / train_s, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
