#!/usr/bin/env python3
"""A network that MONAI has trained, as far as `bmvp predict` can tell: its state dict, a case, and MONAI's label map of it.

    weights_reference.py FOLDER        writes tests/fixtures/monai, read by tests/program/weights.sh

unetr.pt is what a training program of MONAI saves: {"epoch", "best_acc", "state_dict"} with names of DataParallel ("module.") and nothing
that says what goes in (channels t1, flair) and comes out (TC, WT, ET, as ConvertToMultiChannelBasedOnBratsClassesd orders them). Values are
random, in float16 for the size's sake; the last layer is such that logits differ and each region holds half of the head. The case lies along
axes L, P, S. MONAI's way: Orientation RAS, NormalizeIntensity of nonzero voxels by channel, sliding_window_inference with overlap 0.5,
sigmoid, all in double; then 2 in WT, 1 in TC, 3 in ET, the last one counts, and nothing where both images are 0.
Needs torch, monai 1.4 or later, nibabel.
"""

import json
import os
import sys

import nibabel as nib
import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNETR
from monai.transforms import NormalizeIntensity

SIZE = (42, 38, 36)  # x, y, z
WINDOW = (32, 32, 32)
AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1, 0, 25], [0, 0, 1, -12], [0, 0, 0, 1]])  # L, P, S


def image(phase):
    x, y, z = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SIZE], indexing="ij")
    inside = (x / 19) ** 2 + (y / 17) ** 2 + (z / 16) ** 2 < 1
    v = 300 + 120 * np.sin(0.21 * x + phase) * np.cos(0.17 * y) + 90 * np.sin(0.33 * z - 0.1 * x * phase)
    return np.where(inside, v, 0).astype(np.int16)


def network():
    torch.manual_seed(4)
    net = UNETR(in_channels=2, out_channels=3, img_size=WINDOW, feature_size=2, hidden_size=6, mlp_dim=8, num_heads=3)
    for p in net.parameters():
        p.data = p.data.half().float()
    return net.eval()


def logits(net, images):
    x = np.stack([i[::-1, ::-1] for i in images]).astype(np.float64)  # to R, A, S
    x = NormalizeIntensity(nonzero=True, channel_wise=True, dtype=torch.float64)(torch.from_numpy(x.copy()))
    with torch.no_grad():
        return sliding_window_inference(x[None].double(), WINDOW, 1, net.double(), overlap=0.5)[0]


def main(folder):
    os.makedirs(folder, exist_ok=True)
    images = [image(0.3), image(1.1)]  # t1, flair
    head = torch.from_numpy((images[0] > 0)[::-1, ::-1].copy())
    net = network()
    y = logits(net, images)
    last = net.out.conv.conv
    last.weight.data = (last.weight.data * 2 / y[:, head].std(1)[:, None, None, None, None]).half().double()
    y = logits(net, images)
    last.bias.data = (last.bias.data - torch.stack([c[head].median() for c in y])).half().double()
    y = torch.sigmoid(logits(net, images)).numpy()[:, ::-1, ::-1]  # TC, WT, ET
    seg = np.zeros(SIZE, np.uint8)
    for channel, value in ((1, 2), (0, 1), (2, 3)):
        seg[(y[channel] >= 0.5) & (images[0] != 0)] = value
    near = (np.abs(y - 0.5) < 1e-5).any(0).sum()
    print("voxels of 0 1 2 3: %s; within 1e-5 of a decision: %d" % (np.bincount(seg.ravel(), minlength=4), near))
    state = {"module." + k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    torch.save({"epoch": 12, "best_acc": 0.83, "state_dict": state}, os.path.join(folder, "unetr.pt"))
    for name, data in (("t1", images[0]), ("flair", images[1]), ("seg", seg)):
        nib.save(nib.Nifti1Image(data, AFFINE), os.path.join(folder, name + ".nii.gz"))
    with open(os.path.join(folder, "dataset.json"), "w") as f:
        json.dump({"cases": [{"id": "head", "images": {"t1": "t1.nii.gz", "flair": "flair.nii.gz"}, "label": "seg.nii.gz"}],
                   "labels": "phantom"}, f)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
