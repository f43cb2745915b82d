#!/usr/bin/env python3
"""Every public layer of bmvp_nn.h in PyTorch.

    layers_reference.py DIR   writes layers.safetensors: results and gradients in double

Parameters and inputs of the fixture are given by formula (networks_reference.py), so that only results are stored. Arrays are (N, C, X, Y, Z)
in PyTorch and (N, Z, Y, X, C) in the file. Needs torch, numpy, safetensors.
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from networks_reference import parameter_value, uniform


def ours(x):
    """(N, C, X, Y, Z) -> (N, Z, Y, X, C); tokens and rows as they are."""
    return x.permute(0, 4, 3, 2, 1) if x.dim() == 5 else x


class Block(nn.Module):
    """timm's pre-norm block."""

    def __init__(self, n, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(n, hidden), nn.Linear(hidden, n)

    def forward(self, x):
        b, t, n = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, n // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2) / (n // self.heads) ** 0.5).softmax(-1) @ v
        x = x + self.attn.proj(a.transpose(1, 2).reshape(b, t, n))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class PatchEmbed(nn.Module):
    def __init__(self, c_in, c_out, p):
        super().__init__()
        self.proj, self.norm = nn.Conv3d(c_in, c_out, p, stride=p), nn.LayerNorm(c_out)

    def forward(self, x):
        return self.norm(self.proj(x).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class OverChannels(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Positions(nn.Module):
    """Learnable positions of a 2 x 3 x 4 grid, tokens X-major."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, 24, 6))

    def forward(self, x):
        return x + self.embedding.reshape(1, 2, 3, 4, 6).movedim(-1, 1)


# name, module, shape of the input; names and order as in tests/unit/test_layers.c
LAYERS = [
    ("linear", nn.Linear(6, 5), (3, 6)),
    ("linear_plain", nn.Linear(6, 5, bias=False), (3, 6)),
    ("conv", nn.Conv3d(3, 4, 3, stride=2, padding=1), (2, 3, 4, 5, 6)),
    ("conv_plain", nn.Conv3d(3, 4, 3, bias=False), (2, 3, 4, 5, 6)),
    ("pointwise", nn.Conv3d(3, 4, 1), (2, 3, 2, 3, 4)),
    ("depthwise", nn.Conv3d(4, 4, 3, padding=1, groups=4), (2, 4, 2, 3, 4)),
    ("convt", nn.ConvTranspose3d(3, 4, 2, stride=2), (2, 3, 2, 3, 4)),
    ("batchnorm", nn.BatchNorm3d(4), (2, 4, 2, 3, 4)),
    ("layernorm", OverChannels(6), (2, 6, 2, 3, 4)),
    ("groupnorm", nn.GroupNorm(2, 6), (2, 6, 2, 3, 4)),
    ("instancenorm", nn.InstanceNorm3d(4), (2, 4, 2, 3, 4)),
    ("instancenorm_affine", nn.InstanceNorm3d(4, affine=True), (2, 4, 2, 3, 4)),
    ("block", Block(8, 2, 16), (2, 5, 8)),
    ("patch", PatchEmbed(2, 6, 2), (2, 2, 4, 6, 8)),
    ("positions", Positions(), (2, 6, 2, 3, 4)),
]


def fixtures(folder):
    out = {}
    for name, module, shape in LAYERS:
        module = module.double().train()
        with torch.no_grad():
            for key, p in module.named_parameters():
                p.copy_(torch.from_numpy(parameter_value(f"{name}.{key}", tuple(p.shape))).double())
        x = torch.from_numpy((2 * uniform(f"input.{name}", int(np.prod(shape))) - 1).astype(np.float32).reshape(shape))
        x = x.double().requires_grad_()
        y = module(x)
        cotangent = 2 * uniform(f"cotangent.{name}", y.numel()) - 1
        (y * torch.from_numpy(cotangent.astype(np.float32)).double().reshape(y.shape)).sum().backward()
        out[f"{name}.y"], out[f"{name}.dx"] = ours(y.detach()), ours(x.grad)
        for key, p in module.named_parameters():
            out[f"{name}.d.{key}"] = p.grad
        for key, b in module.named_buffers():
            out[f"{name}.after.{key}"] = b.double()
    out = {k: np.ascontiguousarray(v.numpy().astype(np.float32)) for k, v in out.items()}
    save_file(out, f"{folder}/layers.safetensors")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    fixtures(sys.argv[1])
