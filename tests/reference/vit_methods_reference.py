#!/usr/bin/env python3
"""Small files of the kind that tests/support/golden_ssl.h reads for the methods on a transformer's tokens, from a twin in
PyTorch, in double: one tiny step of each with loss, what comes back and gradients, by the formulas of
../shared/golden/ssl/README.md with another seed; for MoCo v3 also views, resized and blurred.

    vit_methods_reference.py DIR            writes DIR/mae3d.json, simmim.json, mocov3.json (DIR: tests/fixtures/methods)

Needs torch 2 and numpy.
"""

import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from golden_net_reference import uniform as stream

SEED = 3
EDGE, PATCH, HIDDEN, MLP, LAYERS, HEADS = 16, 8, 12, 20, 2, 3
WIDTH, DEPTH, DECODER_HEADS, DECODER_MLP = 8, 1, 2, 16
TOKENS, VOXELS, N = (EDGE // PATCH) ** 3, PATCH**3, 2


def uniform(name, *shape):
    return stream(name, math.prod(shape), SEED).reshape(shape)


def rounded(x):
    return torch.tensor(np.asarray(x).astype(np.float32).astype(np.float64))


def parameter(name, shape):
    u = uniform(name, *shape)
    v = 0.1 * (2 * u - 1)
    if name.endswith(".weight"):
        v = (2 * u - 1) * math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 1 + v
    return rounded(v)


def linear(shapes, name, inner, outer, bias=True):
    shapes[name + ".weight"] = (outer, inner)
    if bias:
        shapes[name + ".bias"] = (outer,)


def block(shapes, name, n, mlp):
    linear(shapes, name + ".mlp.linear1", n, mlp)
    linear(shapes, name + ".mlp.linear2", mlp, n)
    for norm in ".norm1", ".norm2":
        shapes[name + norm + ".weight"] = shapes[name + norm + ".bias"] = (n,)
    linear(shapes, name + ".attn.out_proj", n, n)
    linear(shapes, name + ".attn.qkv", n, 3 * n, bias=False)


def run_linear(p, name, x):
    return F.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def run_norm(p, name, x):
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"])


def run_block(p, name, x, heads):
    b, t, n = x.shape
    q, k, v = run_linear(p, name + ".attn.qkv", run_norm(p, name + ".norm1", x)).reshape(b, t, 3, heads, n // heads).permute(2, 0, 3, 1, 4)
    y = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(n / heads), -1) @ v
    x = x + run_linear(p, name + ".attn.out_proj", y.transpose(1, 2).reshape(b, t, n))
    h = F.gelu(run_linear(p, name + ".mlp.linear1", run_norm(p, name + ".norm2", x)))
    return x + run_linear(p, name + ".mlp.linear2", h)


def encoder_shapes():
    shapes = {"encoder.patch_embedding.position_embeddings": (1, TOKENS, HIDDEN)}
    linear(shapes, "encoder.patch_embedding.patch_embeddings.1", VOXELS, HIDDEN)
    for i in range(LAYERS):
        block(shapes, f"encoder.blocks.{i}", HIDDEN, MLP)
    return shapes


def run_blocks(p, x):
    for i in range(LAYERS):
        x = run_block(p, f"encoder.blocks.{i}", x, HEADS)
    return x


def patches():
    x = rounded(uniform("image", N, EDGE, EDGE, EDGE))
    s = EDGE // PATCH
    return x.reshape(N, s, PATCH, s, PATCH, s, PATCH).permute(0, 1, 3, 5, 2, 4, 6).reshape(N, TOKENS, VOXELS)


def take(x, index):
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))


def noise_order():
    return torch.tensor(np.argsort(uniform("noise", N, TOKENS), axis=1, kind="stable"))


def mae3d(p, dtype):
    order, m = noise_order(), TOKENS * 3 // 4
    masked, seen = order[:, :m], order[:, m:]
    image = patches().to(dtype)
    x = run_linear(p, "encoder.patch_embedding.patch_embeddings.1", image) + p["encoder.patch_embedding.position_embeddings"]
    x = run_linear(p, "enc_to_dec", run_blocks(p, take(x, seen)))
    position = p["decoder_pos_emb.weight"]
    x = torch.cat([p["mask_token"] + position[masked], x + position[seen]], 1)
    for i in range(DEPTH):
        x = run_block(p, f"decoder_blocks.{i}", x, DECODER_HEADS)
    pred = run_linear(p, "to_pixels", run_norm(p, "decoder_norm", x)[:, :m])
    return F.l1_loss(pred, take(image, masked)), {"pred": pred}


