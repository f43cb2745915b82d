#!/usr/bin/env python3
"""The networks of BrainMVP in PyTorch, written from the method's description: reference for bmvp_nn.h and bmvp_ssl.h.

    networks_reference.py fixtures DIR          writes uniformer_tiny, unet3d_tiny, uniunet_tiny,
                                                unet3d_segment_tiny, classify_uniformer_tiny, classify_unet3d_tiny, pretrain_tiny
    networks_reference.py shapes LIST...        compares names and shapes with lists of the released state dicts
    networks_reference.py release FILE.json...  runs the full-size step and compares with numbers of the released code
    networks_reference.py finetune FILE.json    the same of the fine-tuning step in double; prints each gradient's distance

Fixtures are computed in double and stored as float32 (safetensors), parameters and their gradients in PyTorch's names,
shapes and element order, activations as (N, Z, Y, X, C). Parameters and inputs are given by the formulas below (uniform,
parameter_value, volume), so that only results are stored, and of large tensors every step-th element and the norm.
Needs torch, numpy, safetensors.
"""

import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

MODALITIES = ("flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers by formula


def uniform(name, n, seed=0):
    """n numbers in [0, 1): FNV-1a of the name starts a SplitMix64 stream, 24 bits of each."""
    base = 0xCBF29CE484222325
    for byte in name.encode():
        base = (base ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64((base + seed) % 2**64) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2.0**24


def parameter_value(name, shape, seed=0):
    """Value of a tensor of the state dict, rounded to float32."""
    if name.endswith("running_mean") or name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.float32)
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    u = uniform(name, math.prod(shape), seed).reshape(shape)
    if name == "rep_template":
        return u.astype(np.float32)
    if name.endswith(".weight"):
        v = (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:])) if len(shape) >= 2 else 1 + 0.1 * (2 * u - 1)
    else:
        v = 0.1 * (2 * u - 1)
    return v.astype(np.float32)


def volume(case, slot, size):
    """Input volume of size (X, Y, Z), indexed [X][Y][Z], rounded to float32."""
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in size], indexing="ij")
    v = 0.5 + 0.25 * np.sin(0.11 * x + 0.7 * slot + 1.3 * case) + 0.25 * np.cos(0.13 * y - 0.05 * z + 0.4 * slot)
    return v.astype(np.float32)


