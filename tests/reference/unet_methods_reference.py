#!/usr/bin/env python3
"""Small files of the kind that tests/support/golden_ssl.h reads for the methods on U-Nets, from twins in PyTorch, in double:
one tiny step of each with losses and gradients, by the formulas of ../shared/golden/ssl/README.md with another seed.

    unet_methods_reference.py DIR           writes DIR/models_genesis.json, m3ae.json, gvsl.json, transvw.json (DIR: tests/fixtures/methods)

Axes a, b, c of volumes are D, H, W. Needs torch 2, numpy and scipy.
"""

import json
import math
import sys

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from golden_net_reference import GVSL, ModelsGenesis
from golden_net_reference import uniform as stream

SEED = 5


def rounded(x):
    return torch.tensor(np.asarray(x).astype(np.float32).astype(np.float64))


def uniform(name, *shape, times=1, offset=0):
    return rounded(times * stream(name, math.prod(shape), SEED).reshape(shape) + offset)


def parameter(name, shape):
    v = 0.1 * (2 * stream(name, math.prod(shape), SEED).reshape(shape) - 1)
    if name.endswith(".weight"):
        v = v * 10 * math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 1 + v
    return rounded(v)


def fill(net, prefix=""):
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(parameter(prefix + name, p.shape))


def packed(double, single, count=6):
    v, w = (t.detach().double().numpy().ravel() for t in (double, single))
    rms = math.sqrt((v * v).mean())
    if v.size == 1:
        return dict(value=float("%.10g" % v[0]), dev32=float("%.1e" % (abs(w - v)[0] / abs(v[0]))))
    if rms < 1e-12:
        return dict(shape=list(double.shape), zero=1, largest32=float("%.1e" % abs(w).max()))
    at = np.unique((np.arange(count) + 0.5) / count * v.size).astype(int)
    return dict(shape=list(double.shape), mean=float("%.10g" % v.mean()), l2=float("%.10g" % math.sqrt((v * v).sum())),
                cosdot=float("%.10g" % (v * np.cos(0.7 * np.arange(v.size))).sum()), index=at.tolist(),
                value=[float("%.10g" % x) for x in v[at]], dev32=float("%.1e" % (abs(w - v).max() / rms)))


def both(step):
    """Of what step(dtype) gives, a dict of tensors and of dicts of them: packed, with what float32 costs."""
    def pack(a, b):
        return {k: pack(a[k], b[k]) if isinstance(a[k], dict) else packed(a[k], b[k]) for k in a}
    return pack(step(torch.float64), step(torch.float32))


def gradients(net, names, prefix=""):
    p = dict(net.named_parameters())
    return {prefix + n: p[n].grad for n in names}


def curve(p, falling, x):
    t = np.linspace(0, 1, 100000)
    s = 1 - t
    u, v = (3 * t * s * s * a + 3 * t * t * s * b + t**3 for a, b in ((p[0], p[2]), (p[1], p[3])))
    return np.interp(x, np.sort(u), np.sort(v)[::-1] if falling else np.sort(v))


def genesis():
    def step(dtype):
        net = ModelsGenesis(inputs=1, n_class=1, width=2).double()
        fill(net)
        net = net.to(dtype)
        x, y = (uniform(n, 2, 1, 16, 16, 16).to(dtype) for n in "xy")
        prediction = net(x)
        loss = F.mse_loss(prediction, y)
        loss.backward()
        names = ["down_tr64.ops.0.bn1.weight", "down_tr128.ops.1.conv1.weight", "up_tr128.up_conv.weight",
                 "up_tr64.ops.1.bn1.bias", "out_tr.final_conv.weight", "out_tr.final_conv.bias"]
        return dict(loss=loss, prediction=prediction, grad=gradients(net, names))

    x = np.linspace(-0.05, 1.05, 12)
    out = []
    for i in range(3):
        p = stream(f"curve.{i}", 4, SEED)
        out += [dict(x1y1x2y2=p.tolist(), reversed=f, y=curve(p, f, x).tolist()) for f in (0, 1)]
    return dict(bezier={"in": dict(x=x.tolist()), "out": out}, network={"in": dict(width=2), "out": both(step)})


class Residual(torch.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.gn1, self.conv1 = torch.nn.GroupNorm(8, w), torch.nn.Conv3d(w, w, 3, padding=1)
        self.gn2, self.conv2 = torch.nn.GroupNorm(8, w), torch.nn.Conv3d(w, w, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.gn2(self.conv1(F.relu(self.gn1(x))))))