def mae3d_shapes():
    shapes = {"mask_token": (WIDTH,)} | encoder_shapes()
    linear(shapes, "enc_to_dec", HIDDEN, WIDTH)
    for i in range(DEPTH):
        block(shapes, f"decoder_blocks.{i}", WIDTH, DECODER_MLP)
    shapes["decoder_norm.weight"] = shapes["decoder_norm.bias"] = (WIDTH,)
    shapes["decoder_pos_emb.weight"] = (TOKENS, WIDTH)
    linear(shapes, "to_pixels", WIDTH, VOXELS)
    return shapes


def simmim(p, dtype):
    masked = noise_order().flip(1)[:, : TOKENS * 3 // 4]
    image = patches().to(dtype)
    x = run_linear(p, "encoder.patch_embedding.patch_embeddings.1", image)
    w = torch.zeros(N, TOKENS, 1, dtype=dtype).scatter(1, masked[..., None], 1)
    x = x * (1 - w) + p["mask_token"] * w + p["encoder.patch_embedding.position_embeddings"]
    pred = run_linear(p, "to_pixels", take(run_blocks(p, x), masked))
    return F.l1_loss(pred, take(image, masked)), {"pred": pred}


def simmim_shapes():
    shapes = {"mask_token": (HIDDEN,)} | encoder_shapes()
    linear(shapes, "to_pixels", HIDDEN, VOXELS)
    return shapes


# ---- MoCo v3: encoder of one linear layer, steps of SGD

ROWS, IN, BODY, HEAD, OUT, MOMENTUM, TEMPERATURE = 6, 9, 5, 7, 4, 0.8, 0.25


def moco_shapes():
    shapes = {}
    linear(shapes, "base_encoder.body", IN, BODY)
    for part, sizes in ("base_encoder.head", (BODY, HEAD, HEAD, OUT)), ("predictor", (OUT, HEAD, OUT)):
        for i in range(len(sizes) - 1):
            linear(shapes, f"{part}.{3 * i}", sizes[i], sizes[i + 1], bias=False)
            if i < len(sizes) - 2:
                shapes[f"{part}.{3 * i + 1}.weight"] = shapes[f"{part}.{3 * i + 1}.bias"] = (sizes[i + 1],)
    return shapes


def run_head(p, part, x, statistics, group):
    i = 0
    while f"{part}.{i}.weight" in p:
        x = run_linear(p, f"{part}.{i}", F.relu(x) if i else x)
        name = group + f"{part}.{i + 1}"
        mean, var = (statistics.setdefault(name + k, torch.full_like(x[0], v)) for k, v in ((".running_mean", 0), (".running_var", 1)))
        x = F.batch_norm(x, mean, var, p.get(f"{part}.{i + 1}.weight"), p.get(f"{part}.{i + 1}.bias"), training=True)
        i += 3
    return x


def contrast(q, k):
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    return F.cross_entropy(q @ k.T / TEMPERATURE, torch.arange(len(q))) * 2 * TEMPERATURE


def moco_run(dtype):
    p = {name: parameter(name, shape).to(dtype).requires_grad_() for name, shape in moco_shapes().items()}
    slow = {name: v.detach().clone() for name, v in p.items() if name.startswith("base_encoder.")}
    views = [rounded(2 * uniform(f"view{i}", ROWS, IN) - 1).to(dtype) for i in (1, 2)]
    statistics, steps = {}, []

    def f(q, x, group):
        return run_head(q, "base_encoder.head", run_linear(q, "base_encoder.body", x), statistics, group)

    for _ in range(3):
        q = [run_head(p, "predictor", f(p, x, ""), statistics, "") for x in views]
        with torch.no_grad():
            for name in slow:
                slow[name] = slow[name] * MOMENTUM + p[name] * (1 - MOMENTUM)
            k = [f(slow, x, "momentum:") for x in views]
        loss = contrast(q[0], k[1]) + contrast(q[1], k[0])
        grad = dict(zip(p, torch.autograd.grad(loss, list(p.values()))))
        steps.append({"loss": loss, "grad": grad, "momentum_encoder": {n[13:]: v.clone() for n, v in slow.items()},
                      "statistics": {n.replace("momentum:base", "momentum"): v.clone() for n, v in statistics.items()}})
        p = {name: (v - 0.1 * grad[name]).detach().requires_grad_() for name, v in p.items()}
    return steps


def moco_views():
    edge, start, size, sigma = 12, [2, 0, 4], 7, 0.9
    crop = rounded(uniform("crop", edge, edge, edge))
    part = crop[tuple(slice(a, a + size) for a in start)]
    resized = F.interpolate(part[None, None], size=[edge] * 3, mode="trilinear", align_corners=False)[0, 0]
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / sigma) ** 2)
    blurred = F.pad(resized[None, None], [reach] * 6, mode="replicate")
    for axis in range(3):
        shape = [1] * 5
        shape[2 + axis] = -1
        blurred = F.conv3d(blurred, (kernel / kernel.sum()).reshape(shape))
    light = blurred[0, 0] * 1.3
    jittered = ((light - light.mean()) * 0.8 + light.mean()).clamp(0, 1)
    flipped = torch.where(jittered < 0.5, jittered, 1 - jittered).flip(2)
    out = {"resized": resized, "blurred": blurred[0, 0], "jittered": jittered, "flipped": flipped}
    return {"start": start, "size": size, "sigma": sigma}, {k: packed(v, v.float(), 12) for k, v in out.items()}


