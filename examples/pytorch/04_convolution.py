"""Twin of examples/04_convolution.c: F.conv3d of the same numbers. Needs torch, numpy."""

import numpy as np
import torch
import torch.nn.functional as F

E, CI, CO, K = 16, 16, 16, 3


def fill(n, salt):
    return ((np.arange(n, dtype=np.int64) * 7919 + salt * 104729) % 2003).astype(np.float32) / np.float32(1001.5) - 1


# (z, y, x, channel) and (kz, ky, kx, in, out) there; (N, C, z, y, x) and (out, in, kz, ky, kx) here
x = torch.from_numpy(fill(E**3 * CI, 1).reshape(E, E, E, CI)).permute(3, 0, 1, 2)[None]
w = torch.from_numpy(fill(K**3 * CI * CO, 2).reshape(K, K, K, CI, CO)).permute(4, 3, 0, 1, 2)
y = F.conv3d(x, w, padding=1)[0].permute(1, 2, 3, 0)
middle = E // 2
squares = y.double().pow(2).sum()
print(f"y at the first voxel {y[0, 0, 0, 0]:.4f} and in the middle {y[middle, middle, middle, 0]:.4f}, sum of squares {squares:.0f}")
