#!/usr/bin/env python3
"""AdamW, Adam, SGD with momentum, gradient norm and cosine schedules of PyTorch: reference for the optimizers of bmvp_nn.h.

    optim_reference.py FILE.safetensors

Two parameters, "a" of 70 001 elements (more than one piece of work) and "b" of 5; values and gradients by the formula
of networks_reference.py, streams "optim.a" and "optim.a.grad<step>". In step 2 "b" has no gradient. "groups": b has 5
times the rate and no decay. Computed in double,
stored as float32, "a" thinned to every 701st element. Needs torch, numpy, safetensors.
"""
import math
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

from networks_reference import uniform

SIZES = {"a": 70001, "b": 5}
STEPS, LIMIT = 6, 0.5
LR = (1e-3, 5e-3, 2e-3, 1e-3, 4e-3, 1e-4)


def value(name):
    return 2 * uniform("optim." + name, SIZES[name]) - 1


def gradient(name, step):
    """Sizes from 1e-6 to 1, so that epsilon and the square's decay both matter"""
    u = uniform("optim.%s.grad%d" % (name, step), SIZES[name])
    return ((2 * u - 1) * 10.0 ** (-2 * (np.arange(SIZES[name]) % 4))).astype(np.float32)


def run(make, clip):
    """name -> {a, b, moments after the last step}, norm of each step"""
    p = {name: torch.tensor(value(name).astype(np.float32)).double().requires_grad_(True) for name in SIZES}
    optimizer, norms = make(list(p.values())), []
    for step in range(STEPS):
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = LR[step] * (5 if i else 1)
        for name, t in p.items():
            t.grad = None if name == "b" and step == 2 else torch.tensor(gradient(name, step)).double()
        limit = LIMIT if clip else math.inf
        norms.append(float(torch.nn.utils.clip_grad_norm_(p.values(), limit)))
        optimizer.step()
    out = {name: t.detach() for name, t in p.items()}
    for name, t in p.items():
        for key, moment in optimizer.state[t].items():
            if key != "step":
                out["%s.%s" % (name, key)] = moment
    return out, norms


def average():
    """MoCo's momentum encoder: after every of the steps, keep .9, towards the gradients as if they were parameters"""
    out = {}
    for name in SIZES:
        t = torch.tensor(value(name).astype(np.float32)).double()
        for step in range(STEPS):
            t = 0.9 * t + 0.1 * torch.tensor(gradient(name, step)).double()
        out["average." + name] = t
    return out


def schedule(make, steps):
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=3e-4)
    s, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        s.step()
    return np.array(rates, np.float32)


def main(argv):
    if len(argv) != 2:
        sys.exit(__doc__)
    cases = {"adamw": (lambda p: torch.optim.AdamW(p, weight_decay=0.01), False),
             "adamw_clip": (lambda p: torch.optim.AdamW(p, betas=(0.8, 0.95), weight_decay=0.1), True),
             "amsgrad": (lambda p: torch.optim.AdamW(p, betas=(0.9, 0.7), weight_decay=0.01, amsgrad=True), False),
             "groups": (lambda p: torch.optim.AdamW([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0}],
                                                    weight_decay=0.05), False),
             "adam": (lambda p: torch.optim.Adam(p, weight_decay=0.01), False),
             "sgd": (lambda p: torch.optim.SGD(p, lr=1, momentum=0.9, weight_decay=0.01), False)}
    tensors = {}
    for case, (make, clip) in cases.items():
        out, norms = run(make, clip)
        for name, t in out.items():
            tensors["%s.%s" % (case, name)] = t.numpy()[::701 if name[0] == "a" else 1].astype(np.float32)
        tensors[case + ".norms"] = np.array(norms, np.float32)
    for name, t in average().items():
        tensors[name] = t.numpy()[::701 if name[-1] == "a" else 1].astype(np.float32)
    lr = torch.optim.lr_scheduler
    tensors["cosine"] = schedule(lambda o: lr.CosineAnnealingLR(o, 40), 40)
    tensors["cosine_half"] = schedule(lambda o: lr.CosineAnnealingLR(o, 20), 40)
    tensors["steps"] = schedule(lambda o: lr.StepLR(o, 7, 0.5), 40)
    save_file(tensors, argv[1])


if __name__ == "__main__":
    main(sys.argv)