class Unet3d(torch.nn.Module):
    """Twin of the UNET3D of M3AE."""

    def __init__(self, channels, n):
        super().__init__()
        conv = torch.nn.Conv3d
        self.conv1a, self.conv1b = conv(channels, n, 3, padding=1), Residual(n)
        for i, blocks in ((2, "ab"), (3, "ab"), (4, "abcd")):
            self.add_module(f"ds{i - 1}", conv(n << i - 2, n << i - 1, 3, stride=2, padding=1))
            for b in blocks:
                self.add_module(f"conv{i}{b}", Residual(n << i - 1))
        for i in (4, 3, 2):
            self.add_module(f"up{i}conva", conv(n << i - 1, n << i - 2, 1))
            self.add_module(f"up{i}convb", Residual(n << i - 2))
        self.up1conv = conv(n, channels, 1)

    def forward(self, x):
        skip = []
        x = self.conv1b(self.conv1a(x))
        for i, blocks in ((2, "ab"), (3, "ab"), (4, "abcd")):
            skip.append(x)
            x = getattr(self, f"ds{i - 1}")(x)
            for b in blocks:
                x = getattr(self, f"conv{i}{b}")(x)
        for i in (4, 3, 2):
            x = F.interpolate(getattr(self, f"up{i}conva")(x), scale_factor=2, mode="nearest") + skip[i - 2]
            x = getattr(self, f"up{i}convb")(x)
        return self.up1conv(x)


def m3ae():
    edge, patch, m, grid, starts = 16, 8, 2, (18, 17, 20), [[1, 1, 3], [-1, 0, 6]]
    draws = ["iiccicc", [1, 0, 3, 5, 0, 9, 2]]  # of 16 patches two are kept: of modality 1, then of both
    kept = [[8 + 3, 8 + 6], [9, 2]]  # what is left after the first has one place less

    def step(dtype):
        net = Unet3d(m, 8).double()
        fill(net, "unet.")
        net = net.to(dtype)
        x, limage = uniform("image", 2, m, edge, edge, edge).to(dtype), uniform("limage", 1, m, *grid, times=2, offset=-1).to(dtype)
        limage.requires_grad_(True)
        see = torch.zeros(2, m, 2, 2, 2, dtype=dtype)
        for i in range(2):
            for k in kept[i]:
                see[i].view(-1)[k] = 1
        see = see.repeat_interleave(patch, 2).repeat_interleave(patch, 3).repeat_interleave(patch, 4)
        around = F.pad(limage[0], (4,) * 6)  # outside of the image there are zeros
        fill_in = torch.stack([around[:, a + 4:a + 4 + edge, b + 4:b + 4 + edge, c + 4:c + 4 + edge] for a, b, c in starts])
        mse = F.mse_loss(net(x * see + fill_in * (1 - see)), x)
        reg = torch.linalg.vector_norm(limage - limage.mean((2, 3, 4), keepdim=True))
        loss = mse + 0.005 * reg
        loss.backward()
        names = ["conv1a.weight", "conv1b.gn1.weight", "ds2.bias", "conv4d.conv2.weight", "up3conva.weight", "up1conv.bias"]
        return dict(mse=mse, reg=reg, loss=loss, grad=dict(limage=limage.grad, **gradients(net, names, "unet.")))

    given = dict(width=8, modalities=m, crop=edge, patch=patch, grid=list(grid), crop_starts_per_sample=starts,
                 draws_of_both_samples_per_step=[draws])
    return dict(step={"in": given, "out": dict(steps=[both(step)])})


