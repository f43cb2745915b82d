#!/usr/bin/env python3
"""The rows of bench_step.c on a GPU in PyTorch at its best: the peer of `make bench-cuda`.

    twin_gpu.py [--only ROW] [--reps N] [--json] [--device cuda|cpu] [--crop N]

Each row is tried eager and through torch.compile, as it is and with CUDA graphs, contiguous and in channels_last_3d; the
fastest counts. All run under bfloat16 autocast, with cudnn.benchmark, the fused AdamW and scaled_dot_product_attention. A
run is five calls between two waits for the GPU, divided by five, as on our side; inputs come from pinned memory in every
call, and nothing waits in between. Memory is what the allocator has handed out at most. --device cpu and a small --crop are
for trying this file out.
"""
import argparse
import json
import sys
import time

import twin  # says SKIP and ends where torch is missing

import numpy as np
import torch
import torch.nn.functional as F

nets = twin.nets
CALLS = 5
ROWS = {  # model, what, batch: crops of a call; those of the real step are cases, with two views each
    "step": ("uniformer", "step", 1), "real": ("uniformer", "real", 3), "inference": ("uniformer", "encode", 8),
    "unet3d_forward": ("unet3d", "forward", 1), "unet3d_step": ("unet3d", "step", 1),
    "uniunet_forward": ("uniunet", "forward", 1), "uniunet_step": ("uniunet", "step", 2),
}


WAYS = {"eager": None, "compiled": "default", "compiled with graphs": "reduce-overhead"} if twin.COMPILE else {"eager": None}


def dice(logits, target):
    """Of each crop and region, as bmvp_soft_dice"""
    q, axes = logits.sigmoid(), (2, 3, 4)
    return (1 - (2 * (q * target).sum(axes) + 1e-5) / (q.sum(axes) + target.sum(axes) + 1e-5)).mean()


