#!/usr/bin/env python3
"""Small files of the kind that tests/support/golden_ssl.h reads for the methods on Swin-UNETR: one step of each with losses, outputs and
gradients, in double, on MONAI's Swin-UNETR, by the formulas of ../shared/golden/ssl/README.md with another seed.

    swin_methods_reference.py DIR           writes DIR/swin_ssl.json, dae.json (DIR: tests/fixtures/methods)

Crops are 64 x 32 x 32, the least of which the last map has two tokens. Needs torch 2, numpy, monai 1.4.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F
from monai.networks.nets import SwinUNETR
from unet_methods_reference import SEED, both, fill, uniform

CROP = (2, 1, 64, 32, 32)
DROPPED = [3, 9, 0, 6, 11, 2, 7]


def swin(**more):
    return SwinUNETR(img_size=CROP[2:], in_channels=1, out_channels=1, feature_size=12, **more)


class Heads(torch.nn.Module):
    """Swin-UNETR's transformer with the heads of its self-supervision; the last map has 192 channels."""

    def __init__(self):
        super().__init__()
        self.swinViT = swin().swinViT
        self.rotation_head, self.contrastive_head = torch.nn.Linear(192, 4), torch.nn.Linear(192, 512)
        layers = []
        for i, o in ((192, 96), (96, 48), (48, 24), (24, 12), (12, 12)):
            layers += [torch.nn.Conv3d(i, o, 3, padding=1), torch.nn.InstanceNorm3d(o), torch.nn.LeakyReLU(),
                       torch.nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)]
        self.conv = torch.nn.Sequential(*layers, torch.nn.Conv3d(12, 1, 1))

    def forward(self, x):
        hidden = self.swinViT(x)
        tokens = hidden[4].flatten(2).transpose(1, 2)
        return hidden, self.rotation_head(tokens[:, 0]), self.contrastive_head(tokens[:, 1]), self.conv(hidden[4])


def contrast(a, b, temperature=0.5):
    z = F.normalize(torch.cat([a, b]))
    logits = z @ z.T / temperature - torch.diag(torch.full((len(z),), math.inf, dtype=z.dtype))
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def swin_ssl():
    def step(dtype):
        net = Heads().double()
        fill(net)
        net = net.to(dtype)
        v1, v2, t1, t2 = (uniform(n, *CROP).to(dtype) for n in ("v1", "v2", "t1", "t2"))
        hidden, rot1, con1, rec1 = net(v1)
        _, rot2, con2, rec2 = net(v2)
        parts = [F.cross_entropy(torch.cat([rot1, rot2]), torch.tensor([0, 1, 3, 2])), contrast(con1, con2),
                 (torch.cat([rec1, rec2]) - torch.cat([t1, t2])).abs().mean()]
        sum(parts).backward()
        grad = dict(net.named_parameters())
        names = ["swinViT.patch_embed.proj.weight", "swinViT.layers1.0.blocks.1.attn.relative_position_bias_table",
                 "swinViT.layers2.0.downsample.reduction.weight", "swinViT.layers4.0.blocks.0.mlp.linear1.bias",
                 "rotation_head.weight", "contrastive_head.bias", "conv.0.weight", "conv.20.weight"]
        return dict(loss=sum(parts), parts=dict(enumerate(parts)), hidden=dict(enumerate(hidden)), rot1=rot1, contrast1=con1, rec1=rec1,
                    grad={n: grad[n].grad for n in names})

    out = both(step)
    out["hidden"] = list(out["hidden"].values())
    out["parts_rot_contrast_recon"] = list(out.pop("parts").values())
    return dict(step={"in": {}, "out": out})


class Embedding(torch.nn.Module):
    """DAE's: two convolutions of 3^3 whose instance norms learn."""

    def __init__(self, n):
        super().__init__()
        conv = torch.nn.Conv3d
        self.conv1 = torch.nn.ModuleDict(dict(conv=conv(1, n, 3, stride=2, padding=1, bias=False)))
        self.conv2 = torch.nn.ModuleDict(dict(conv=conv(n, n, 3, padding=1, bias=False)))
        self.norm1, self.norm2 = torch.nn.InstanceNorm3d(n, affine=True), torch.nn.InstanceNorm3d(n, affine=True)

    def forward(self, x):
        x = F.leaky_relu(self.norm1(self.conv1["conv"](x)), 0.01)
        return F.leaky_relu(self.norm2(self.conv2["conv"](x)), 0.01)


def authors(name):
    """A parameter as DAE's code calls it."""
    if not name.startswith("swinViT."):
        return name
    name = "encoder." + name[8:].replace(".mlp.linear", ".mlp.fc")
    return name.replace(".0.", ".0.0.", 1) if ".layers" in name else name


def dae(turned):
    def step(dtype):
        net = swin(normalize=False)
        net.swinViT.patch_embed.proj = Embedding(12)
        net = net.double()
        named = torch.nn.Module()
        names = {authors(k): p for k, p in net.named_parameters()}
        named.named_parameters = lambda: names.items()
        fill(named)
        net = net.to(dtype)
        names = {authors(k): p for k, p in net.named_parameters()}
        keep = torch.ones(12, dtype=dtype)
        keep[DROPPED] = 0

        def hide(_, __, x):  # tokens (B, C, x, y, z)
            if turned:
                x = x.flatten(2).transpose(1, 2).reshape(x.shape)
            return x * keep.view(1, -1, 1, 1, 1)

        net.swinViT.patch_embed.register_forward_hook(hide)
        x, org = uniform("x", *CROP).to(dtype), uniform("org", *CROP).to(dtype)
        hidden = net.swinViT(x, False)
        rec = net(x)
        l1 = (rec - org).abs().mean()
        rows = hidden[4].flatten(1)
        cfm = F.cross_entropy(rows @ rows.T * math.exp(0.5), torch.arange(2))
        loss = l1 + 0.03 * cfm
        loss.backward()
        picked = ["encoder.patch_embed.proj.conv1.conv.weight", "encoder.layers1.0.0.blocks.0.mlp.fc1.weight",
                  "encoder2.layer.conv1.conv.weight", "decoder2.transp_conv.conv.weight", "out.conv.conv.weight"]
        return dict(loss=loss, l1=l1, cfm=cfm, rec=rec, hidden=dict(enumerate(hidden)), grad={n: names[n].grad for n in picked})

    out = both(step)
    out["hidden"] = list(out["hidden"].values())
    return {"in": dict(dropped=DROPPED), "out": out}


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, cases in (("swin_ssl", swin_ssl), ("dae", lambda: dict(step_release=dae(True), step_fixed=dae(False)))):
        with open(f"{sys.argv[1]}/{name}.json", "w") as f:
            json.dump(dict(seed=SEED, method=name, code="swin_methods_reference.py", cases=cases()), f, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