def double_conv(i, o):
    seq = []
    for k in (i, o):
        seq += [torch.nn.Conv3d(k, o, 3, padding=1), torch.nn.GroupNorm(max(o // 8, 1), o), torch.nn.LeakyReLU(0.2)]
    return torch.nn.ModuleDict(dict(double_conv=torch.nn.Sequential(*seq)))


class Heads(torch.nn.Module):
    """Twin of GVSL's network and heads, of width w."""

    def __init__(self, w):
        super().__init__()
        self.unet = GVSL(inputs=1, width=w)
        self.f_conv, self.sp_conv = double_conv(32 * w, 8 * w), double_conv(2 * w, w // 2)
        self.res_conv = torch.nn.Sequential(torch.nn.Conv3d(w, w // 2, 3, padding=1), torch.nn.GroupNorm(4, w // 2),
                                            torch.nn.LeakyReLU(0.2), torch.nn.Conv3d(w // 2, 1, 1))
        self.out_flow = torch.nn.Conv3d(w // 2, 3, 3, padding=1)
        self.fc_rot, self.fc_scl, self.fc_trans = (torch.nn.Linear(8 * w, 3) for _ in range(3))
        self.fc_shear = torch.nn.Linear(8 * w, 6)

    def matrix(self, x):
        x = self.f_conv["double_conv"](x).mean((2, 3, 4))
        rot, scl = self.fc_rot(x)[0].clamp(-1, 1) * math.pi / 9, self.fc_scl(x)[0].clamp(-1, 1) * 0.25 + 1
        shear, m = torch.tan(self.fc_shear(x)[0].clamp(-1, 1) * math.pi / 18), torch.eye(3, dtype=x.dtype)
        for a in range(3):
            p, q, r = (a + 1) % 3, (a + 2) % 3, torch.eye(3, dtype=x.dtype)
            r[p, p] = r[q, q] = torch.cos(rot[a])
            r[p, q], r[q, p] = -torch.sin(rot[a]), torch.sin(rot[a])
            m = r @ m
        h = torch.eye(3, dtype=x.dtype)
        h[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = shear
        return torch.cat([h @ torch.diag(scl) @ m, self.fc_trans(x).T], 1)[None]


def affine(x, m):
    m = m / torch.tensor([[1, 1, 1, n] for n in x.shape[2:]], dtype=x.dtype)
    return F.grid_sample(x, F.affine_grid(m, x.shape, align_corners=False), align_corners=False)


def warp(x, flow):
    size = flow.shape[2:]
    at = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=x.dtype) for n in size], indexing="ij"))[None] + flow
    at = torch.stack([2 * at[:, i] / (size[i] - 1) - 1 for i in (2, 1, 0)], -1)
    return F.grid_sample(x, at, align_corners=False)


def correlation(i, j):
    def box(x):
        return F.conv3d(x, torch.ones(1, 1, 9, 9, 9, dtype=x.dtype), padding=4)
    cross = box(i * j) - box(i) * box(j) / 729
    one, two = box(i * i) - box(i) ** 2 / 729, box(j * j) - box(j) ** 2 / 729
    return 1 - (cross**2 / (one * two + 1e-5)).mean()


def gvsl():
    def step(dtype, learns):
        net = Heads(8).double()
        fill(net)
        net = net.to(dtype)
        a, spoilt, b = (uniform(n, 1, 1, 16, 16, 16).to(dtype) for n in ("A", "A_aug", "B"))
        (ga, fa), (gb, fb) = net.unet(spoilt), net.unet(b)
        m = net.matrix(torch.cat([gb, ga], 1))
        m = m if learns else m.detach()
        flow = net.out_flow(net.sp_conv["double_conv"](torch.cat([affine(fb, m), fa], 1)))
        restored = net.res_conv(fa)
        ncc, mse = correlation(warp(affine(b, m), flow), a), F.mse_loss(restored, a)
        smooth = sum((flow.diff(dim=i) ** 2).mean() for i in (2, 3, 4)) / 3
        loss = ncc + mse + smooth
        loss.backward()
        names = ["unet.inc.double_conv.0.weight", "unet.up1.conv.double_conv.4.bias", "sp_conv.double_conv.3.weight",
                 "out_flow.weight", "res_conv.1.weight", "res_conv.3.bias"]
        names += ["f_conv.double_conv.0.weight", "fc_rot.weight", "fc_shear.bias"] if learns else []
        return dict(loss=loss, ncc=ncc, mse=mse, smooth=smooth, mat=m, flow=flow, grad=gradients(net, names))

    out = dict(release=both(lambda t: step(t, False)), with_affine_gradient=both(lambda t: step(t, True)))
    return dict(step={"in": dict(width=8), "out": out})


class Words(torch.nn.Module):
    """Twin of TransVW's network: that of Models Genesis with a head on its coarsest map, of width w."""

    def __init__(self, w, n):
        super().__init__()
        for name, part in ModelsGenesis(inputs=1, n_class=1, width=w).named_children():
            self.add_module(name, part)
        self.clc_out = torch.nn.ModuleDict(dict(conv1=torch.nn.Conv3d(16 * w, 32 * w, 3, padding=1),
                                                bn1=torch.nn.BatchNorm3d(32 * w), fc1=torch.nn.Linear(32 * w, n)))

    def forward(self, x):
        a = self.down_tr64(x)
        b = self.down_tr128(F.max_pool3d(a, 2))
        c = self.down_tr256(F.max_pool3d(b, 2))
        last = self.down_tr512(F.max_pool3d(c, 2))
        x = self.up_tr64(self.up_tr128(self.up_tr256(last, c), b), a)
        y = F.relu(self.clc_out["bn1"](self.clc_out["conv1"](last))).mean((2, 3, 4))
        return self.out_tr["final_conv"](x).sigmoid(), self.clc_out["fc1"](y)


class Coder(torch.nn.Module):
    """Twin of examples/methods/coder.c."""

    def __init__(self, w):
        super().__init__()
        self.coder = torch.nn.Module()
        sizes = [1, w, 2 * w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w, 16 * w, 8 * w, 8 * w, 4 * w, 4 * w, 2 * w, 2 * w]
        for i in range(14):
            self.coder.add_module(f"conv{i}", torch.nn.Conv3d(sizes[i], sizes[i + 1], 3, padding=1))
            self.coder.add_module(f"norm{i}", torch.nn.BatchNorm3d(sizes[i + 1]))
        self.coder.last = torch.nn.Conv3d(2 * w, 1, 1)

    def forward(self, x):
        """Codes, and what is made of them"""
        for i in range(14):
            if i in (2, 4, 6):
                x = F.max_pool3d(x, 2)
            if i in (8, 10, 12):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.relu(getattr(self.coder, f"norm{i}")(getattr(self.coder, f"conv{i}")(x)))
            if i == 7:
                code = x.mean((2, 3, 4))
        return code, self.coder.last(x).sigmoid()


def gaussian(x):
    t = np.arange(-32, 33)
    kernel = np.exp(-t * t / 128)
    for axis in range(3):
        x = np.apply_along_axis(lambda row: np.convolve(np.pad(row, 32), kernel / kernel.sum(), "valid"), axis, x)
    return 991 * x


def elastic(shape):
    """SciPy's linear sampling, whose mode "reflect" mirrors at the outer faces."""
    image = uniform("image.elastic", *shape).numpy()
    dx, dy = (gaussian(2 * uniform(f"elastic.d{k}", *shape).numpy() - 1) for k in (1, 2))
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    y = scipy.ndimage.map_coordinates(image, [i + dy, j + dx, k], order=1, mode="reflect")
    return {k: packed(torch.tensor(v), torch.tensor(v), 24) for k, v in (("dx", dx), ("y", y))}


def transvw():
    def losses(dtype):
        z, rec = uniform("logits", 3, 7, times=6, offset=-3).to(dtype), uniform("rec", 3, 1, 2, 3, 4).to(dtype)
        z.requires_grad_(True), rec.requires_grad_(True)
        ce = 0.01 * F.cross_entropy(z, torch.tensor([2, 0, 5]))
        mse = F.mse_loss(rec, uniform("target", 3, 1, 2, 3, 4).to(dtype))
        (ce + mse).backward()
        return dict(cce_weighed=ce, mse=mse, loss=ce + mse, grad_logits=z.grad, grad_rec=rec.grad)

    def step(dtype):
        net = Words(2, 5).double()
        fill(net)
        net = net.to(dtype)
        x, y = (uniform(n, 2, 1, 16, 16, 16).to(dtype) for n in "xy")
        prediction, logits = net(x)
        ce = 0.01 * F.cross_entropy(logits, torch.tensor([3, 1]))
        loss = F.mse_loss(prediction, y) + ce
        loss.backward()
        names = ["down_tr64.ops.0.bn1.weight", "down_tr512.ops.1.conv1.weight", "up_tr128.up_conv.weight",
                 "out_tr.final_conv.bias", "clc_out.conv1.weight", "clc_out.bn1.weight", "clc_out.fc1.weight", "clc_out.fc1.bias"]
        return dict(loss=loss, cce_weighed=ce, prediction=prediction, classes=logits.softmax(1), grad=gradients(net, names))

    def coder(dtype):
        net = Coder(2).double()
        fill(net)
        net = net.to(dtype)
        x = uniform("regions", 2, 1, 16, 16, 16).to(dtype)
        loss = F.mse_loss(net(x)[1], x)
        loss.backward()
        names = ["coder.conv0.weight", "coder.norm3.weight", "coder.conv7.weight", "coder.conv8.weight", "coder.norm13.bias",
                 "coder.last.weight"]
        return dict(loss=loss, code=net.eval()(x)[0], grad=gradients(net, names))

    r = [0.1, 0.25, 0.26, 0.5, 0.51, 0.75, 0.76, 0.999]
    kinds = ["shuffle", "nonlinear", "in-paint", "out-paint"]
    x = stream("features", 12 * 16, SEED).reshape(12, 16)
    order = np.argsort(np.sqrt(((x - x[7]) ** 2).sum(1)), kind="stable")
    return dict(elastic={"in": {}, "out": elastic((20, 20, 12))}, loss={"in": {}, "out": both(losses)},
                choice={"in": "r", "out": dict(r=r, perturbation=[kinds[min(math.ceil(4 * v) - 1, 3)] for v in r])},
                nearest={"in": "reference row 7", "out": dict(order=order.tolist())},
                network={"in": dict(width=2), "out": both(step)}, coder={"in": dict(width=2), "out": both(coder)})


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, cases in (("models_genesis", genesis), ("m3ae", m3ae), ("gvsl", gvsl), ("transvw", transvw)):
        with open(f"{sys.argv[1]}/{name}.json", "w") as f:
            json.dump(dict(seed=SEED, method=name, code="unet_methods_reference.py", cases=cases()), f, separators=(",", ":"))
            f.write("\n")


if __name__ == "__main__":
    main()