def block_mask(number, size, block=8, seed=0):
    """1 where filled: of the aligned blocks an eighth is kept, those with the smallest uniform("mask<number>")."""
    blocks = [n // block for n in size]
    n = math.prod(blocks)
    masked = np.ones(n, np.float32)
    masked[np.argsort(uniform("mask%d" % number, n, seed), kind="stable")[: n // 8]] = 0
    return masked.reshape(blocks).repeat(block, 0).repeat(block, 1).repeat(block, 2)


# ---------------------------------------------------------------------------------------------------------------------
# UniFormer: p is the dict of parameters, note(name, tensor) sees every activation

UNIFORMER_SMALL = dict(dims=(64, 128, 320, 512), depths=(3, 4, 8, 3), head=64, chans=1)
UNIFORMER_TINY = dict(dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), head=8, chans=1)
UNIUNET = dict(UNIFORMER_SMALL, chans=4, outputs=3, prefix="encoder.")
UNIUNET_TINY = dict(UNIFORMER_TINY, chans=3, outputs=2, prefix="encoder.")
ENCODER = "encoder.uniformer."


def uniformer_shapes(cfg, task="pretrain"):
    """(name, shape) of the model without the templates, in the released order; task: pretrain, segment, classify."""
    out, dims, prefix = [], cfg["dims"], cfg.get("prefix", ENCODER)

    def layer(name, *shape):
        out.extend([(name + ".weight", shape), (name + ".bias", shape[:1])])

    def batchnorm(name, n):
        layer(name, n)
        out.extend([(name + ".running_mean", (n,)), (name + ".running_var", (n,)), (name + ".num_batches_tracked", ())])

    for i, n in enumerate(dims):
        layer(f"{prefix}patch_embed{i + 1}.proj", n, dims[i - 1] if i else cfg["chans"], 2, 2, 2)
        layer(f"{prefix}patch_embed{i + 1}.norm", n)
    for i, n in enumerate(dims):
        for j in range(cfg["depths"][i]):
            b = f"{prefix}blocks{i + 1}.{j}."
            one = (1, 1, 1) if i < 2 else ()
            layer(b + "pos_embed", n, 1, 3, 3, 3)
            if i < 2:
                batchnorm(b + "norm1", n)
                layer(b + "conv1", n, n, 1, 1, 1)
                layer(b + "conv2", n, n, 1, 1, 1)
                layer(b + "attn", n, 1, 5, 5, 5)
                batchnorm(b + "norm2", n)
            else:
                layer(b + "norm1", n)
                layer(b + "attn.qkv", 3 * n, n)
                layer(b + "attn.proj", n, n)
                layer(b + "norm2", n)
            layer(b + "mlp.fc1", 4 * n, n, *one)
            layer(b + "mlp.fc2", n, 4 * n, *one)
    batchnorm(prefix + "norm", dims[3])
    if task == "classify":
        layer("head", cfg["outputs"], dims[3])
        return out
    for k, (i, o) in zip((5, 4, 3, 2), ((3, 2), (2, 1), (1, 0), (0, 0))):
        i, o = dims[i], dims[o]
        out.append((f"decoder.decoder{k}.transp_conv.conv.weight", (i, o, 2, 2, 2)))
        out.append((f"decoder.decoder{k}.conv_block.conv1.conv.weight", (o, 2 * o, 3, 3, 3)))
        out.append((f"decoder.decoder{k}.conv_block.conv2.conv.weight", (o, o, 3, 3, 3)))
        out.append((f"decoder.decoder{k}.conv_block.conv3.conv.weight", (o, 2 * o, 1, 1, 1)))
    layer("decoder.proj1.proj", dims[0], cfg["chans"], 3, 3, 3)
    layer("decoder.proj1.norm", dims[0])
    if task == "segment":
        layer("decoder.out.conv.conv", cfg["outputs"], dims[0], 1, 1, 1)
        layer("ms_out.0", cfg["outputs"], dims[1], 1, 1, 1)
        layer("ms_out.1", cfg["outputs"], dims[0], 1, 1, 1)
    else:
        layer("decoder.out_1.conv.conv", 1, dims[0], 1, 1, 1)
    return out


class TapConv(torch.autograd.Function):
    """3^3 convolution with padding 1 of one sample, tap by tap: PyTorch's for double unfolds the input to 27 times its size."""

    @staticmethod
    def taps(x, w):
        d, h, v = x.shape[2:]
        padded = F.pad(x, (1,) * 6)
        for i in range(27):
            a, b, c = i // 9, i // 3 % 3, i % 3
            yield padded[0, :, a : a + d, b : b + h, c : c + v].reshape(x.shape[1], -1), w[:, :, a, b, c], (a, b, c)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return sum(k @ t for t, k, _ in TapConv.taps(x, w)).reshape(1, len(w), *x.shape[2:])

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        flat, gx, gw = g.reshape(g.shape[1], -1), torch.zeros_like(F.pad(x, (1,) * 6)), torch.zeros_like(w)
        d, h, v = x.shape[2:]
        for t, k, (a, b, c) in TapConv.taps(x, w):
            gw[:, :, a, b, c] = flat @ t.T
            gx[0, :, a : a + d, b : b + h, c : c + v] += (k.T @ flat).reshape(x.shape[1:])
        return gx[:, :, 1:-1, 1:-1, 1:-1].contiguous(), gw


def conv(p, name, x, **kw):
    w, b = p[name + ".weight"], p.get(name + ".bias")
    if x.dtype == torch.float64 and len(x) == 1 and w.shape[2] == 3 and kw == dict(padding=1) and x[0].numel() > 1 << 20:
        y = TapConv.apply(x.contiguous(), w)
        return y if b is None else y + b[:, None, None, None]
    return F.conv3d(x, w, b, **kw)


def linear(p, name, x):
    return F.linear(x, p[name + ".weight"], p[name + ".bias"])


def layernorm(p, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps)


def batchnorm(p, name, x, training):
    if training:
        p[name + ".num_batches_tracked"] += 1
    return F.batch_norm(
        x,
        p[name + ".running_mean"],
        p[name + ".running_var"],
        p[name + ".weight"],
        p[name + ".bias"],
        training,
        0.1,
        1e-5,
    )


def cblock(p, b, x, training):
    n = x.shape[1]
    x = x + conv(p, b + "pos_embed", x, padding=1, groups=n)
    h = conv(p, b + "conv1", batchnorm(p, b + "norm1", x, training))
    x = x + conv(p, b + "conv2", conv(p, b + "attn", h, padding=2, groups=n))
    h = conv(p, b + "mlp.fc1", batchnorm(p, b + "norm2", x, training))
    return x + conv(p, b + "mlp.fc2", F.gelu(h))


def attention(p, b, t, head):
    n, tokens, width = t.shape
    q, k, v = linear(p, b + "qkv", t).reshape(n, tokens, 3, width // head, head).permute(2, 0, 3, 1, 4)
    a = (q @ k.transpose(-2, -1) * head**-0.5).softmax(-1) @ v
    return linear(p, b + "proj", a.transpose(1, 2).reshape(n, tokens, width))


def sablock(p, b, x, head):
    x = x + conv(p, b + "pos_embed", x, padding=1, groups=x.shape[1])
    t = x.flatten(2).transpose(1, 2)
    t = t + attention(p, b + "attn.", layernorm(p, b + "norm1", t, 1e-6), head)
    h = F.gelu(linear(p, b + "mlp.fc1", layernorm(p, b + "norm2", t, 1e-6)))
    t = t + linear(p, b + "mlp.fc2", h)
    return t.transpose(1, 2).reshape(x.shape)


def uniformer_encode(p, cfg, x, training=True, note=lambda name, t: None):
    """x (N, C, X, Y, Z) -> x1..x4, each (N, C, Z, X, Y); x4 is behind the last BatchNorm."""
    maps, prefix = [], cfg.get("prefix", ENCODER)
    x = x.permute(0, 1, 4, 2, 3)
    for i in range(4):
        x = conv(p, f"{prefix}patch_embed{i + 1}.proj", x, stride=2)
        x = layernorm(p, f"{prefix}patch_embed{i + 1}.norm", x.movedim(1, -1), 1e-5).movedim(-1, 1)
        note(f"patch_embed{i + 1}", x)
        for j in range(cfg["depths"][i]):
            b = f"{prefix}blocks{i + 1}.{j}."
            x = cblock(p, b, x, training) if i < 2 else sablock(p, b, x, cfg["head"])
            note(f"blocks{i + 1}.{j}", x)
        maps.append(x)
    maps[3] = batchnorm(p, prefix + "norm", x, training)
    note("norm", maps[3])
    return maps


def uniformer_decode(p, cfg, x, note=lambda name, t: None):
    """x4 (N, C, Z, X, Y) -> reconstruction (N, 1, X, Y, Z)"""
    x = x.permute(0, 1, 3, 4, 2)
    for k in (5, 4, 3, 2):
        x = F.conv_transpose3d(x, p[f"decoder.decoder{k}.transp_conv.conv.weight"], stride=2)
        note(f"decoder{k}", x)
    return conv(p, "decoder.out_1.conv.conv", x)


def up_block(p, k, x, skip, note):
    """MONAI's UnetrUpBlock with a residual block of instance norms"""
    b = f"decoder.decoder{k}."
    x = F.conv_transpose3d(x, p[b + "transp_conv.conv.weight"], stride=2)
    x = torch.cat([x, skip], 1)
    h = F.leaky_relu(norm_each(conv(p, b + "conv_block.conv1.conv", x, padding=1)), 0.01)
    h = norm_each(conv(p, b + "conv_block.conv2.conv", h, padding=1))
    x = F.leaky_relu(h + norm_each(conv(p, b + "conv_block.conv3.conv", x)), 0.01)
    note(f"decoder{k}", x)
    return x


def norm_each(x):
    """InstanceNorm3d without affine part; as group norm, whose gradient is right in every memory format"""
    return F.group_norm(x, x.shape[1], eps=1e-5)


def uniunet_decode(p, maps, x, note=lambda name, t: None):
    """maps x1..x4 and the input x (N, C, X, Y, Z) -> logits at full, quarter and half scale, each of full size. The input skip reads
    the axes as the encoder does (Z, X, Y), the rest of the decoder (X, Y, Z)."""
    skip = conv(p, "decoder.proj1.proj", x.permute(0, 1, 4, 2, 3), padding=1)
    skip = layernorm(p, "decoder.proj1.norm", skip.movedim(1, -1), 1e-5).movedim(-1, 1)
    skips = [m.permute(0, 1, 3, 4, 2) for m in (maps[2], maps[1], maps[0], skip)]
    y, seen = maps[3].permute(0, 1, 3, 4, 2), []
    for k, s in zip((5, 4, 3, 2), skips):
        y = up_block(p, k, y, s, note)
        seen.append(y)
    scales = [
        F.interpolate(conv(p, f"ms_out.{i}", seen[1 + i]), scale_factor=f, mode="trilinear", align_corners=True)
        for i, f in ((0, 4), (1, 2))
    ]
    return conv(p, "decoder.out.conv.conv", y), scales[0], scales[1]


# ---------------------------------------------------------------------------------------------------------------------
# UNET3D

UNET3D = dict(n=32)
UNET3D_TINY = dict(n=8)


def unet3d_shapes(cfg, task="pretrain"):
    out, n = [], cfg["n"]

    def layer(name, *shape):
        out.extend([(name + ".weight", shape), (name + ".bias", shape[:1])])

    def block(name, w):
        for i in "12":
            layer(f"{name}.gn{i}", w)
            layer(f"{name}.conv{i}", w, w, 3, 3, 3)

    layer("conv1a", n, cfg.get("chans", 1), 3, 3, 3)
    block("conv1b", n)
    for i, letters in ((2, "ab"), (3, "ab"), (4, "abcd")):
        w = n << i - 1
        layer(f"ds{i - 1}", w, w // 2, 3, 3, 3)
        for letter in letters:
            block(f"conv{i}{letter}", w)
    if task == "classify":
        layer("head", cfg["outputs"], 8 * n)
        return out
    for i in (4, 3, 2):
        w = n << i - 2
        layer(f"up{i}conva", w, 2 * w, 1, 1, 1)
        block(f"up{i}convb", w)
    layer("up1conv", cfg.get("outputs", 1), n, 1, 1, 1)
    return out


def resblock(p, b, x):
    h = x
    for i in "12":
        h = F.group_norm(h, 8, p[f"{b}.gn{i}.weight"], p[f"{b}.gn{i}.bias"], 1e-5)
        h = conv(p, f"{b}.conv{i}", F.relu(h), padding=1)
    return x + h


def unet3d_encode(p, cfg, x, note=lambda name, t: None):
    """x (N, 1, X, Y, Z) -> outputs of the four levels, finest (full size) first"""
    x = conv(p, "conv1a", x, padding=1)
    note("conv1a", x)
    levels = []
    for i, letters in ((1, "b"), (2, "ab"), (3, "ab"), (4, "abcd")):
        if i > 1:
            x = conv(p, f"ds{i - 1}", x, stride=2, padding=1)
            note(f"ds{i - 1}", x)
        for letter in letters:
            x = resblock(p, f"conv{i}{letter}", x)
            note(f"conv{i}{letter}", x)
        levels.append(x)
    return levels


def unet3d_decode(p, cfg, levels, skips, note=lambda name, t: None):
    """skips: fine-tuning adds the encoder's levels, pre-training does not"""
    x = levels[3]
    for i in (4, 3, 2):
        x = F.interpolate(conv(p, f"up{i}conva", x), scale_factor=2, mode="nearest")
        if skips:
            x = x + levels[i - 2]
        x = resblock(p, f"up{i}convb", x)
        note(f"up{i}convb", x)
    return conv(p, "up1conv", x)


# ---------------------------------------------------------------------------------------------------------------------
# Pre-training step


def contrast(f, g, tau=1.0):
    f, g = F.normalize(f.flatten(1), dim=1), F.normalize(g.flatten(1), dim=1)
    logits, target = f @ g.T / tau, torch.arange(len(f), device=f.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Pretrain:
    """Two views (template views first) through encoder and decoder; the release's normalised template."""

    def __init__(self, model, cfg, p, size, batch, starts, seed=0):
        self.model, self.cfg, self.p, self.starts, self.batch, self.size = model, cfg, p, starts, batch, size
        kind = p["template"].dtype
        self.x = torch.tensor(np.stack([volume(b, 1, size) for b in range(batch)])).to(kind)
        self.other = torch.tensor(np.stack([volume(b, 3, size) for b in range(batch)])).to(kind)
        self.mask = torch.tensor(np.stack([block_mask(c, size, seed=seed) for c in range(2 * batch)])).to(kind)

    def views(self):
        t, s = self.p["template"], self.size
        t = (t - t.min()) / (t.max() - t.min() + 1e-9)
        crops = torch.stack([t[a : a + s[0], b : b + s[1], c : c + s[2]] for a, b, c in self.starts])
        fill = torch.cat([crops, self.other])
        return torch.where(self.mask > 0, fill, torch.cat([self.x, self.x]))[:, None]

    def forward(self, note=lambda name, t: None):
        views = self.views()
        if self.model == "uniformer":
            maps = uniformer_encode(self.p, self.cfg, views, True, note)
            rec = uniformer_decode(self.p, self.cfg, maps[3], note)
        else:
            maps = unet3d_encode(self.p, self.cfg, views, note)
            rec = unet3d_decode(self.p, self.cfg, maps, False, note)
        losses = dict(
            loss_template_view=F.mse_loss(rec[: self.batch, 0], self.x),
            loss_modal_view=F.mse_loss(rec[self.batch :, 0], self.x),
            loss_contrast=contrast(maps[3][: self.batch], maps[3][self.batch :]),
        )
        losses["loss"] = 10 * losses["loss_template_view"] + losses["loss_modal_view"] + losses["loss_contrast"]
        return losses, maps, rec


def parameters(shapes, dtype, seed=0):
    p = {name: torch.tensor(parameter_value(name, shape, seed)).to(dtype) for name, shape in shapes}
    for name, t in p.items():
        t.requires_grad_(not name.rsplit(".", 1)[-1].startswith(("running_", "num_")))
    return p


# ---------------------------------------------------------------------------------------------------------------------
# Comparison with the released code


def check_shapes(path):
    rows = [line.rstrip("\n").split("\t") for line in open(path) if not line.startswith("#")]
    want = [(r[0], tuple(int(v) for v in r[1].strip("()").split(",") if v.strip())) for r in rows]
    names = {name for name, _ in want}
    if "conv1a.weight" in names:
        have = unet3d_shapes(UNET3D)
    else:
        have = uniformer_shapes(UNIUNET, "segment") if "ms_out.0.weight" in names else uniformer_shapes(UNIFORMER_SMALL)
    want = [row for row in want if row[0] != "rep_template"]
    bad = [(w, h) for w, h in zip(want, have) if w != h]
    print(
        "%s: %d entries, %s"
        % (path, len(want), "equal" if not bad and len(want) == len(have) else "DIFFERENT %s" % bad[:3])
    )


def worst_sample(s, t):
    """Largest difference to a stored sample in units of the tensor's root mean square"""
    v = t.detach().reshape(-1)[torch.tensor(s["index"])].double().numpy()
    rms = s["l2"] / math.sqrt(max(math.prod(s["shape"]), 1))
    assert list(t.shape) == s["shape"], (tuple(t.shape), s["shape"])
    return float(np.max(np.abs(v - np.array(s["value"])))) / max(rms, 1e-30)


def adamw(p):
    trained = [t for t in p.values() if t.requires_grad]
    return torch.optim.AdamW(trained, lr=3e-4, weight_decay=1e-5)


def check_release(path):
    gold = json.load(open(path))
    unet = "c1" in gold["features"]
    shapes = unet3d_shapes(UNET3D) if unet else uniformer_shapes(UNIFORMER_SMALL)
    p = parameters(shapes, torch.float32, gold["seed"])
    n = 240 * 240 * 155
    p["template"] = torch.tensor(
        uniform("rep_template", 2 * n, gold["seed"])[n:].reshape(240, 240, 155).astype(np.float32)
    )
    p["template"].requires_grad_(True)
    step = Pretrain(
        "unet3d" if unet else "uniformer",
        UNET3D if unet else UNIFORMER_SMALL,
        p,
        (96, 96, 96),
        gold["batch"],
        [(72, 60, 20), (50, 80, 30)][: gold["batch"]],
        gold["seed"],
    )
    optimizer = adamw(p)
    for i, g in enumerate(gold["steps"]):
        optimizer.zero_grad()
        seen = {}
        losses, maps, rec = step.forward(seen.__setitem__)
        for name, value in losses.items():
            print(
                "step %d %-20s %.9g  golden %.9g  relative %.1e"
                % (i, name, value, g[name], abs(float(value) / (g[name] or 1) - 1))
            )
        losses["loss"].backward()
        if i == 0:
            maps = (
                dict(c1=seen["ds1"], c2=seen["ds2"], c3=seen["ds3"], c4=maps[3], rec=rec)
                if unet
                else dict(x1=maps[0], x2=maps[1], x3=maps[2], x4=maps[3], rec=rec)
            )
            check_first_step(gold, g, p, maps, step)
        optimizer.step()
        if i == 0:
            worst = [(worst_sample(s, p[name]), name) for name, s in g["param_after"].items() if name in p]
            print("parameters after: %d compared, worst %s" % (len(worst), sorted(worst)[-3:]))


def check_first_step(gold, g, p, maps, step):
    for name, s in gold["features"].items():
        print("feature %-3s %s worst %.1e" % (name, s["shape"], worst_sample(s, maps[name])))
    worst = [
        (worst_sample(s, p[name].grad), name) for name, s in g["grad"].items() if name in p and p[name].grad is not None
    ]
    print("gradients: %d compared, worst %s" % (len(worst), sorted(worst)[-3:]))
    a, b, c = step.starts[0]
    print(
        "template gradient %.1e"
        % worst_sample(g["grad_template_t1_crop0"], p["template"].grad[a : a + 96, b : b + 96, c : c + 96])
    )
    worst = [(worst_sample(s, p[name]), name) for name, s in g["bn_after"].items() if not name.endswith("tracked")]
    print("batch statistics: %d compared, worst %s" % (len(worst), sorted(worst)[-3:]))


def release_loss(logits, target):
    """0.7 soft Dice (squares, smooth 1; each channel's sums over the whole batch, mean over channels) + 0.3 binary cross-entropy"""
    q, axes = logits.sigmoid(), (0, 2, 3, 4)
    dice = 1 - (2 * (q * target).sum(axes) + 1) / ((q**2).sum(axes) + (target**2).sum(axes) + 1)
    return 0.7 * dice.mean() + 0.3 * F.binary_cross_entropy_with_logits(logits, target)


def finetune_inputs(dtype):
    size = (96, 96, 96)
    copy1 = np.stack([volume(0, m, size) for m in range(4)])
    copy2 = copy1.copy()
    copy2[2] = volume(5, 2, size)
    x, y, z = np.meshgrid(*[np.arange(96)] * 3, indexing="ij")
    target = np.stack(
        [(x - 40 - 4 * r) ** 2 + (y - 50) ** 2 + (z - 44) ** 2 < (14 + 6 * r) ** 2 for r in range(3)]
    ).astype(np.float64)
    return [torch.tensor(c)[None].to(dtype) for c in (copy1, copy2)], torch.tensor(target)[None].to(dtype)


def check_finetune(path, keep=None):
    """In double. The loss's gradient at the logits of both copies comes first, then one copy after the other goes backward: half the
    memory. keep: a file for the gradients at the sampled places."""
    gold = json.load(open(path))
    p = parameters(uniformer_shapes(UNIUNET, "segment"), torch.float64, gold["seed"])
    copies, target = finetune_inputs(torch.float64)

    def logits(x):
        return uniunet_decode(p, uniformer_encode(p, UNIUNET, x), x)

    with torch.no_grad():
        seen = [[t.requires_grad_() for t in logits(x)] for x in copies]
    both = target.expand(2, -1, -1, -1, -1)
    scales = [release_loss(torch.cat(pair), both) for pair in zip(*seen)]
    loss = sum(scales) + 0.1 * F.mse_loss(seen[0][1], seen[1][1])
    loss.backward()
    print("loss %.9g, golden %.9g" % (loss, gold["loss"]))
    print("logits full %.1e, quarter %.1e" % (
        worst_sample(gold["logits_full_copy1"], seen[0][0]), worst_sample(gold["logits_quarter_copy1"], seen[0][1])))
    for x, at in zip(copies, seen):
        torch.autograd.backward(logits(x), [t.grad for t in at])
    worst = sorted((worst_sample(s, p[name].grad), name) for name, s in gold["grad"].items())
    for distance, name in worst:
        print("%.2e %s" % (distance, name))
    if keep:
        save_file({n: p[n].grad.numpy().reshape(-1)[s["index"]] for n, s in gold["grad"].items()}, keep)


# ---------------------------------------------------------------------------------------------------------------------
# Fixtures


class Samples:
    """Tensors thinned to every step-th element, with the step and the l2 norm of the whole in the metadata."""

    def __init__(self):
        self.tensors, self.meta = {}, {}

    def add(self, name, t, limit):
        v = t.detach().contiguous().reshape(-1).double().numpy()
        step = max(1, -(-len(v) // limit))
        step += step > 1 and step % 2 == 0  # odd: every channel of a channels-last tensor is met
        self.tensors[name] = v[::step].astype(np.float32)
        self.meta[name + ".step"] = str(step)
        self.meta[name + ".l2"] = "%.9g" % np.sqrt((v**2).sum())

    def save(self, path):
        save_file(self.tensors, path, self.meta)


def cotangent(name, t):
    """Random weights of a tensor's elements in our order, of norm about 1/2"""
    u = uniform("cotangent." + name, t.numel()).reshape(tuple(t.shape))
    return torch.tensor(((2 * u - 1) / math.sqrt(t.numel())).astype(np.float32)).to(t.dtype)


def zxy_to_ours(x):
    """(N, C, Z, X, Y) -> (N, Z, Y, X, C)"""
    return x.permute(0, 2, 4, 3, 1)


def xyz_to_ours(x):
    """(N, C, X, Y, Z) -> (N, Z, Y, X, C)"""
    return x.permute(0, 4, 3, 2, 1)


def network_fixture(path, shapes, size, batch, run, text, chans=1):
    """run(p, x, training, note) -> {name: tensor in our order}; loss = sum of all outputs times their cotangents"""
    f = Samples()
    f.meta.update(text, size=",".join(map(str, size)), batch=str(batch))
    p = parameters(shapes, torch.float64)
    x = np.stack([np.stack([volume(b, b + m, size) for m in range(chans)]) for b in range(batch)])
    x = torch.tensor(x).double()
    outputs = run(p, x, True, lambda name, t: f.add("act." + name, t, 1024))
    for name, t in outputs.items():
        f.add("out." + name, t, 1024)
    loss = sum((t * cotangent(name, t)).sum() for name, t in outputs.items())
    f.meta["loss"] = "%.9g" % float(loss)
    loss.backward()
    for name, t in p.items():
        if t.grad is not None:
            f.add("grad." + name, t.grad, 512)
        elif "running" in name:
            f.add("after." + name, t, 512)
    with torch.no_grad():
        for name, t in run(p, x, False, lambda name, t: None).items():
            f.add("eval." + name, t, 512)
    f.save(path)


def uniformer_fixture(path):
    def run(p, x, training, note):
        def ours(name, t):
            note(name, xyz_to_ours(t) if name.startswith("decoder") else zxy_to_ours(t))

        maps = uniformer_encode(p, cfg, x, training, ours)
        rec = uniformer_decode(p, cfg, maps[3], ours)
        return dict({"x%d" % (i + 1): zxy_to_ours(m) for i, m in enumerate(maps)}, rec=xyz_to_ours(rec))

    cfg = UNIFORMER_TINY
    network_fixture(
        path,
        uniformer_shapes(cfg),
        (32, 48, 16),
        2,
        run,
        dict(dims=",".join(map(str, cfg["dims"])), depths=",".join(map(str, cfg["depths"])), head=str(cfg["head"])),
    )


def unet3d_fixture(path):
    def run(p, x, training, note):
        seen = {}

        def ours(name, t):
            seen[name] = xyz_to_ours(t)
            note(name, seen[name])

        levels = unet3d_encode(p, UNET3D_TINY, x, ours)
        rec = unet3d_decode(p, UNET3D_TINY, levels, False, ours)
        return dict(c1=seen["ds1"], c2=seen["ds2"], c3=seen["ds3"], c4=seen["conv4d"], rec=xyz_to_ours(rec))

    network_fixture(
        path, unet3d_shapes(UNET3D_TINY), (16, 24, 8), 2, run, dict(width=str(UNET3D_TINY["n"]))
    )


def uniformer_text(cfg, **more):
    return dict(
        dims=",".join(map(str, cfg["dims"])), depths=",".join(map(str, cfg["depths"])), head=str(cfg["head"]), **more
    )


def uniunet_fixture(path):
    def run(p, x, training, note):
        def ours(name, t):
            note(name, xyz_to_ours(t) if name.startswith("decoder") else zxy_to_ours(t))

        maps = uniformer_encode(p, UNIUNET_TINY, x, training, ours)
        logits = uniunet_decode(p, maps, x, ours)
        return {name: xyz_to_ours(t) for name, t in zip(("full", "quarter", "half"), logits)}

    cfg = UNIUNET_TINY
    text = uniformer_text(cfg, chans=str(cfg["chans"]), outputs=str(cfg["outputs"]))
    network_fixture(path, uniformer_shapes(cfg, "segment"), (32, 48, 16), 2, run, text, cfg["chans"])


def unet3d_segment_fixture(path):
    def run(p, x, training, note):
        levels = unet3d_encode(p, cfg, x, lambda name, t: note(name, xyz_to_ours(t)))
        return dict(full=xyz_to_ours(unet3d_decode(p, cfg, levels, True, lambda name, t: note(name, xyz_to_ours(t)))))

    cfg = dict(UNET3D_TINY, chans=3, outputs=2)
    text = dict(width=str(cfg["n"]), chans="3", outputs="2")
    network_fixture(path, unet3d_shapes(cfg, "segment"), (16, 24, 8), 2, run, text, 3)


def classify_fixture(path, unet):
    def run(p, x, training, note):
        last = unet3d_encode(p, cfg, x)[3] if unet else uniformer_encode(p, cfg, x, training)[3]
        return dict(logits=linear(p, "head", last.mean((2, 3, 4))))

    cfg = dict(UNET3D_TINY, chans=3, outputs=4) if unet else dict(UNIUNET_TINY, outputs=4)
    shapes = (unet3d_shapes if unet else uniformer_shapes)(cfg, "classify")
    text = dict(width=str(cfg["n"])) if unet else uniformer_text(cfg)
    text.update(chans="3", outputs="4")
    network_fixture(path, shapes, (16, 24, 8) if unet else (32, 48, 16), 2, run, text, 3)


def pretrain_steps(dtype, steps, size, whole, starts):
    """Yields (step, losses, parameters) after each backward, before the optimizer moves."""
    p = parameters(uniformer_shapes(UNIFORMER_TINY), dtype)
    n = math.prod(whole)
    p["template"] = (
        torch.tensor(uniform("rep_template", 2 * n)[n:].reshape(whole).astype(np.float32))
        .to(dtype)
        .requires_grad_(True)
    )
    step = Pretrain("uniformer", UNIFORMER_TINY, p, size, len(starts), starts)
    optimizer = adamw(p)
    for i in range(steps):
        optimizer.zero_grad()
        losses, _, _ = step.forward()
        losses["loss"].backward()
        yield losses, p
        optimizer.step()


def pretrain_fixture(path):
    """Ten steps of the whole method on the tiny UniFormer: release weights, normalised template, AdamW."""
    size, whole, starts = (32, 32, 32), (40, 52, 36), [(3, 4, 2), (8, 0, 1)]
    f = Samples()
    f.meta.update(
        size="32,32,32", template="40,52,36", start0="3,4,2", start1="8,0,1", batch="2", steps="10", lr="3e-4"
    )
    names = ("loss_template_view", "loss_modal_view", "loss_contrast", "loss")
    curve = []
    for losses, p in pretrain_steps(torch.float64, 10, size, whole, starts):
        curve.append([float(losses[name].detach()) for name in names])
        if len(curve) == 1:
            f.add("grad.template", p["template"].grad.permute(2, 1, 0), 4096)
            for name in (
                ENCODER + "patch_embed1.proj.weight",
                ENCODER + "blocks3.0.attn.qkv.weight",
                "decoder.out_1.conv.conv.weight",
            ):
                f.add("grad." + name, p[name].grad, 512)
    f.tensors["losses"] = np.array(curve, np.float32)
    for name, t in p.items():
        if t.requires_grad and t.grad is not None:
            f.add("after." + name, t.permute(2, 1, 0) if name == "template" else t, 256)
        elif "running" in name:
            f.add("after." + name, t, 256)
    f.save(path)
    single = [
        [float(losses[name].detach()) for name in names]
        for losses, _ in pretrain_steps(torch.float32, 10, size, whole, starts)
    ]
    print(
        "pretrain: losses",
        ["%.5f" % row[3] for row in curve],
        "float32 differs by %.1e" % np.abs(np.array(single) / curve - 1).max(),
    )


def main(argv):
    torch.set_num_threads(2)
    if argv[1:2] == ["shapes"]:
        for path in argv[2:]:
            check_shapes(path)
    elif argv[1:2] == ["release"]:
        for path in argv[2:]:
            check_release(path)
    elif argv[1:2] == ["finetune"]:
        check_finetune(*argv[2:])
    elif argv[1:2] == ["fixtures"] and len(argv) == 3:
        os.makedirs(argv[2], exist_ok=True)
        uniformer_fixture(os.path.join(argv[2], "uniformer_tiny.safetensors"))
        unet3d_fixture(os.path.join(argv[2], "unet3d_tiny.safetensors"))
        uniunet_fixture(os.path.join(argv[2], "uniunet_tiny.safetensors"))
        unet3d_segment_fixture(os.path.join(argv[2], "unet3d_segment_tiny.safetensors"))
        classify_fixture(os.path.join(argv[2], "classify_uniformer_tiny.safetensors"), False)
        classify_fixture(os.path.join(argv[2], "classify_unet3d_tiny.safetensors"), True)
        pretrain_fixture(os.path.join(argv[2], "pretrain_tiny.safetensors"))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv)
