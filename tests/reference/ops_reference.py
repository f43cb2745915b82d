#!/usr/bin/env python3
"""Reference values of every op of bmvp_tensor.h, from PyTorch in double precision.

    ops_reference.py DIR        writes DIR/<op>.safetensors, read by tests/unit/test_tensor.c

Tensors are named <case>.<operand>, <case>.gy (a random cotangent), <case>.y and <case>.g<operand> (gradients), float32
of the double results, in the layouts of bmvp_tensor.h: activations (N, D, H, W, C), weights (in, out), (kd, kh, kw,
in / groups, out) and so on. __metadata__ holds `cases`, and for each case its attributes and <case>.tol: the allowance of
a test is tol times (root mean square of the tensor + |value|). Inputs are rounded to float32 before anything is computed.
Needs torch, numpy, safetensors.
"""

import os
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

FILES = {}  # op -> (tensors, metadata)
POINTWISE, SUMS, LONG = 4e-6, 1e-5, 4e-5  # tol: a few roundings; sums of tens of terms; of hundreds, or of differences


def text(value):
    return ",".join(repr(v) for v in value) if isinstance(value, (list, tuple)) else repr(value)


def case(op, name, fn, inputs, attrs=None, tol=POINTWISE, fixed=(), after=()):
    """Runs fn(**inputs) in double, and its backward from a random cotangent. fixed: inputs without gradient; after: inputs
    that fn changes, stored again under <name>_after."""
    rng = np.random.default_rng(zlib.crc32((op + "." + name).encode()))
    tensors, meta = FILES.setdefault(op, ({}, {"cases": ""}))
    meta["cases"] += ("," if meta["cases"] else "") + name
    meta[name + ".tol"] = repr(tol)
    for key, value in (attrs or {}).items():
        meta[f"{name}.{key}"] = text(value)
    given = {}
    for key, value in inputs.items():
        array = rng.standard_normal(value) if isinstance(value, tuple) else np.array(value)
        tensors[f"{name}.{key}"] = array.astype(np.float32)
        given[key] = torch.tensor(tensors[f"{name}.{key}"].astype(np.float64), requires_grad=key not in fixed)
    y = fn(**given)
    cotangent = rng.standard_normal(tuple(y.shape) or (1,)).astype(np.float32)
    y.backward(torch.tensor(cotangent.astype(np.float64)).reshape(y.shape))
    tensors[name + ".gy"] = cotangent
    tensors[name + ".y"] = y.detach().numpy().reshape(cotangent.shape).astype(np.float32)
    for key, value in given.items():
        if key in after:
            tensors[f"{name}.{key}_after"] = value.detach().numpy().astype(np.float32)
        if value.requires_grad:
            tensors[f"{name}.g{key}"] = value.grad.numpy().astype(np.float32)


