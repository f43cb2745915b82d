"""Twin of examples/08_own_network.c: the same U-Net, trained from the same start on the same cases, and compared at its end.

    08_own_network.py START.pt    after `08_own_network START.pt`, in its folder, where own_network.pt is what came of it

Needs torch, numpy.
"""

import sys

import numpy as np
import torch
from torch import nn

EDGE, STEPS, LEVELS = 16, 60, 3
VOXELS = EDGE**3


class Level(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(width_in, width, 3, padding=1), nn.GroupNorm(4, width)
        self.conv2, self.norm2 = nn.Conv3d(width, width, 3, padding=1), nn.GroupNorm(4, width)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        w = [width << i for i in range(LEVELS)]
        self.down = nn.ModuleList([Level(w[i] if i else 1, w[i]) for i in range(LEVELS)])
        self.halve = nn.ModuleList([nn.Conv3d(w[i], w[i + 1], 2, stride=2) for i in range(LEVELS - 1)])
        self.widen = nn.ModuleList([nn.ConvTranspose3d(w[i + 1], w[i], 2, stride=2) for i in range(LEVELS - 1)])
        self.up = nn.ModuleList([Level(2 * w[i], w[i]) for i in range(LEVELS - 1)])
        self.out = nn.Conv3d(width, 1, 1)

    def forward(self, x):
        maps = []
        for i, level in enumerate(self.down):
            x = level(self.halve[i - 1](x) if i else x)
            maps.append(x)
        for i in reversed(range(len(self.up))):
            x = self.up[i](torch.cat([self.widen[i](x), maps[i]], 1))
        return self.out(x)


def torchs(volume):
    """(z, y, x) of the lesson -> (1, 1, x, y, z) of PyTorch"""
    return volume.permute(2, 1, 0)[None, None]


def make_case(number):
    """A ball somewhere in noise: image and label (z, y, x)"""
    r = number * 2654435761 % 2**32

    def draw():
        nonlocal r
        r = (r * 1664525 + 1013904223) % 2**32
        return np.float32(r >> 8) / np.float32(16777216)

    radius = np.float32(3) + np.float32(2) * draw()
    at = [np.float32(5) + np.float32(EDGE - 10) * draw() for _ in range(3)]
    z, y, x = np.meshgrid(*[np.arange(EDGE, dtype=np.float32) - a for a in at], indexing="ij")
    label = (z * z + y * y + x * x < radius * radius).astype(np.float32)
    noise = np.array([draw() for _ in range(VOXELS)]).reshape(label.shape)
    return torch.from_numpy(np.float32(0.8) * label + noise - np.float32(0.5)), torch.from_numpy(label)


net = UNet()
net.load_state_dict(torch.load(sys.argv[1], weights_only=True)["state_dict"], strict=True)
adam = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-5)
for step in range(STEPS):
    image, label = make_case(step)
    y, t = net(torchs(image)), torchs(label)
    p = torch.sigmoid(y)
    dice = 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    (dice + nn.functional.binary_cross_entropy_with_logits(y, t)).backward()
    adam.step()
    adam.zero_grad()
    if step % 10 == 0 or step == STEPS - 1:
        print(f"step {step} Dice loss {dice:.3f}")

file = torch.load("own_network.pt", weights_only=True)
names = list(net.state_dict())
net.load_state_dict(file["state_dict"], strict=True)
with torch.no_grad():
    logits = net.double()(torchs(file["example"]["input"].double()))
worst = (logits - torchs(file["example"]["logits"])).abs().max() / logits.square().mean().sqrt()
same = worst <= 1e-5 and names == list(file["state_dict"])
print(f"read back: {'the same' if same else 'OTHER'} logits")
