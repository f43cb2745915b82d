#!/usr/bin/env python3
"""Small files of the kind that tests/support/golden_net.h reads, from the networks' own code or a twin of it, in double.

    golden_net_reference.py fixtures DIR            writes DIR/net_<case>.json (DIR: tests/fixtures/nets)
    golden_net_reference.py monai FILE OUT          FILE: a UNETR or Swin-UNETR that monai_tool.c wrote (.pt, with an
                                                    example's input and logits): load_state_dict(strict=True), the logits
                                                    within 1e-4 of their rms; then MONAI's own with other values to OUT,
                                                    which `monai_tool read OUT NETWORK` compares

Parameters, inputs and cotangents follow the recipe of ../shared/golden/nets/README.md, seed 0. Stored: names, shapes and
norms of the state, samples of outputs, features and gradients, and how far a float32 run of the same code came.
Needs torch 2, numpy, monai 1.4.
"""

import json
import math
import os
import sys

import numpy as np
import torch

SEED = 0


def uniform(name, n, seed=SEED):
    base = 0xCBF29CE484222325
    for byte in name.encode():
        base = ((base ^ byte) * 0x100000001B3) & (2**64 - 1)
    base = (base + seed) & (2**64 - 1)
    with np.errstate(over="ignore"):
        z = np.uint64(base) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def fill(net, calm):
    """The recipe; returns the file's `state`."""
    state, listing = net.state_dict(), []
    for name, t in state.items():
        dead = "cross_attn" in name or "running_" in name or not t.is_floating_point()
        norm = None
        if not ("running_" in name or not t.is_floating_point()):
            u = uniform(name, t.numel())
            v = 0.1 * (2 * u - 1)
            if name.endswith("relative_position_bias_table"):
                v = 2 * u - 1
            elif name.endswith(".weight") and t.dim() >= 2:
                v = (2 * u - 1) * math.sqrt(3 / math.prod(t.shape[1:]))
            elif name.endswith(".weight"):
                v += 1
            elif calm and name.endswith(".bias") and state[name[:-4] + "weight"].dim() == 1:
                v += np.where(u < 0.5, -4, 4)
            v = v.astype(np.float32).astype(np.float64)
            t.copy_(torch.tensor(v).reshape(t.shape))
            norm = None if dead else float("%.9g" % np.sqrt((v * v).sum()))
        listing.append([name, list(t.shape), norm])
    return listing


def volume(shape, seed=SEED):
    n, c, sx, sy, sz = shape
    b, m, x, y, z = np.meshgrid(*[np.arange(k) for k in shape], indexing="ij")
    u = uniform("input", int(np.prod(shape)), seed).reshape(shape)
    v = 0.5 + 0.25 * np.sin(0.11 * x + 0.7 * m + 1.3 * b) + 0.25 * np.cos(0.13 * y - 0.05 * z + 0.4 * m) + 0.2 * (2 * u - 1)
    return v.astype(np.float32)


def run(net, run_net, x, dtype, features):
    net = net.to(dtype)
    x = torch.tensor(x, dtype=dtype, requires_grad=True)
    caught, hooks, modules = {}, [], dict(net.named_modules())
    for f in features:
        hooks.append(modules[f].register_forward_hook(lambda m, i, o, f=f: caught.__setitem__(f, o.detach())))
    out = run_net(net, x)
    for h in hooks:
        h.remove()
    loss = sum((y * torch.tensor(2 * uniform("cotangent." + k, y.numel()) - 1, dtype=dtype).reshape(y.shape)).sum()
               for k, y in out.items())
    net.zero_grad()
    loss.backward()
    grad = {k: p.grad for k, p in net.named_parameters() if p.grad is not None}
    after = {k: v.clone() for k, v in net.state_dict().items() if "running_" in k}
    return dict(outputs={k: y.detach() for k, y in out.items()}, features=caught, grad=grad, after=after,
                grad_input=x.grad, loss=loss.item())


def margin(net, x):
    """How near to 0 an input of a leaky ReLU comes, in parts of its rms."""
    least, hooks = [], []
    for m in net.modules():
        if isinstance(m, torch.nn.LeakyReLU):
            hooks.append(m.register_forward_pre_hook(
                lambda m, i: least.append((i[0].abs().min() / i[0].square().mean().sqrt()).item())))
    with torch.no_grad():
        net(torch.tensor(x, dtype=torch.float64))
    for h in hooks:
        h.remove()
    return min(least)


def sample(stream, double, single, count):
    v, w = (t.double().numpy().ravel() for t in (double, single))
    l2 = float(np.sqrt((v * v).sum()))
    u = 2 * uniform("dot." + stream, v.size) - 1
    at = np.unique((uniform("at." + stream, count) * v.size).astype(int))
    s = dict(shape=list(double.shape), l2=l2, dot=float((v * u).sum()), index=at.tolist(),
             value=[float("%.9g" % a) for a in v[at]])
    if l2 <= 1e-9 * max(1.0, float(np.abs(w).max()) / 1e-7) or l2 == 0:  # a gradient that vanishes
        return dict(shape=s["shape"], l2=0, dot=0, index=[], value=[], zero=True, abs32=float(np.abs(w).max()))
    off = w - v
    s["e32"] = [float("%.2g" % e) for e in (np.sqrt((off * off).sum()) / l2, np.abs(off).max() / (l2 / np.sqrt(v.size)))]
    s["esum"] = [float("%.2g" % e) for e in (abs((off * u).sum()) / l2, abs(np.sqrt((w * w).sum()) - l2) / l2)]
    return s