def rand(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def to_torch(x):
    """(N, D, H, W, C) -> (N, C, D, H, W)"""
    return x.movedim(-1, 1)


def from_torch(x):
    return x.movedim(1, -1)


# ---------------------------------------------------------------------------------------------------------------------


def pointwise():
    for op, fn in (("add", lambda a, b: a + b), ("mul", lambda a, b: a * b)):
        case(op, "same", fn, dict(a=(2, 3, 37), b=(2, 3, 37)))
        case(op, "channel", fn, dict(a=(5, 3, 19), b=(19,)), tol=SUMS)
        case(op, "channel_long", fn, dict(a=(401, 3), b=(3,)), tol=LONG)
        case(op, "number", fn, dict(a=(7, 11), b=(1,)), tol=SUMS)
        case(op, "row", fn, dict(a=(5, 3, 7, 19), b=(3, 7, 19)), tol=SUMS)
        case(op, "row_of_one", fn, dict(a=(3, 4, 23), b=(1, 4, 23)), tol=SUMS)
    case("sub", "same", lambda a, b: a - b, dict(a=(2, 3, 37), b=(2, 3, 37)))
    case("sub", "channel", lambda a, b: a - b, dict(a=(5, 3, 19), b=(19,)), tol=SUMS)
    case("sub", "number", lambda a, b: a - b, dict(a=(7, 11), b=(1,)), tol=SUMS)
    for name, a, b in (("same", (2, 3, 37), (2, 3, 37)), ("channel", (5, 3, 19), (19,)), ("number", (7, 11), (1,))):
        below = rand(41, *b)
        below += 0.4 * np.sign(below)
        case("div", name, lambda a, b: a / b, dict(a=a, b=below), tol=SUMS)
    zeros = rand(42, 5, 31)
    zeros[1, :7] = 0
    above = 0.02 + np.abs(rand(43, 5, 31))
    case("abs", "plain", torch.abs, dict(x=zeros))
    case("sqrt", "plain", torch.sqrt, dict(x=above))
    case("exp", "plain", torch.exp, dict(x=2 * rand(44, 5, 31)), tol=SUMS)
    case("natural_log", "plain", torch.log, dict(x=above))
    ends = rand(45, 5, 31)
    ends[2, :9], ends[3, :9] = -0.5, 0.75
    case("clamp", "ends", lambda x: x.clamp(-0.5, 0.75), dict(x=ends), dict(low=-0.5, high=0.75))
    case("clamp", "above", lambda x: x.clamp(min=-0.5), dict(x=ends), dict(low=-0.5, high=float("inf")))
    case("scale", "plain", lambda x: -1.75 * x + 0.3, dict(x=(3, 41)), dict(factor=-1.75, offset=0.3))
    case("relu", "plain", lambda x: F.relu(x), dict(x=(3, 41)))
    case("relu", "leaky", lambda x: F.leaky_relu(x, 0.01), dict(x=(3, 41)), dict(slope=0.01))
    case("sigmoid", "plain", torch.sigmoid, dict(x=(5, 53)))
    case("sigmoid", "wide", torch.sigmoid, dict(x=np.linspace(-95, 95, 39)))
    case("gelu", "plain", lambda x: F.gelu(x), dict(x=(5, 53)))
    case("gelu", "wide", lambda x: F.gelu(x), dict(x=np.linspace(-12, 12, 97)))
    case("softmax", "rows", lambda x: x.softmax(-1), dict(x=(3, 2, 19)), tol=SUMS)
    case("softmax", "long", lambda x: x.softmax(-1), dict(x=(2, 217)), tol=SUMS)
    case("softmax", "large", lambda x: x.softmax(-1), dict(x=100 * rand(1, 4, 7)), tol=5 * LONG)
    case("softmax", "one", lambda x: x.softmax(-1), dict(x=(3, 1)))
    x = rand(2, 5, 23)
    x[2] *= 0.01
    for name, eps in (("plain", 1e-12), ("clamped", 0.5)):
        case("l2_normalize", name, lambda x: F.normalize(x, dim=-1, eps=eps), dict(x=x), dict(eps=eps), tol=SUMS)
    case("l2_normalize", "long", lambda x: F.normalize(x, dim=-1), dict(x=(2, 1201)), dict(eps=1e-12), tol=SUMS)


def shapes():
    case("reshape", "plain", lambda x: x.reshape(5, 12), dict(x=(3, 4, 5)), dict(shape=[5, 12]))
    for name, shape, axes in (
        ("four", (2, 3, 4, 5), (0, 3, 1, 2)),
        ("turn", (7, 3), (1, 0)),
        ("last_stays", (3, 5, 2, 19), (2, 0, 1, 3)),
        ("seven", (2, 3, 2, 2, 3, 2, 3), (0, 1, 4, 2, 5, 3, 6)),
    ):
        case("permute", name, lambda x: x.permute(axes), dict(x=shape), dict(axes=axes))
    for name, shape, shift in (
        ("window", (2, 5, 4, 7, 3), (0, -3, -2, -3, 0)),
        ("all", (3, 4, 5), (1, -6, 12)),
        ("not", (2, 3), (0, 0)),
    ):
        case("roll", name, lambda x: x.roll(shift, tuple(range(len(shape)))), dict(x=shape), dict(shift=shift))
    for name, axis, start, length in (("first", 0, 1, 2), ("middle", 1, 2, 4), ("last", 2, 3, 2)):
        case(
            "slice",
            name,
            lambda x: x.narrow(axis, start, length),
            dict(x=(3, 7, 5)),
            dict(axis=axis, start=start, length=length),
        )
    for name, shape, low, high in (
        ("three", (2, 3, 5), (1, 0, 2), (0, 3, 1)),
        ("volume", (1, 2, 3, 2, 3), (0, 1, 1, 1, 0), (0, 0, 1, 2, 0)),
    ):
        widths = [w for pair in reversed(list(zip(low, high))) for w in pair]
        case("pad", name, lambda x: F.pad(x, widths), dict(x=shape), dict(low=low, high=high))
    case(
        "concat",
        "channels",
        lambda a, b: torch.cat([a, b], 4),
        dict(a=(2, 2, 3, 2, 5), b=(2, 2, 3, 2, 3)),
        dict(axis=4),
    )
    case(
        "concat",
        "three",
        lambda a, b, d: torch.cat([a, b, d], 1),
        dict(a=(3, 1, 4), b=(3, 5, 4), d=(3, 2, 4)),
        dict(axis=1),
    )
    case("concat", "batch", lambda a, b: torch.cat([a, b], 0), dict(a=(1, 3), b=(2, 3)), dict(axis=0))
    case("concat", "alone", lambda a: a * 1, dict(a=(2, 3)), dict(axis=1))
    for factor in (2, 3):
        case(
            "upsample_nearest",
            "by%d" % factor,
            lambda x: from_torch(F.interpolate(to_torch(x), scale_factor=factor, mode="nearest")),
            dict(x=(2, 2, 3, 1, 5)),
            dict(factor=factor),
            tol=SUMS,
        )

    for name, shape, factor, corners in (
        ("two", (2, 2, 3, 1, 5), 2, False),
        ("two_corners", (2, 2, 3, 1, 5), 2, True),
        ("four_corners", (1, 3, 2, 5, 3), 4, True),
        ("four", (1, 3, 2, 5, 3), 4, False),
        ("three", (1, 1, 4, 7, 19), 3, False),
        ("one_corners", (1, 2, 3, 2, 3), 1, True),
    ):
        case(
            "upsample_trilinear",
            name,
            lambda x: from_torch(
                F.interpolate(to_torch(x), scale_factor=factor, mode="trilinear", align_corners=corners)
            ),
            dict(x=shape),
            dict(factor=factor, corners=int(corners)),
            tol=SUMS,
        )

    def space_to_depth(x, b):
        n, d, h, w, c = x.shape
        x = x.reshape(n, d // b, b, h // b, b, w // b, b, c)
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(n, d // b, h // b, w // b, b**3 * c)

    for block, shape in ((2, (2, 4, 2, 6, 3)), (3, (1, 3, 6, 3, 5)), (1, (1, 2, 3, 2, 3))):
        case("space_to_depth", "by%d" % block, lambda x: space_to_depth(x, block), dict(x=shape), dict(block=block))


def places():
    for name, shape, size in (("three", (2, 4, 3, 5, 2), 3), ("nine", (1, 7, 12, 10, 1), 9), ("one", (1, 2, 3, 2, 3), 1)):

        def box(x):
            c = x.shape[-1]
            ones = torch.ones(c, 1, size, size, size, dtype=x.dtype)
            return from_torch(F.conv3d(to_torch(x), ones, padding=size // 2, groups=c))

        case("box_sum3d", name, box, dict(x=shape), dict(size=size), tol=LONG)

    def grid_sample(x, position):
        scale = torch.tensor([2 / (n - 1) for n in x.shape[1:4]], dtype=x.dtype)
        grid = (position * scale - 1).flip(-1)
        return from_torch(F.grid_sample(to_torch(x), grid, "bilinear", "zeros", align_corners=True))

    for name, shape, to, margin in (
        ("plain", (1, 4, 3, 5, 2), (3, 4, 2), 1.5),
        ("far", (2, 3, 4, 2, 3), (4, 3, 5), 6.0),
        ("inside", (1, 9, 6, 7, 1), (5, 7, 6), -0.01),
    ):
        size = np.array(shape[1:4])
        inside = np.random.default_rng(48).random((shape[0],) + to + (3,))
        position = inside * (size - 1 + 2 * margin) - margin
        case("grid_sample3d", name, grid_sample, dict(x=shape, position=position), tol=SUMS)


def rows():
    for name, shape, index in (
        ("repeats", (5, 3), [4, 0, 4, 2, 4]),
        ("turn", (2, 3, 8), [5, 4, 3, 2, 1, 0]),
        ("one", (2, 7, 19), [13]),
    ):
        case(
            "gather_rows",
            name,
            lambda x: x.flatten(0, -2).index_select(0, torch.tensor(index)),
            dict(x=shape),
            dict(index=index),
            tol=SUMS,
        )
    for name, shape, mask in (
        ("plain", (2, 3, 5), [0, 1, 1, 0, 1, 0]),
        ("all", (3, 8), [1, 1, 1]),
        ("none", (3, 4), [0, 0, 0]),
        ("wide", (2, 4, 33), [1, 0, 0, 1, 1, 0, 0, 1]),
    ):
        chosen = torch.tensor(mask).reshape(shape[:-1] + (1,)) > 0
        case(
            "where_rows",
            name,
            lambda x, row: torch.where(chosen, row, x),
            dict(x=shape, row=shape[-1:]),
            dict(mask=mask),
            tol=SUMS,
        )


def reductions():
    for op, fn in (("sum", lambda x: x.sum()), ("mean", lambda x: x.mean())):
        case(op, "plain", fn, dict(x=(3, 5, 7)), tol=SUMS)
        case(op, "long", fn, dict(x=0.3 + rand(3, 3, 3001)), tol=SUMS)
        case(op, "one", fn, dict(x=(1,)))
    case("mse", "plain", F.mse_loss, dict(input=(3, 5, 7), target=(3, 5, 7)), tol=SUMS)
    case("mse", "fixed_target", F.mse_loss, dict(input=(2, 2003), target=(2, 2003)), tol=SUMS, fixed=("target",))
    equal = rand(46, 3, 5, 7)
    other = rand(47, 3, 5, 7)
    other[1] = equal[1]
    case("l1", "plain", F.l1_loss, dict(input=equal, target=other), tol=SUMS)
    case("l1", "fixed_target", F.l1_loss, dict(input=(2, 2003), target=(2, 2003)), tol=SUMS, fixed=("target",))
    for name, rows, classes, size in (("plain", 5, 7, 1), ("pair", 2, 2, 1), ("one", 1, 3, 1), ("large", 4, 33, 60)):
        target = [(3 * i + 1) % classes for i in range(rows)]
        case(
            "cross_entropy",
            name,
            lambda logits: F.cross_entropy(logits, torch.tensor(target)),
            dict(logits=size * rand(4, rows, classes)),
            dict(target=target),
            tol=SUMS,
        )
    target = [2, 0, 4, 1, 4, 3]  # right by 11 of 300: loss and gradient are 1e-5 of what they are the difference of
    sure = 300 + rand(52, 6, 5)
    sure[np.arange(6), target] += 11
    case("cross_entropy", "sure", lambda logits: F.cross_entropy(logits, torch.tensor(target)), dict(logits=sure), dict(target=target), tol=SUMS)


def segmentation():
    ties = np.round(2 * rand(51, 2, 4, 2, 6, 5))
    for name, x, kernel in (("halves", (2, 4, 2, 6, 5), 2), ("rest", (1, 5, 3, 7, 4), 2), ("thirds", (1, 3, 6, 6, 3), 3),
                            ("ties", ties, 2)):
        case("maxpool3d", name, lambda x: from_torch(F.max_pool3d(to_torch(x), kernel)), dict(x=x), dict(kernel=kernel))
    case("global_pool", "volume", lambda x: x.mean((1, 2, 3)), dict(x=(2, 2, 3, 5, 7)), tol=SUMS)
    case("global_pool", "tokens", lambda x: x.mean(1), dict(x=0.5 + rand(20, 3, 1301, 4)), tol=SUMS)
    for name, rows, classes in (("weighted", 9, 4), ("weighted_pair", 5, 2)):
        target = [(3 * i + 1) % classes for i in range(rows)]
        weight = [0.25 + 0.5 * k for k in range(classes)]
        case(
            "cross_entropy",
            name,
            lambda logits: F.cross_entropy(logits, torch.tensor(target), torch.tensor(weight, dtype=torch.float64)),
            dict(logits=2 * rand(21, rows, classes)),
            dict(target=target, weight=weight),
            tol=SUMS,
        )

    def hard(seed, *shape):
        return (rand(seed, *shape) > 0.4).astype(np.float64)

    for name, shape, size in (("plain", (2, 3, 2, 4, 3), 2), ("large", (1, 2, 3, 5, 2), 60), ("long", (1, 15, 16, 17, 3), 3)):
        case(
            "bce_logits",
            name,
            F.binary_cross_entropy_with_logits,
            dict(input=size * rand(22, *shape), target=hard(23, *shape)),
            tol=SUMS,
            fixed=("target",),
        )
    right = hard(53, 3, 7)
    case("bce_logits", "sure", F.binary_cross_entropy_with_logits, dict(input=(2 * right - 1) * (12 + rand(54, 3, 7)), target=right), tol=SUMS, fixed=("target",))
    case("bce_logits", "soft", F.binary_cross_entropy_with_logits, dict(input=(3, 7), target=rand(24, 3, 7) % 1), tol=SUMS, fixed=("target",))

    def soft_dice(p, target, squared, smooth):
        axes = tuple(range(1, p.dim() - 1))
        power = 2 if squared else 1
        both, sizes = (p * target).sum(axes), (p**power).sum(axes) + (target**power).sum(axes)
        return (1 - (2 * both + smooth) / (sizes + smooth)).mean()

    for name, shape, squared, smooth in (
        ("plain", (2, 3, 2, 4, 3), 0, 1e-5),
        ("squared", (2, 3, 2, 4, 3), 1, 1.0),
        ("long", (1, 15, 16, 17, 3), 1, 1.0),
        ("long_plain", (2, 15, 16, 17, 2), 0, 1e-5),
    ):
        case(
            "soft_dice",
            name,
            lambda p, target: soft_dice(p, target, squared, smooth),
            dict(p=1 / (1 + np.exp(-2 * rand(25, *shape))), target=hard(26, *shape)),
            dict(squared=squared, smooth=smooth),
            tol=LONG,
            fixed=("target",),
        )
    empty = np.zeros((1, 3, 2, 4, 2))
    case(
        "soft_dice",
        "empty",
        lambda p, target: soft_dice(p, target, 1, 1.0),
        dict(p=1 / (1 + np.exp(-rand(27, *empty.shape))), target=empty),
        dict(squared=1, smooth=1.0),
        tol=LONG,
        fixed=("target",),
    )


def products():
    for name, lead, m, k, n in (
        ("plain", (), 5, 7, 3),
        ("batch", (2, 3), 4, 9, 6),
        ("tails", (2,), 33, 21, 35),
        ("row", (), 1, 19, 17),
    ):
        for ta in (0, 1):
            for tb in (0, 1):

                def fn(a, b):
                    return (a.mT if ta else a) @ (b.mT if tb else b)

                case(
                    "matmul",
                    f"{name}_{ta}{tb}",
                    fn,
                    dict(a=lead + ((k, m) if ta else (m, k)), b=lead + ((n, k) if tb else (k, n))),
                    dict(transpose_a=ta, transpose_b=tb),
                    tol=SUMS,
                )

    def linear(x, w, b=None):
        return F.linear(x, w.T, b)

    case("linear", "plain", linear, dict(x=(2, 3, 5), w=(5, 7), b=(7,)), tol=SUMS)
    case("linear", "no_bias", linear, dict(x=(35, 33), w=(33, 17)), tol=SUMS)
    case("linear", "one_out", linear, dict(x=(1, 2, 3, 4, 19), w=(19, 1), b=(1,)), tol=SUMS)
    case("linear", "one_in", linear, dict(x=(9, 1), w=(1, 6), b=(6,)), tol=SUMS)
    case("linear", "tails", linear, dict(x=(2, 37, 65), w=(65, 50), b=(50,)), tol=SUMS)
    case("linear", "fixed_input", linear, dict(x=(11, 8), w=(8, 16), b=(16,)), tol=SUMS, fixed=("x",))

    def mlp(x, w1, w2, b1=None, b2=None):
        return F.linear(F.gelu(F.linear(x, w1.T, b1)), w2.T, b2)

    case("mlp", "plain", mlp, dict(x=(3, 5), w1=(5, 11), b1=(11,), w2=(11, 6), b2=(6,)), tol=LONG)
    case("mlp", "no_bias", mlp, dict(x=(2, 2, 3), w1=(3, 12), w2=(12, 3)), tol=LONG)
    case("mlp", "one_bias", mlp, dict(x=(7, 4), w1=(4, 9), w2=(9, 4), b2=(4,)), tol=LONG)
    case(
        "mlp",
        "tails",
        mlp,
        dict(x=(1, 2, 3, 11, 13), w1=0.3 * rand(5, 13, 52), b1=(52,), w2=0.2 * rand(6, 52, 13), b2=(13,)),
        tol=LONG,
    )

    def attend(qkv, heads, scale, add):
        n, t, c = qkv.shape
        q, k, v = qkv.reshape(n, t, 3, heads, c // 3 // heads).permute(2, 0, 3, 1, 4)
        return (add(q @ k.mT * scale).softmax(-1) @ v).transpose(1, 2).reshape(n, t, c // 3)

    def attention(qkv, heads, scale):
        return attend(qkv, heads, scale, lambda scores: scores)

    for name, n, t, heads, size, scale, spread in (
        ("plain", 2, 7, 2, 3, 0.5, 1),
        ("head8", 1, 27, 3, 8, 8**-0.5, 1),
        ("head64", 1, 35, 1, 64, 0.125, 1),
        ("head16", 2, 64, 1, 16, 0.25, 1),
        ("one_token", 2, 1, 2, 5, 0.4, 1),
        ("sharp", 1, 19, 1, 4, 1.0, 2),
    ):
        case(
            "attention",
            name,
            lambda qkv: attention(qkv, heads, scale),
            dict(qkv=spread * rand(7, n, t, 3 * heads * size)),
            dict(heads=heads, scale=scale),
            tol=LONG,
        )

    def window_attention(qkv, table, heads, scale, window, regions):
        n, t, _ = qkv.shape
        axis = torch.arange(window)
        at = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1)[:, :t]
        apart = at[:, :, None] - at[:, None, :] + window - 1
        side = 2 * window - 1
        bias = table[(apart[0] * side + apart[1]) * side + apart[2]].permute(2, 0, 1)
        hidden = 0.0
        if regions:
            w = torch.arange(n)[:, None] % regions
            region = (torch.arange(t) + w) * w % 3
            hidden = 100.0 * (region[:, :, None] != region[:, None, :])[:, None]
        return attend(qkv, heads, scale, lambda scores: scores + bias - hidden)

    for name, n, t, heads, size, window, regions in (
        ("window", 3, 27, 2, 4, 3, 0),
        ("window_regions", 4, 27, 2, 4, 3, 2),
        ("window_smaller", 3, 8, 3, 5, 3, 3),
        ("window_small_in_seven", 1, 64, 1, 8, 7, 0),
    ):
        case(
            "attention",
            name,
            lambda qkv, table: window_attention(qkv, table, heads, size**-0.5, window, regions),
            dict(qkv=rand(29, n, t, 3 * heads * size), table=rand(30, (2 * window - 1) ** 3, heads)),
            dict(heads=heads, scale=size**-0.5, window=window, regions=regions),
            tol=LONG,
        )
    case(
        "attention",
        "window_fixed_input",
        lambda qkv, table: window_attention(qkv, table, 1, 0.5, 2, 2),
        dict(qkv=(2, 8, 12), table=(27, 1)),
        dict(heads=1, scale=0.5, window=2, regions=2),
        tol=LONG,
        fixed=("qkv",),
    )


def convolutions():
    def conv(stride, pad, groups):
        def fn(x, w, b=None):
            return from_torch(F.conv3d(to_torch(x), w.permute(4, 3, 0, 1, 2), b, stride, pad, 1, groups))

        return fn

    for name, x, w, bias, stride, pad, groups in (
        ("same", (2, 3, 4, 5, 3), (3, 3, 3, 3, 5), 1, (1, 1, 1), (1, 1, 1), 1),
        ("halve", (2, 4, 6, 4, 5), (2, 2, 2, 5, 7), 1, (2, 2, 2), (0, 0, 0), 1),
        ("halve_odd", (1, 5, 7, 3, 4), (2, 2, 2, 4, 6), 0, (2, 2, 2), (0, 0, 0), 1),
        ("down", (1, 5, 4, 7, 8), (3, 3, 3, 8, 16), 1, (2, 2, 2), (1, 1, 1), 1),
        ("uneven", (1, 4, 5, 6, 3), (1, 2, 3, 3, 4), 0, (1, 2, 1), (0, 1, 2), 1),
        ("groups", (1, 3, 4, 4, 6), (3, 3, 3, 2, 9), 1, (1, 1, 1), (1, 1, 1), 3),
        ("groups_stride", (2, 4, 3, 5, 4), (3, 3, 3, 2, 6), 0, (2, 1, 2), (1, 0, 2), 2),
        ("one_channel", (1, 4, 4, 6, 1), (2, 2, 2, 1, 8), 1, (2, 2, 2), (0, 0, 0), 1),
        ("from_one", (1, 3, 5, 9, 1), (3, 3, 3, 1, 8), 1, (1, 1, 1), (1, 1, 1), 1),
        ("wide", (1, 2, 3, 18, 16), (3, 3, 3, 16, 33), 1, (1, 1, 1), (1, 1, 1), 1),
        ("smaller_than_kernel", (1, 1, 2, 1, 3), (5, 5, 5, 3, 2), 1, (1, 1, 1), (2, 2, 2), 1),
        ("one_by_one", (2, 2, 2, 3, 5), (1, 1, 1, 5, 4), 1, (1, 1, 1), (0, 0, 0), 1),
    ):
        inputs = dict(x=x, w=w, b=w[4:]) if bias else dict(x=x, w=w)
        case("conv3d", name, conv(stride, pad, groups), inputs, dict(stride=stride, pad=pad, groups=groups), tol=LONG)
    case(
        "conv3d",
        "fixed_input",
        conv((2, 2, 2), (0, 0, 0), 1),
        dict(x=(1, 4, 4, 4, 2), w=(2, 2, 2, 2, 3), b=(3,)),
        dict(stride=(2, 2, 2), pad=(0, 0, 0), groups=1),
        tol=LONG,
        fixed=("x",),
    )

    def depthwise(x, w, b=None):
        k = w.shape[0]
        return from_torch(F.conv3d(to_torch(x), w.permute(3, 0, 1, 2)[:, None], b, 1, k // 2, 1, x.shape[-1]))

    for name, x, k, bias in (
        ("three", (2, 3, 4, 5, 5), 3, 1),
        ("five", (1, 4, 5, 6, 17), 5, 1),
        ("five_wide", (1, 3, 2, 7, 33), 5, 0),
        ("tiny", (2, 1, 2, 1, 3), 5, 1),
        ("three_line", (1, 2, 3, 35, 4), 3, 0),
        ("one", (1, 2, 2, 3, 7), 1, 1),
    ):
        inputs = dict(x=x, w=(k, k, k, x[-1]), b=x[-1:]) if bias else dict(x=x, w=(k, k, k, x[-1]))
        case("depthwise3d", name, depthwise, inputs, tol=LONG)

    def transposed(x, w, b=None):
        return from_torch(F.conv_transpose3d(to_torch(x), w.permute(0, 4, 1, 2, 3), b, stride=w.shape[1]))

    case("conv_transpose3d", "two", transposed, dict(x=(2, 2, 3, 1, 5), w=(5, 2, 2, 2, 3), b=(3,)), tol=LONG)
    case("conv_transpose3d", "no_bias", transposed, dict(x=(1, 3, 2, 3, 18), w=(18, 2, 2, 2, 17)), tol=LONG)
    case("conv_transpose3d", "three", transposed, dict(x=(1, 2, 1, 2, 3), w=(3, 3, 3, 3, 4), b=(4,)), tol=LONG)


def norms():
    def batchnorm(training, momentum, eps):
        def fn(x, gamma, beta, mean, var):
            flat = F.batch_norm(x.reshape(-1, x.shape[-1]), mean, var, gamma, beta, bool(training), momentum, eps)
            return flat.reshape(x.shape)

        return fn

    for name, shape, training, momentum, eps, offset in (
        ("train", (2, 2, 3, 3, 7), 1, 0.1, 1e-5, 0.5),
        ("eval", (2, 2, 3, 3, 7), 0, 0.1, 1e-5, 0.5),
        ("train_rank2", (41, 35), 1, 0.3, 1e-3, 2.0),
        ("eval_rank2", (13, 19), 0, 0.3, 1e-3, 0.0),
        ("train_offset", (3, 57, 4), 1, 0.1, 1e-5, 30.0),
    ):
        n = shape[-1]
        inputs = dict(
            x=offset + rand(8, *shape),
            gamma=1 + 0.3 * rand(9, n),
            beta=(n,),
            mean=0.2 * rand(10, n),
            var=1 + 0.5 * rand(11, n) ** 2,
        )
        case(
            "batchnorm",
            name,
            batchnorm(training, momentum, eps),
            inputs,
            dict(training=training, momentum=momentum, eps=eps),
            tol=LONG * (4 if offset > 10 else 1),
            fixed=("mean", "var"),
            after=("mean", "var"),
        )
    for name, shape in (("none", (5, 3)), ("none_wide", (2, 3, 2, 4, 33))):
        case(
            "batchnorm",
            name,
            lambda x: from_torch(F.batch_norm(to_torch(x), None, None, None, None, True, 0.0, 1e-5)),
            dict(x=0.5 + rand(49, *shape)),
            dict(training=1, momentum=0, eps=1e-5),
            tol=LONG,
        )
    for name, shape, eps, offset in (
        ("plain", (2, 3, 7), 1e-5, 0),
        ("wide", (5, 131), 1e-6, 0.5),
        ("offset", (3, 35), 1e-5, 30),
        ("rank1", (19,), 1e-5, 0),
    ):
        case(
            "layernorm",
            name,
            lambda x, gamma, beta: F.layer_norm(x, x.shape[-1:], gamma, beta, eps),
            dict(x=offset + rand(12, *shape), gamma=shape[-1:], beta=shape[-1:]),
            dict(eps=eps),
            tol=LONG * (4 if offset > 10 else 1),
        )

    def groupnorm(x, gamma, beta, groups, eps):
        return from_torch(F.group_norm(to_torch(x), groups, gamma, beta, eps))

    for name, shape, groups, offset in (
        ("two", (2, 2, 3, 2, 6), 2, 0.5),
        ("each", (2, 3, 2, 3, 5), 5, 0),
        ("all", (1, 2, 3, 2, 7), 1, 1),
        ("eight", (1, 3, 3, 5, 32), 8, 0),
        ("offset", (2, 3, 4, 3, 8), 4, 30),
    ):
        case(
            "groupnorm",
            name,
            lambda x, gamma, beta: groupnorm(x, gamma, beta, groups, 1e-5),
            dict(x=offset + rand(13, *shape), gamma=shape[-1:], beta=shape[-1:]),
            dict(groups=groups, eps=1e-5),
            tol=LONG * (4 if offset > 10 else 1),
        )


    def groupnorm_relu(x, residual, groups, slope, **affine):
        y = groupnorm(x, affine.get("gamma"), affine.get("beta"), groups, 1e-5)
        return F.leaky_relu(y if residual is None else y + residual, slope)

    for name, shape, groups, slope, affine, residual in (
        ("relu", (2, 2, 3, 2, 6), 2, 0.0, 1, 0),
        ("leaky", (1, 3, 3, 5, 32), 8, 0.2, 1, 0),
        ("residual", (2, 3, 2, 3, 5), 5, 0.01, 0, 1),
        ("all", (1, 2, 3, 2, 7), 7, 0.1, 1, 1),
    ):
        operands = dict(x=rand(29, *shape))
        operands.update(dict(gamma=shape[-1:], beta=shape[-1:]) if affine else {})
        operands.update(dict(residual=shape) if residual else {})
        case(
            "groupnorm_relu",
            name,
            lambda x, residual=None, **affine: groupnorm_relu(x, residual, groups, slope, **affine),
            operands,
            dict(groups=groups, eps=1e-5, slope=slope),
            tol=LONG,
        )

    for name, shape, offset in (("instance", (2, 3, 2, 3, 5), 0), ("instance_wide", (1, 3, 7, 5, 33), 2)):
        case(
            "groupnorm",
            name,
            # F.instance_norm has a wrong gradient for the wide case in PyTorch 2.6 (it does not sum to 0)
            lambda x: from_torch(F.group_norm(to_torch(x), shape[-1], eps=1e-5)),
            dict(x=offset + rand(28, *shape)),
            dict(groups=shape[-1], eps=1e-5),
            tol=LONG,
        )


def masking():
    def masked_fill(x, filler, mask, start):
        places = [torch.arange(n) + s for n, s in zip(x.shape, start)]
        inside = [(p >= 0) & (p < n) for p, n in zip(places, filler.shape)]
        places = [p.clamp(0, n - 1) for p, n in zip(places, filler.shape)]
        fill = filler[places[0][:, None, None], places[1][None, :, None], places[2][None, None, :]]
        fill = fill * (inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :])
        return torch.where(mask > 0, fill, x)

    for name, x, filler, start in (
        ("inside", (3, 4, 5), (6, 5, 9), (2, 1, 3)),
        ("overlap", (4, 5, 6), (5, 4, 7), (-2, 1, 3)),
        ("smaller", (5, 6, 7), (2, 3, 3), (-1, -2, -3)),
        ("outside", (2, 3, 2), (3, 3, 3), (3, 0, 0)),
    ):
        mask = (rand(14, *x) > -0.3).astype(np.float64)
        case(
            "masked_fill",
            name,
            lambda x, filler, mask: masked_fill(x, filler, mask, start),
            dict(x=x, filler=filler, mask=mask),
            dict(start=start),
            fixed=("mask",),
        )
    ties = np.round(rand(15, 4, 5, 6), 1).clip(-1, 1)
    for name, x, eps in (
        ("plain", rand(16, 3, 4, 5), 1e-9),
        ("ties", ties, 1e-3),
        ("one_value", np.full((2, 3, 2), 0.25), 0.5),
    ):
        case("minmax", name, lambda x: (x - x.amin()) / (x.amax() - x.amin() + eps), dict(x=x), dict(eps=eps), tol=SUMS)


def main(argv):
    if len(argv) != 2:
        sys.exit(__doc__)
    for part in (pointwise, shapes, places, rows, reductions, segmentation, products, convolutions, norms, masking):
        part()
    os.makedirs(argv[1], exist_ok=True)
    for op, (tensors, meta) in FILES.items():
        tensors = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
        save_file(tensors, os.path.join(argv[1], op + ".safetensors"), meta)
    print("%d ops, %d cases" % (len(FILES), sum(len(meta["cases"].split(",")) for _, meta in FILES.values())))


if __name__ == "__main__":
    main(sys.argv)
