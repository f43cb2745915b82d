#!/usr/bin/env python3
"""The losses of fine-tuning with a label that is ignored, as nnU-Net masks them, in double.

    ignore_reference.py FILE.safetensors     read by tests/unit/test_finetune.c

The network is one convolution of 1x1x1, so that its gradients are sums over all voxels of the losses' gradients at the logits. Dice leaves the
voxels out of all of its sums; cross-entropy is a mean over the others (cross_entropy(ignore_index=), binary: over the others' logits). Images
and labels are given by formula (networks_reference.py); three quarters of the second case are ignored. Weights are (inputs, outputs), as bmvp_nn.h has them. Needs torch, numpy, safetensors.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from networks_reference import parameter_value, uniform

EDGE, CHANNELS, IGNORED = 8, 2, 4
REGIONS = ((1, 2, 3), (2, 3), (3,))
WEIGHT = (0.3, 1.0, 1.5, 2.5)
CASES = (  # name, exclusive, class weights, dice_batch, dice_squared, smooth
    ("regions", 0, 0, 0, 0, 1e-5),
    ("regions_batch", 0, 0, 1, 1, 1.0),
    ("classes", 1, 0, 0, 1, 1.0),
    ("classes_batch", 1, 0, 1, 0, 1e-5),
    ("weighed", 1, 1, 0, 0, 1.0),
)


def inputs():
    n = EDGE**3
    images = np.stack([[uniform("image%d%d" % (b, m), n) for m in range(CHANNELS)] for b in range(2)]).astype(np.float32)
    labels = np.stack([np.floor(uniform("labels%d" % b, n) * (5 if b == 0 else 16)) for b in range(2)])
    return torch.tensor(images.astype(np.float64)), torch.tensor(np.minimum(labels, IGNORED).astype(np.int64))


def loss(logits, labels, exclusive, weighed, batch, squared, smooth):
    """logits (B, K, N), labels (B, N)"""
    judged = (labels != IGNORED).double()[:, None]
    clean = torch.where(labels == IGNORED, 0, labels)
    if exclusive:
        target = F.one_hot(clean, 4).permute(0, 2, 1).double()[:, 1:]
        p = logits.softmax(1)[:, 1:]
        weight = torch.tensor(WEIGHT, dtype=torch.float64) if weighed else None
        ce = F.cross_entropy(logits, torch.where(labels == IGNORED, -100, labels), weight, ignore_index=-100)
    else:
        target = torch.stack([sum((clean == v).double() for v in r) for r in REGIONS], 1)
        p = logits.sigmoid()
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        ce = (each * judged).sum() / (judged.sum() * len(REGIONS))
    axes, power = ((0, 2) if batch else (2,)), (2 if squared else 1)
    both = (p * target * judged).sum(axes)
    sizes = (p**power * judged).sum(axes) + (target**power * judged).sum(axes)
    return (1 - (2 * both + smooth) / (sizes + smooth)).mean(), ce


def main(path):
    images, labels = inputs()
    tensors = {}
    for name, exclusive, *how in CASES:
        k = 4 if exclusive else 3
        w = torch.tensor(parameter_value("out.weight", (k, CHANNELS, 1, 1, 1)).astype(np.float64), requires_grad=True)
        b = torch.tensor(parameter_value("out.bias", (k,)).astype(np.float64), requires_grad=True)
        logits = torch.einsum("kc,bcn->bkn", w[:, :, 0, 0, 0], images) + b[None, :, None]
        dice, ce = loss(logits, labels, exclusive, *how)
        (0.7 * dice + 0.3 * ce).backward()
        tensors[name + ".loss"] = np.array([0.7 * dice.item() + 0.3 * ce.item(), dice.item(), ce.item()], np.float32)
        tensors[name + ".weight"] = np.ascontiguousarray(w.grad.numpy().reshape(k, CHANNELS).T.astype(np.float32))
        tensors[name + ".bias"] = b.grad.numpy().astype(np.float32)
    save_file(tensors, path)


main(sys.argv[1])