class Loss(torch.nn.Module):
    """A network with what comes after it, so that all of it is compiled."""

    def __init__(self, model, what, layout):
        super().__init__()
        self.net = twin.Net(model, "forward" if what == "real" else what, layout)
        self.model, self.what = model, what
        if what == "real":
            self.template = torch.nn.Parameter(torch.zeros([8] + [n * twin.CROP // 96 for n in (155, 240, 240)]))

    def real(self, x, other):
        cases, crop, blocks = len(x), twin.CROP, twin.CROP // 8
        z, y = 20 * crop // 96, 70 * crop // 96
        crops = [self.template[i, z + i: z + i + crop, y - i: y - i + crop, y - i: y - i + crop] for i in range(cases)]
        kept = torch.rand(2 * cases, blocks ** 3, device=x.device).argsort(1)[:, : blocks ** 3 // 8]
        mask = torch.ones(2 * cases, blocks ** 3, device=x.device).scatter(1, kept, 0.0).reshape(-1, blocks, blocks, blocks) > 0
        mask = mask.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
        views = torch.where(mask, torch.cat([torch.stack(crops), other]), torch.cat([x, x]))[:, None]
        p = {name: getattr(self.net, field) for name, field in self.net.names}
        last = nets.uniformer_encode(p, self.net.cfg, views.permute(0, 1, 3, 4, 2), True)[3]
        rec = nets.uniformer_decode(p, self.net.cfg, last).permute(0, 1, 4, 2, 3)[:, 0].float()
        return 10 * F.mse_loss(rec[:cases], x) + F.mse_loss(rec[cases:], x) + nets.contrast(last[:cases].float(), last[cases:].float())

    def forward(self, x, target):
        if self.what == "real":
            return self.real(x, target)
        y = self.net(x)
        if self.what != "step":
            return y
        return sum(dice(t.float(), target) for t in y) if self.model == "uniunet" else F.mse_loss(y.float(), x)


def inputs(args, model, what, batch, layout):
    """In the memory that copies to the GPU start from"""
    if what == "real":
        size = (twin.CROP,) * 3
        pair = [torch.from_numpy(np.stack([nets.volume(c, m, size) for c in range(batch)])).permute(0, 3, 1, 2).contiguous()
                for m in (1, 3)]
    else:
        pair = [twin.in_layout(t.expand(batch, -1, -1, -1, -1), layout) for t in twin.inputs(model, layout)]
    return [t.pin_memory() for t in pair] if args.device == "cuda" else pair


def wait(args):
    if args.device == "cuda":
        torch.cuda.synchronize()


def sample(args, run):
    wait(args)
    start = time.perf_counter()
    for _ in range(CALLS):
        run()
    wait(args)
    return (time.perf_counter() - start) / CALLS


def variant_run(args, row, layout, way):
    """One call of a row, as a function"""
    model, what, batch = ROWS[row]
    module = Loss(model, what, layout).to(args.device)
    module.train(what in ("step", "real"))
    call = torch.compile(module, mode=WAYS[way]) if WAYS[way] else module
    host = inputs(args, model, what, batch, layout)
    learns = what in ("step", "real")
    optimizer = twin.adamw(module.parameters()) if learns else None

    def run():
        x, target = [t.to(args.device, non_blocking=True) for t in host]
        with torch.autocast(args.device, dtype=torch.bfloat16), torch.set_grad_enabled(learns):
            y = call(x, target)
        if learns:
            optimizer.zero_grad(set_to_none=True)
            y.backward()
            optimizer.step()

    return run


def measure(args, row, layout, way):
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if WAYS[way]:
        torch._dynamo.reset()
    run = variant_run(args, row, layout, way)
    crops = ROWS[row][2] if ROWS[row][1] == "encode" else 1
    sample(args, run)  # kernels are chosen and compiled
    times = sorted(sample(args, run) / crops for _ in range(args.reps))
    median = (times[len(times) // 2] + times[(len(times) - 1) // 2]) / 2
    peak = torch.cuda.max_memory_allocated() * 1e-6 if args.device == "cuda" else 0
    return dict(row=row, median_ms=round(median * 1e3, 4), best_ms=round(times[0] * 1e3, 4), spread=round((times[-1] - times[0]) / median, 3),
                runs=len(times), layout="%s, %s" % (way, layout), peak_mb=round(peak, 1))


def bench(args, row):
    best = None
    for layout in twin.LAYOUTS:
        for way in WAYS:
            try:
                found = measure(args, row, layout, way)
            except RuntimeError as e:  # memory, or something the compiler cannot do: another variant counts
                print("%s: %s %s failed: %s" % (row, layout, way, str(e).splitlines()[0]), file=sys.stderr)
                continue
            if not args.json:
                print("%-16s %-28s %10.3f ms  best %10.3f  peak %6.0f MB" % (row, found["layout"], found["median_ms"], found["best_ms"],
                                                                             found["peak_mb"]), flush=True)
            if not best or found["median_ms"] < best["median_ms"]:
                best = found
    if best and args.json:
        print(json.dumps(best, separators=(",", ":")), flush=True)


def versions(args):
    cudnn = torch.backends.cudnn.version() if args.device == "cuda" else 0
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    said = dict(torch=torch.__version__, cuda=str(torch.version.cuda), cudnn=cudnn, gpu=gpu)
    print(json.dumps(said, separators=(",", ":")) if args.json else "PyTorch %(torch)s, CUDA %(cuda)s, cuDNN %(cudnn)s, %(gpu)s" % said)
    release = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if args.device == "cuda" and release >= (2, 9) and cudnn < 91500:
        print("warning: this PyTorch does not give 3-D convolutions in bfloat16 to cuDNN before 9.15: the comparison is unfair", file=sys.stderr)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--only", choices=sorted(ROWS))
    a.add_argument("--reps", type=int, default=7)
    a.add_argument("--json", action="store_true")
    a.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    a.add_argument("--crop", type=int, default=96)
    args = a.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("SKIP: this torch finds no GPU")
        return
    torch.backends.cudnn.benchmark = True
    twin.CROP = args.crop
    if twin.FLASH:
        nets.attention = twin.flash_attention
    nets.norm_each = twin.norm_one
    versions(args)
    for row in ROWS:
        if args.only in (None, row):
            bench(args, row)


if __name__ == "__main__":
    main()
