#!/usr/bin/env python3
"""Reference values of bmvp_sliding_window from MONAI 1.4.0.

    window_reference.py FILE.safetensors     read by tests/unit/test_window.c

The predictor depends on where a voxel lies in its window, so that wrong blending shows: output k of a window is
channel (k mod channels) times (1 + k / 4) plus 0.01 (z + 2 y + 3 x) (k + 1) with z, y, x counted in the window.
Needs torch, numpy, monai, safetensors.
"""

import sys

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from safetensors.numpy import save_file

CASES = (  # name, volume (D, H, W), roi, overlap, gaussian, channels, outputs
    ("half", (11, 9, 13), (6, 4, 8), 0.5, 0, 2, 3),
    ("half_gaussian", (11, 9, 13), (6, 4, 8), 0.5, 1, 2, 3),
    ("quarter", (10, 12, 7), (4, 5, 4), 0.25, 0, 1, 2),
    ("three_quarters", (9, 8, 10), (4, 4, 6), 0.75, 1, 3, 1),
    ("none", (8, 9, 10), (4, 3, 5), 0.0, 0, 1, 1),
    ("small", (3, 9, 5), (6, 4, 8), 0.5, 1, 2, 2),
    ("smaller", (3, 2, 5), (6, 5, 8), 0.5, 0, 2, 2),
    ("exact", (6, 4, 8), (6, 4, 8), 0.5, 1, 2, 1),
)


def predictor(outputs):
    def run(x):
        d, h, w = x.shape[2:]
        z, y, v = torch.meshgrid(*[torch.arange(n, dtype=x.dtype) for n in (d, h, w)], indexing="ij")
        ramp = 0.01 * (z + 2 * y + 3 * v)
        return torch.stack([x[:, k % x.shape[1]] * (1 + k / 4) + ramp * (k + 1) for k in range(outputs)], 1)

    return run


def main(path):
    tensors, meta = {}, {"cases": ",".join(c[0] for c in CASES)}
    for name, dim, roi, overlap, gaussian, channels, outputs in CASES:
        x = np.random.default_rng(len(name)).standard_normal((*dim, channels)).astype(np.float32)
        y = sliding_window_inference(
            torch.tensor(x).double().permute(3, 0, 1, 2)[None],
            roi,
            3,
            predictor(outputs),
            overlap=overlap,
            mode="gaussian" if gaussian else "constant",
        )
        tensors[name + ".x"] = x
        tensors[name + ".y"] = np.ascontiguousarray(y[0].permute(1, 2, 3, 0).numpy().astype(np.float32))
        meta[name + ".roi"] = ",".join(map(str, roi))
        meta[name + ".overlap"] = repr(overlap)
        meta[name + ".gaussian"] = str(gaussian)
    save_file(tensors, path, meta)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