def write(folder, name, network, net, run_net, shape, arguments, features=(), calm=False, grads=3, kinks=(), quiet=0):
    """quiet: an input is looked for whose margin is at least that, so that gradients are sharp."""
    with torch.no_grad():
        state = fill(net, calm)
    seed = SEED
    while quiet and margin(net.double(), volume(shape, seed)) < quiet:
        seed += 1
    x = volume(shape, seed)
    buffers = {k: v.clone() for k, v in net.state_dict().items()}
    single = run(net, run_net, x, torch.float32, features)
    net.load_state_dict(buffers)
    double = run(net.double(), run_net, x, torch.float64, features)
    f = dict(name=name, network=network, arguments=arguments, seed=SEED, input_seed=seed, calm=calm,
             input_shape=list(shape), parameters=sum(p.numel() for p in net.parameters()), loss=double["loss"],
             loss32=[single["loss"]], flips={k: [1 if k == "MaxPool3d" and calm else 0, 1] for k in kinks},
             input=sample("input", torch.tensor(x), torch.tensor(x), 3))
    for section, stream, count in (("outputs", "output", 12), ("features", "feature", 6), ("grad", "grad", grads),
                                   ("after", "after", 2)):
        f[section] = {k: sample(stream + "." + k, v, single[section][k], count) for k, v in double[section].items()}
    f["grad_input"] = sample("grad_input", double["grad_input"], single["grad_input"], 6)
    f["state"] = state
    with open(os.path.join(folder, f"net_{name}.json"), "w") as out:
        json.dump(f, out, separators=(",", ":"))
        out.write("\n")
    print(name, f["parameters"], "parameters; gradients in float32 off by",
          max(g["e32"][0] for g in f["grad"].values() if "e32" in g))


# ---------------------------------------------------------------------------------------------------------------------


def unetr(**arguments):
    from monai.networks.nets import UNETR

    return UNETR(**arguments).eval()


def unetr_fixtures(folder):
    small = dict(in_channels=2, out_channels=3, feature_size=2, hidden_size=12, mlp_dim=16, num_heads=3)
    for name, size, proj in (("unetr_tiny", [16, 32, 48], "conv"), ("unetr_tiny_perceptron", [32, 16, 16], "perceptron")):
        arguments = dict(small, img_size=size, proj_type=proj)
        net = unetr(**dict(arguments, img_size=tuple(size)))
        write(folder, name, "MONAI UNETR", net, lambda n, x: dict(logits=n(x)), [1, 2] + size, arguments, grads=2,
              quiet=4e-6)


def swin_unetr(**arguments):
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(**arguments).eval()


def swin_fixtures(folder):
    size = [32, 32, 64]
    arguments = dict(in_channels=2, out_channels=3, feature_size=12, use_v2=True, img_size=size)
    features = ["swinViT.patch_embed", "swinViT.layers1.0.blocks.1", "swinViT.layers2c.0", "swinViT.layers3.0.downsample",
                "encoder10", "decoder3"]
    write(folder, "swin_unetr_tiny", "MONAI 1.4 SwinUNETR", swin_unetr(**dict(arguments, img_size=tuple(size))),
          lambda n, x: dict(logits=n(x)), [1, 2] + size, arguments, features, grads=2, kinks=("LeakyReLU",))


class MGConv(torch.nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv3d(i, o, 3, padding=1), torch.nn.BatchNorm3d(o)

    def forward(self, x):
        n, x = self.bn1, self.conv1(x)
        x = torch.nn.functional.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, True, 0.1, n.eps)
        return x.relu()


class MGLevel(torch.nn.Module):
    def __init__(self, i, mid, o, up=0):
        super().__init__()
        if up:
            self.up_conv = torch.nn.ConvTranspose3d(up, up, 2, stride=2)
        self.ops = torch.nn.Sequential(MGConv(i, mid), MGConv(mid, o))

    def forward(self, x, skip=None):
        return self.ops(x if skip is None else torch.cat([self.up_conv(x), skip], 1))