# ---- packing: value and samples, and what float32 costs


def packed(x, x32, samples=4):
    v, w = x.detach().double().flatten().numpy(), x32.detach().double().flatten().numpy()
    if x.dim() == 0:
        return {"value": float("%.10g" % v[0]), "dev32": float("%.1e" % (abs(w[0] - v[0]) / abs(v[0])))}
    rms = math.sqrt(float((v * v).mean()))
    if np.abs(v).max() < 1e-12:
        return {"shape": list(x.shape), "zero": 1, "largest32": float("%.1e" % np.abs(w).max())}
    out = {"shape": list(x.shape), "mean": float("%.10g" % v.mean()), "l2": float("%.10g" % math.sqrt((v * v).sum())),
           "cosdot": float("%.10g" % (v * np.cos(0.7 * np.arange(v.size))).sum())}
    at = [(2 * i + 1) * v.size // (2 * samples) for i in range(samples)] if v.size > 2 * samples else list(range(v.size))
    if len(at) < v.size:
        out["index"] = at
    out["value"] = [float("%.10g" % v[i]) for i in at]
    out["dev32"] = float("%.1e" % (np.abs(w - v).max() / rms))
    return out


def step(run, shapes):
    results = []
    for dtype in torch.float64, torch.float32:
        p = {name: parameter(name, shape).to(dtype).requires_grad_() for name, shape in shapes.items()}
        loss, out = run(p, dtype)
        loss.backward()
        results.append((loss, out, {name: v.grad for name, v in p.items()}))
    (loss, out, grad), (loss32, out32, grad32) = results
    return {"loss": packed(loss, loss32)} | {k: packed(out[k], out32[k]) for k in out} | {
        "grad": {k: packed(grad[k], grad32[k]) for k in shapes}}


def moco_step():
    def pack(a, b):
        return {k: pack(a[k], b[k]) for k in a} if isinstance(a, dict) else packed(a, b)

    return {"steps": [pack(a, b) for a, b in zip(moco_run(torch.float64), moco_run(torch.float32))]}


def write(folder, name, cases):
    with open(f"{folder}/{name}.json", "w") as f:
        f.write('{"seed": %d, "method": "%s", "code": "tests/reference/vit_methods_reference.py",\n"cases": {\n' % (SEED, name))
        f.write(",\n".join('"%s": {"in": %s,\n"out": %s}' % (k, json.dumps(i), json.dumps(o)) for k, (i, o) in cases.items()))
        f.write("}}\n")


def main():
    folder = sys.argv[1]
    net = f"ViT {EDGE}^3, patch {PATCH}, hidden {HIDDEN}, mlp {MLP}, {LAYERS} layers, {HEADS} heads"
    noise = f'uniform("noise", {N}*{TOKENS}), rows of {TOKENS}, ratio 0.75'
    decoder = f"; decoder {WIDTH}, {DEPTH} layers, {DECODER_HEADS} heads, mlp {DECODER_MLP}"
    write(folder, "mae3d", {"step_mim_med3d": ({"net": net + decoder, "noise": noise}, step(mae3d, mae3d_shapes()))})
    write(folder, "simmim", {"step_mim_med3d": ({"net": net, "noise": noise}, step(simmim, simmim_shapes()))})
    step_in = {"views": f"view1, view2 ({ROWS},{IN}) = 2u-1", "m": MOMENTUM, "T": TEMPERATURE}
    write(folder, "mocov3", {"step": (step_in, moco_step()), "views": moco_views()})


if __name__ == "__main__":
    main()
