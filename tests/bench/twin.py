#!/usr/bin/env python3
"""The rows of bench_step.c in PyTorch at its best: the peer of `make bench`.

    twin.py [--only ROW] [--full] [--threads N] [--reps N] [--json] [--prepare CASE_DIR] [--metrics [SEG]]

Each row is tried in every memory layout (contiguous, channels_last_3d) and, where there are several ways to write it,
in each; one run decides, the fastest is then measured. Start it with the allocator that keeps memory instead of giving
it back (tests/bench/run.sh does): MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=536870912.
Runs with PyTorch 1.13 and later. Where MONAI is installed, --prepare times its preparation of a case and --metrics its
HD95 and Dice on the masks of bench_metrics.c, SEG the real file among them.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("SKIP: torch is not installed for this Python")
    sys.exit(0)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "reference"))
try:
    import networks_reference as nets
except ImportError as missing:  # it needs numpy and safetensors
    print("SKIP: tests/reference/networks_reference.py cannot be imported: %s" % missing)
    sys.exit(0)

CROP = 96
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
FLASH = hasattr(F, "scaled_dot_product_attention")


# ---------------------------------------------------------------------------------------------------------------------
# Measuring

def peak_reset():
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def peak_mb():
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024e-6
    except (OSError, StopIteration):
        return 0.0


def timed(run):
    start = time.perf_counter()
    parts = run()
    return parts if parts else (time.perf_counter() - start,)


def measure(variants, reps):
    """variants: name -> function that makes `run`, which returns None or its own times. For each of these times the
    fastest variant, sorted times and the largest resident size."""
    if len(variants) == 1:
        name, make = next(iter(variants.items()))
        run = make()
        timed(run)
        peak_reset()
        runs = [timed(run) for _ in range(reps)]
        return [(name, sorted(part), peak_mb()) for part in zip(*runs)]
    probe = {}
    for name, make in variants.items():
        run = make()
        timed(run)
        probe[name] = timed(run)
        del run
    out = []
    for part in range(len(next(iter(probe.values())))):
        best = min(probe, key=lambda name: probe[name][part])
        peak_reset()
        run = variants[best]()
        timed(run)
        times = sorted(timed(run)[part] for _ in range(reps))
        out.append((best, times, peak_mb()))
        del run
    return out


def report(args, row, name, times, peak):
    median = (times[len(times) // 2] + times[(len(times) - 1) // 2]) / 2
    spread = (times[-1] - times[0]) / median
    if args.json:
        print(json.dumps(dict(row=row, median_ms=round(median * 1e3, 4), best_ms=round(times[0] * 1e3, 4),
                              spread=round(spread, 3), runs=len(times), layout=name, peak_mb=round(peak, 1))))
    else:
        print("%-32s %10.2f ms  best %10.2f  spread %3.0f%%  %-28s peak %6.0f MB" %
              (row, median * 1e3, times[0] * 1e3, spread * 100, name, peak))
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Networks

def flash_attention(p, b, t, head):
    n, tokens, width = t.shape
    q, k, v = nets.linear(p, b + "qkv", t).reshape(n, tokens, 3, width // head, head).permute(2, 0, 3, 1, 4)
    a = F.scaled_dot_product_attention(q, k, v)
    return nets.linear(p, b + "proj", a.transpose(1, 2).reshape(n, tokens, width))


def parameters(shapes, layout):
    torch.manual_seed(1)
    p = {}
    for name, shape in shapes:
        if name.endswith("num_batches_tracked"):
            p[name] = torch.zeros(())
        elif name.endswith("running_mean"):
            p[name] = torch.zeros(shape)
        elif name.endswith("running_var"):
            p[name] = torch.ones(shape)
        else:
            t = torch.randn(shape) * 0.02 + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)
            if t.dim() == 5:
                t = t.contiguous(memory_format=LAYOUTS[layout])
            p[name] = t.requires_grad_()
    return p


def network(model, what, layout):
    """what: step, encode or forward (with the decoder)"""
    if model == "uniformer":
        cfg = nets.UNIFORMER_SMALL
        p = parameters(nets.uniformer_shapes(cfg), layout)
    else:
        cfg = nets.UNET3D
        p = parameters(nets.unet3d_shapes(cfg), layout)
    x = torch.rand(1, 1, CROP, CROP, CROP).contiguous(memory_format=LAYOUTS[layout])

    def forward(training):
        if model == "unet3d":
            maps = nets.unet3d_encode(p, cfg, x)
            return nets.unet3d_decode(p, cfg, maps, False)
        maps = nets.uniformer_encode(p, cfg, x, training)
        return nets.uniformer_decode(p, cfg, maps[3]) if what != "encode" else maps

    def inference():
        with torch.no_grad():
            forward(False)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(forward(True), x).backward()
        optimizer.step()

    if what != "step":
        return inference
    trained = [t for t in p.values() if t.requires_grad]
    try:
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    except (RuntimeError, TypeError):  # before 2.4: no fused optimizer on the processor
        optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=True)
    return step


def bench_network(args, row, model, what):
    if not wanted(args, row):
        return
    if args.layout:
        for name, times, peak in measure({args.layout: lambda: network(model, what, args.layout)}, args.reps):
            report(args, row, name, times, peak)
        return

    def child(layout, reps, options):  # a process each: the memory one layout leaves behind is not the other's
        command = [sys.executable, os.path.abspath(__file__), "--only", row, "--layout", layout, "--reps", str(reps),
                   "--threads", str(torch.get_num_threads())] + options
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout

    best = min(LAYOUTS, key=lambda layout: json.loads(child(layout, 1, ["--json"]))["median_ms"])
    print(child(best, args.reps, ["--json"] if args.json else []).splitlines()[-1])
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Kernels: a function of operands, forward and backward timed apart

def kernel(call, operands, layout):
    leaves = [t.contiguous(memory_format=LAYOUTS[layout]) if t.dim() == 5 else t for t in operands]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    cotangent = torch.randn_like(call(*leaves).detach())

    def run():
        for t in leaves:
            t.grad = None
        start = time.perf_counter()
        y = call(*leaves)
        middle = time.perf_counter()
        y.backward(cotangent)
        return middle - start, time.perf_counter() - middle

    return run


def attention_naive(qkv):
    q, k, v = qkv
    return (q @ k.transpose(-2, -1) * 0.125).softmax(-1) @ v


def attention_flash(qkv):
    return F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])


def mlp_linear(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def mlp_conv(x, w1, b1, w2, b2):
    return F.conv3d(F.gelu(F.conv3d(x, w1, b1)), w2, b2)


def kernel_rows():
    """row -> {variant: (function, operands, layout)}"""
    rows, rand = {}, torch.randn

    def conv(n, channels, k, groups):
        def call(x, w, b):
            return F.conv3d(x, w, b, padding=k // 2, groups=groups)
        return {layout: lambda layout=layout: kernel(call, [rand(1, channels, n, n, n),
                                                           rand(channels, channels // groups, k, k, k) * 0.1,
                                                           rand(channels)], layout) for layout in LAYOUTS}

    for k, channels, n in ((5, 64, 48), (3, 64, 48), (5, 128, 24), (3, 320, 12)):
        rows["depthwise%d_%d_%d" % (k, channels, n)] = conv(n, channels, k, channels)
    for m, i, o in ((110592, 64, 256), (110592, 256, 64), (110592, 64, 64), (13824, 128, 512), (13824, 512, 128),
                    (1728, 320, 1280), (1728, 1280, 320), (1728, 320, 960), (216, 512, 2048)):
        rows["linear_%d_%d_%d" % (m, i, o)] = dict(
            linear=lambda m=m, i=i, o=o: kernel(F.linear, [rand(m, i), rand(o, i), rand(o)], "contiguous"))
    calls = dict(naive=attention_naive)
    if FLASH:
        calls["scaled_dot_product"] = attention_flash
    rows["attention_5_1728_64"] = {name: lambda call=call: kernel(call, [rand(3, 1, 5, 1728, 64)], "contiguous")
                                   for name, call in calls.items()}
    for m, i, h in ((110592, 64, 256), (13824, 128, 512), (1728, 320, 1280)):
        n = round(m ** (1 / 3))
        rows["mlp_%d_%d_%d" % (m, i, h)] = dict(
            linear=lambda m=m, i=i, h=h: kernel(
                mlp_linear, [rand(m, i), rand(h, i) * 0.1, rand(h), rand(i, h) * 0.1, rand(i)], "contiguous"),
            **{"conv3d " + layout: lambda n=n, i=i, h=h, layout=layout: kernel(
                mlp_conv, [rand(1, i, n, n, n), rand(h, i, 1, 1, 1) * 0.1, rand(h), rand(i, h, 1, 1, 1) * 0.1,
                           rand(i)], layout) for layout in LAYOUTS})
    rows["conv3_64_48"] = conv(48, 64, 3, 1)
    return rows


def bench_kernels(args):
    for row, variants in kernel_rows().items():
        names = (row + "_forward", row + "_backward")
        if any(wanted(args, name) for name in names):
            for name, (variant, times, _) in zip(names, measure(variants, args.reps)):
                if wanted(args, name):
                    report(args, name, variant, times, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Preparation of a case with MONAI: the chain of `bmvp prepare`

def bench_prepare(args):
    try:
        from monai import transforms as T
    except ImportError:
        print("SKIP: prepare: monai is not installed for this Python", file=sys.stderr)
        return
    names = sorted(path for path in glob.glob(os.path.join(args.prepare, "*.nii*"))
                   if not os.path.basename(path).startswith("seg"))
    keys = [os.path.basename(path).split(".")[0] for path in names]
    chain = T.Compose([T.LoadImaged(keys, image_only=True), T.EnsureChannelFirstd(keys),
                       T.Orientationd(keys, axcodes="RAS"), T.Spacingd(keys, pixdim=(1.0, 1.0, 1.0), mode="bilinear"),
                       T.ScaleIntensityRangePercentilesd(keys, lower=1, upper=99, b_min=0.0, b_max=1.0, clip=True),
                       T.CropForegroundd(keys, source_key=keys[0])])
    data = dict(zip(keys, names))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, times, peak in measure({"monai": lambda: lambda: chain(dict(data)) and None}, args.reps):
        report(args, "prepare", name, times, peak)
    torch.set_num_threads(threads)


# HD95 and Dice with MONAI: the masks of bench_metrics.c, centres and radii of ellipsoids

MASKS = {
    "tumour": ((77, 120, 120, 30, 35, 32), (95, 140, 100, 14, 20, 25), (79, 123, 118, 31, 33, 34), (93, 143, 103, 16, 18, 22)),
    "brain": ((77, 120, 120, 70, 90, 75), (60, 70, 120, 40, 30, 50), (78, 121, 119, 69, 91, 74), (62, 72, 118, 40, 31, 48)),
    "far": ((40, 60, 60, 35, 55, 55), (60, 90, 80, 20, 25, 25), (110, 180, 180, 40, 55, 55), (95, 150, 160, 20, 22, 30)),
}


def ellipsoid(e):
    z, y, x = (torch.arange(n) - c for n, c in zip((155, 240, 240), e))
    a, b, c = z * (e[4] * e[5]), y * (e[3] * e[5]), x * (e[3] * e[4])
    return (a * a)[:, None, None] + (b * b)[:, None] + c * c <= (e[3] * e[4] * e[5]) ** 2


def blobs(r):
    out = torch.zeros(155, 240, 240, dtype=torch.bool)
    for _ in range(20):
        e = []
        for below in (155, 240, 240, 16):
            r = (r * 1664525 + 1013904223) % 2 ** 32
            e.append((r >> 8) % below)
        out |= ellipsoid(e[:3] + [e[3] + 8] * 3)
    return out


def real(nibabel, path):
    truth = torch.from_numpy(nibabel.load(path).dataobj[...].T > 0)
    moved = torch.zeros_like(truth)
    moved[2:, :-3, 4:] = truth[:-2, 3:, :-4]
    return moved, truth


def bench_metrics(args):
    try:
        import nibabel
        from monai.metrics import DiceMetric, HausdorffDistanceMetric
    except ImportError:
        print("SKIP: metrics: monai and nibabel are not installed for this Python", file=sys.stderr)
        return
    torch.set_num_threads(1)
    masks = {name: [ellipsoid(e[i]) | ellipsoid(e[i + 1]) for i in (0, 2)] for name, e in MASKS.items()}
    masks["blobs"] = blobs(1), blobs(2)
    if args.metrics:
        masks["real"] = real(nibabel, args.metrics)
    for name, pair in masks.items():
        p, t = (m.float()[None, None] for m in pair)
        for row, metric in (("hd95_", HausdorffDistanceMetric(include_background=True, percentile=95)),
                            ("dice_", DiceMetric(include_background=True))):
            value = []  # of the last run
            for layout, times, peak in measure({"monai": lambda: lambda: value.append(float(metric(p, t))) or None}, min(args.reps, 3)):
                report(args, row + name, layout, times, peak)
            if not args.json:
                print("    %.6g" % value[-1])


def wanted(args, row):
    return not args.only or row == args.only or row.startswith(args.only + "_")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--only")
    a.add_argument("--full", action="store_true", help="UNET3D as well")
    a.add_argument("--threads", type=int, default=0)
    a.add_argument("--reps", type=int, default=5)
    a.add_argument("--json", action="store_true")
    a.add_argument("--layout", choices=sorted(LAYOUTS), help="networks in this one alone")
    a.add_argument("--prepare", metavar="CASE_DIR", help="nothing but the preparation of this case")
    a.add_argument("--metrics", metavar="SEG", nargs="?", const="", help="nothing but HD95 and Dice, of this file too")
    args = a.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if FLASH:
        nets.attention = flash_attention
    if not args.json:
        print("PyTorch %s, %d threads" % (torch.__version__, torch.get_num_threads()))
    if args.prepare:
        return bench_prepare(args)
    if args.metrics is not None:
        return bench_metrics(args)
    bench_network(args, "step", "uniformer", "step")
    bench_network(args, "inference", "uniformer", "encode")
    bench_kernels(args)
    if args.full or args.only:
        bench_network(args, "unet3d_forward", "unet3d", "forward")
        bench_network(args, "unet3d_step", "unet3d", "step")


if __name__ == "__main__":
    main()