class ModelsGenesis(torch.nn.Module):
    """Twin of the U-Net of Models Genesis, of width w."""

    def __init__(self, inputs, n_class, width):
        super().__init__()
        w = width
        self.down_tr64 = MGLevel(inputs, w, 2 * w)
        self.down_tr128, self.down_tr256 = MGLevel(2 * w, 2 * w, 4 * w), MGLevel(4 * w, 4 * w, 8 * w)
        self.down_tr512 = MGLevel(8 * w, 8 * w, 16 * w)
        self.up_tr256 = MGLevel(24 * w, 8 * w, 8 * w, 16 * w)
        self.up_tr128, self.up_tr64 = MGLevel(12 * w, 4 * w, 4 * w, 8 * w), MGLevel(6 * w, 2 * w, 2 * w, 4 * w)
        self.out_tr = torch.nn.ModuleDict(dict(final_conv=torch.nn.Conv3d(2 * w, n_class, 1)))

    def forward(self, x):
        pool = torch.nn.functional.max_pool3d
        a = self.down_tr64(x)
        b = self.down_tr128(pool(a, 2))
        c = self.down_tr256(pool(b, 2))
        x = self.up_tr256(self.down_tr512(pool(c, 2)), c)
        return self.out_tr["final_conv"](self.up_tr64(self.up_tr128(x, b), a)).sigmoid()


def double_conv(i, o):
    seq = []
    for k in (i, o):
        seq += [torch.nn.Conv3d(k, o, 3, padding=1), torch.nn.GroupNorm(o // 8, o), torch.nn.LeakyReLU(0.2)]
    return torch.nn.ModuleDict(dict(double_conv=torch.nn.Sequential(*seq)))


class GVSL(torch.nn.Module):
    """Twin of UNet_base of GVSL, of width w."""

    def __init__(self, inputs, width):
        super().__init__()
        w = width
        self.inc = double_conv(inputs, w)
        for i in range(4):
            level = torch.nn.ModuleList([torch.nn.MaxPool3d(2), double_conv(w << i, w << i + 1)])
            self.add_module(f"down{i + 1}", torch.nn.ModuleDict(dict(maxpool_conv=level)))
        for i in range(4):
            self.add_module(f"up{i + 1}", torch.nn.ModuleDict(dict(conv=double_conv(24 * w >> i, 8 * w >> i))))

    def forward(self, x):
        size = x.shape[2:]
        room = [(-n) % 16 for n in size]
        x = torch.nn.functional.pad(x, [p for r in reversed(room) for p in (r // 2, r - r // 2)])
        maps = [self.inc["double_conv"](x)]
        for i in range(4):
            pool, level = getattr(self, f"down{i + 1}")["maxpool_conv"]
            maps.append(level["double_conv"](pool(maps[-1])))
        x = maps[4]
        for i in range(4):
            x = torch.nn.functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
            x = getattr(self, f"up{i + 1}")["conv"]["double_conv"](torch.cat([maps[3 - i], x], 1))
        a, b, c = (r // 2 for r in room)
        return maps[4], x[:, :, a : a + size[0], b : b + size[1], c : c + size[2]]


def unet_fixtures(folder):
    arguments = dict(inputs=2, n_class=3, width=2)
    write(folder, "mg_tiny", "twin of the U-Net of Models Genesis", ModelsGenesis(**arguments).eval(),
          lambda n, x: dict(probability=n(x)), [2, 2, 16, 8, 16], arguments, calm=True, kinks=("MaxPool3d",))
    arguments = dict(inputs=2, width=8)
    write(folder, "gvsl_tiny", "twin of GVSL's UNet_base", GVSL(**arguments), lambda n, x: dict(zip(("x5", "x"), n(x))),
          [1, 2, 20, 16, 27], arguments, calm=True, kinks=("MaxPool3d",))


def of_state(state, example):
    size, outputs = tuple(example["input"].shape[2:]), example["logits"].shape[1]
    if "swinViT.patch_embed.proj.weight" in state:
        return swin_unetr(img_size=size, in_channels=example["input"].shape[1], out_channels=outputs,
                          feature_size=state["swinViT.patch_embed.proj.bias"].numel(),
                          use_v2="swinViT.layers1c.0.layer.conv1.conv.weight" in state)
    return unetr(in_channels=example["input"].shape[1], out_channels=outputs, img_size=size,
                 num_heads=int(example["heads"]), feature_size=state["encoder1.layer.conv1.conv.weight"].shape[0],
                 hidden_size=state["vit.norm.weight"].numel(), mlp_dim=state["vit.blocks.0.mlp.linear1.bias"].numel())


def monai(path, out):
    f = torch.load(path, map_location="cpu")
    state, example = f["state_dict"], f["example"]
    net = of_state(state, example)
    net.load_state_dict(state, strict=True)
    with torch.no_grad():
        want = net(example["input"])
        off = (example["logits"] - want).abs().max() / want.square().mean().sqrt()
        fill(net, False)  # other values, so that reading them shows
        torch.save(dict(state_dict=net.state_dict(), example=dict(logits=net(example["input"]))), out)
    print(f"{path}: strict; logits are off by at most {off:.2g} of their rms")
    sys.exit(not off <= 1e-4)


def main(argv):
    if len(argv) == 3 and argv[1] == "fixtures":
        unetr_fixtures(argv[2])
        swin_fixtures(argv[2])
        unet_fixtures(argv[2])
    elif len(argv) == 4 and argv[1] == "monai":
        monai(argv[2], argv[3])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv)
