#!/usr/bin/env python3
"""A small file of the kind that tests/support/golden_ssl.h reads for VoCo, from a twin in PyTorch, in double: shares, losses in their
forms with gradients, three steps with a slow copy, a box resized; by the formulas of ../shared/golden/ssl/README.md with
another seed.

    voco_reference.py DIR                   writes DIR/voco.json (DIR: tests/fixtures/methods)

Needs torch 2 and numpy.
"""

import json
import sys

import torch
import torch.nn.functional as F
import unet_methods_reference as common
from unet_methods_reference import both, fill, uniform

common.SEED = 9
EPS = 1e-6


def share(start, size, at):
    """Of the box from start that lies in box `at` of a grid of such boxes"""
    part = 1
    for s, n, a in zip(start, size, at):
        part *= max(0, min(s, a * n) + n - max(s, a * n)) / n
    return part


def plane(centre):
    return [share([c - 48 for c in centre], [96, 96], [i, j]) for i in range(4) for j in range(4)]


def cosines(a, b):
    return F.relu(F.cosine_similarity(a[:, None], b[None], dim=2, eps=1e-8))


def both_ways(crop, base, slow_crop, slow_base):
    return (cosines(crop, slow_base) + cosines(slow_crop, base)) / 2


def terms(crop, base, label, slow_crop=None, slow_base=None, form="squares"):
    held = base.detach()
    y = cosines(crop, held) if slow_base is None else both_ways(crop, base, slow_crop, slow_base)
    distance = -torch.log(1 - (label - y).abs() + EPS)
    away = (label == 0).to(y.dtype)
    first, second = torch.triu_indices(len(base), len(base), 1)
    apart = F.relu(F.cosine_similarity(base[first], (base if slow_base is None else held)[second], dim=1, eps=1e-8))
    if form == "alike":
        return distance.mean(), None, apart.mean()
    others = distance if form == "logs" else y * y
    return ((label * distance).sum() / (label.sum() + EPS), (away * others).sum() / (away.sum() + EPS),
            apart.mean() if slow_base is None else (apart**2).mean())


def losses():
    def step(dtype):
        label = torch.tensor([plane(c) for c in ((85, 200), (150, 96))], dtype=dtype)
        out = dict(label=label)
        for i, name in enumerate(("pos", "neg", "reg", "nnssl", "lsm_ce")):
            x, xs = (uniform(n, 2, 12, times=1.5, offset=-0.5).to(dtype).requires_grad_(n.endswith("student")) for n in ("x_student", "x_teacher"))
            b, bs = (uniform(n, 16, 12, times=1.5, offset=-0.5).to(dtype).requires_grad_(n.endswith("student")) for n in ("bases_student", "bases_teacher"))
            if name == "nnssl":
                loss = sum(terms(x, b, label))
                out |= dict(nnssl_loss=loss, alike=terms(x, b, label, form="alike")[0])
                loss.backward()
                out |= dict(nnssl_grad_targets=x.grad, nnssl_grad_bases=b.grad)
            elif name == "lsm_ce":
                loss = sum(terms(x, b, label, xs, bs, form="logs")[:2])
                loss.backward()
                out |= dict(lsm_ce_loss=loss, lsm_ce_grad_x=x.grad, lsm_ce_grad_bases=b.grad)
            else:
                out["logits"] = both_ways(x, b, xs, bs)
                out[name] = terms(x, b, label, xs, bs)[i]
                out[name].backward()
                out |= {f"grad_{name}_bases": b.grad} | ({f"grad_{name}_x": x.grad} if i < 2 else {})
        return out

    return {"in": "x_*, bases_* = 1.5u-0.5 (2,12), (16,12); labels of centres (85,200), (150,96)", "out": both(step)}


class Twin(torch.nn.Module):
    """A linear layer in place of the encoder, and the projection"""

    def __init__(self):
        super().__init__()
        self.feat = torch.nn.Linear(12, 10)
        layer = torch.nn.ModuleDict
        self.proj_head = layer({f"layer{i + 1}": layer({"0": torch.nn.Linear(n, m)}) for i, (n, m) in enumerate(((10, 14), (14, 14), (14, 9)))})

    def forward(self, x):
        x = self.feat(x)
        for i in (1, 2):
            x = F.relu(F.batch_norm(self.proj_head[f"layer{i}"]["0"](x), None, None, training=True, eps=1e-5))
        return self.proj_head["layer3"]["0"](x)


def steps():
    centres = [[70, 90], [300, 48], [200, 160], [96, 335]]

    def run(dtype):
        student, teacher = Twin().double(), Twin().double()
        fill(student, "student."), fill(teacher, "teacher.")
        student, teacher = student.to(dtype), teacher.to(dtype)
        x = torch.cat([uniform("img", 4, 12), uniform("crops", 32, 12)]).to(dtype)
        done = {}
        for n in range(3):
            v = student(x)
            with torch.no_grad():
                for p, q in zip(teacher.parameters(), student.parameters()):
                    p.copy_(0.9 * p + 0.1 * q)
                w = teacher(x)
            each = []
            for i in range(2):
                label = torch.tensor([plane(c) for c in centres[2 * i:2 * i + 2]], dtype=dtype)
                rows, bases = slice(2 * i, 2 * i + 2), slice(4 + 16 * i, 20 + 16 * i)
                each.append(terms(v[rows], v[bases], label, w[rows], w[bases]))
            pos, neg, reg = (sum(t) / 2 for t in zip(*each))
            student.zero_grad()
            (pos + neg + reg).backward()
            named = dict(student.named_parameters())
            done[str(n)] = dict(pos=pos, neg=neg, reg=reg, grad={"student." + k: p.grad.clone() for k, p in named.items()} if n != 1 else {},
                                teacher={k: p.clone() for k, p in teacher.named_parameters()} if n == 2 else {})
            with torch.no_grad():
                for p in named.values():
                    p -= 0.1 * p.grad
        return done

    return {"in": dict(centres=centres), "out": dict(steps=list(both(run).values()))}


def crop_resize():
    start = [6, 0, 0]

    def step(dtype):
        box = uniform("vol", 12, 12, 9).to(dtype)[6:12, 0:6, 0:9]
        return dict(crop=box, resized=F.interpolate(box[None, None], (4, 4, 6), mode="trilinear", align_corners=True)[0, 0])

    return {"in": "vol uniform (12,12,9)", "out": dict(crop_start=start, **both(step))}


def main():
    size = [64, 64, 32]
    solid = [dict(offset=o, label=[share(o, size, [i, j, k]) for i in (0, 1) for j in (0, 1) for k in (0, 1)]) for o in ([3, 40, 31], [64, 0, 7])]
    cases = dict(labels={"out": [dict(center=c, label=plane(c)) for c in ([48, 100], [222, 335])]}, labels_3d={"out": solid},
                 losses=losses(), step=steps(), crop_resize=crop_resize())
    with open(f"{sys.argv[1]}/voco.json", "w") as f:
        json.dump(dict(seed=common.SEED, method="voco", code="voco_reference.py", cases=cases), f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    main()
