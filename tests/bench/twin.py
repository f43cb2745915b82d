#!/usr/bin/env python3
"""The rows of bench_step.c in PyTorch at its best: the peer of `make bench`.

    twin.py [--only ROW] [--threads N] [--reps N] [--json] [--prepare CASE_DIR] [--metrics [SEG]] [--machine]

Each row is tried in every memory layout (contiguous, channels_last_3d) and, where there are several ways to write it,
in each; the fastest counts. What was tried on top of that and won nothing (PyTorch 2.6): flush-to-zero, binding of
threads, active waiting, huge pages, torch.jit.freeze, torch.compile of training and of the other networks. What won is
here: torch.compile with frozen weights for the encoder's inference, batch norm standing for instance norm (equal for
one sample; channels-last group norm is slow backward). Start it as tests/bench/run.sh does: with an allocator that
keeps memory (MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=536870912) and, on an AMD
processor, with MKL told to use its fast kernels. Weights and inputs are the formulas of bench_step.c; `check` must be
equal on both sides. Runs with PyTorch 1.13 and later. Where MONAI is installed, --prepare times its preparation of a
case and --metrics its HD95 and Dice on the masks of bench_metrics.c, SEG the real file among them.
"""
import argparse
import glob
import importlib.util
import json
import os
import subprocess
import sys
import time

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError:
    print("SKIP: torch and numpy are not installed for this Python")
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
COMPILE = hasattr(torch, "compile")


# ---------------------------------------------------------------------------------------------------------------------
# Measuring

def peak_reset():
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass


def status_mb(key):
    """A line of the process's status: VmRSS resident now, VmHWM at most since peak_reset."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(key)) * 1024e-6
    except (OSError, StopIteration):
        return 0.0


def timed(run):
    start = time.perf_counter()
    parts = run()
    return parts if parts else (time.perf_counter() - start,)


def measure(variants, reps):
    """variants: name -> function that makes `run`, which returns None or its own times. For each of these times the
    fastest variant and its sorted times."""
    if len(variants) == 1:
        name, make = next(iter(variants.items()))
        run = make()
        timed(run)
        return [(name, sorted(part)) for part in zip(*[timed(run) for _ in range(reps)])]
    probe = {}
    for name, make in variants.items():
        run = make()
        timed(run)
        probe[name] = timed(run)
        del run
    out = []
    for part in range(len(next(iter(probe.values())))):
        best = min(probe, key=lambda name: probe[name][part])
        run = variants[best]()
        timed(run)
        out.append((best, sorted(timed(run)[part] for _ in range(reps))))
        del run
    return out


def report(args, row, name, times, **more):
    median = (times[len(times) // 2] + times[(len(times) - 1) // 2]) / 2
    spread = (times[-1] - times[0]) / median
    if args.json:
        print(json.dumps(dict(row=row, median_ms=round(median * 1e3, 4), best_ms=round(times[0] * 1e3, 4),
                              spread=round(spread, 3), runs=len(times), layout=name, **more), separators=(",", ":")))
    else:
        print("%-32s %10.2f ms  best %10.2f  spread %3.0f%%  %-24s %s" %
              (row, median * 1e3, times[0] * 1e3, spread * 100, name, " ".join("%s %.6g" % i for i in more.items())))
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Networks

def flash_attention(p, b, t, head):
    n, tokens, width = t.shape
    q, k, v = nets.linear(p, b + "qkv", t).reshape(n, tokens, 3, width // head, head).permute(2, 0, 3, 1, 4)
    a = F.scaled_dot_product_attention(q, k, v)
    return nets.linear(p, b + "proj", a.transpose(1, 2).reshape(n, tokens, width))


def norm_one(x):
    """Instance norm of one sample: the batch is that sample."""
    return F.batch_norm(x, None, None, None, None, True, 0.1, 1e-5) if len(x) == 1 else F.group_norm(x, x.shape[1], eps=1e-5)


def uniunet_decode(p, maps, x, deep):
    """As networks_reference.py, in the encoder's order of axes throughout: the released code's transpositions cost time and
    change nothing once the kernels are transposed (Net does). Without `deep` the coarse heads are not computed."""
    skip = nets.conv(p, "decoder.proj1.proj", x, padding=1)
    skip = nets.layernorm(p, "decoder.proj1.norm", skip.movedim(1, -1), 1e-5).movedim(-1, 1)
    y, scales = maps[3], []
    for k, s in zip((5, 4, 3, 2), (maps[2], maps[1], maps[0], skip)):
        y = nets.up_block(p, k, y, s, lambda name, t: None)
        if deep and k in (4, 3):
            h = nets.conv(p, "ms_out.%d" % (4 - k), y)
            scales.append(F.interpolate(h, scale_factor=4 if k == 4 else 2, mode="trilinear", align_corners=True))
    return [nets.conv(p, "decoder.out.conv.conv", y)] + scales


def in_layout(t, layout):
    """With that layout's strides even where one channel leaves them open: convolutions go by strides. " loose" leaves them as
    they are: some forwards are faster with it, training of the UniFormer is 5 times slower."""
    if layout.endswith(" loose"):
        return t.contiguous(memory_format=LAYOUTS[layout.split()[0]])
    return torch.empty(t.shape, memory_format=LAYOUTS[layout]).copy_(t)


class Net(torch.nn.Module):
    """what: encode, forward (with the decoder) or step"""

    def __init__(self, model, what, layout):
        super().__init__()
        self.model, self.what, self.names = model, what, []
        if model == "unet3d":
            self.cfg = nets.UNET3D
            shapes = nets.unet3d_shapes(self.cfg)
        else:
            self.cfg = nets.UNIUNET if model == "uniunet" else nets.UNIFORMER_SMALL
            shapes = nets.uniformer_shapes(self.cfg, "segment" if model == "uniunet" else "pretrain")
        for name, shape in shapes:
            t = torch.from_numpy(nets.parameter_value(name, shape)) if shape else torch.zeros(())
            if model == "uniunet" and name.startswith("decoder.decoder"):
                t = t.permute(0, 1, 4, 2, 3)  # kernels (X, Y, Z) -> (Z, X, Y)
            if t.dim() == 5:
                t = in_layout(t, layout)
            self.names.append((name, name.replace(".", "_")))
            if name.rsplit(".", 1)[-1].startswith(("running_", "num_")):
                self.register_buffer(self.names[-1][1], t)
            else:
                self.register_parameter(self.names[-1][1], torch.nn.Parameter(t))

    def forward(self, x):
        """x (N, C, Z, X, Y), of UNET3D (N, C, X, Y, Z)"""
        p = {name: getattr(self, field) for name, field in self.names}
        if self.model == "unet3d":
            return nets.unet3d_decode(p, self.cfg, nets.unet3d_encode(p, self.cfg, x), False)
        maps = nets.uniformer_encode(p, self.cfg, x.permute(0, 1, 3, 4, 2), self.training)
        if self.model == "uniunet":
            return uniunet_decode(p, maps, x, self.what == "step")
        return maps if self.what == "encode" else nets.uniformer_decode(p, self.cfg, maps[3]).permute(0, 1, 4, 2, 3)


MONAI = ("unetr", "swin_unetr")  # the peer is MONAI's module itself
XYZ = MONAI + ("unet3d",)        # axes of their maps; the others' are Z, X, Y
SEGMENTS = MONAI + ("uniunet",)  # four modalities, three regions


def quick_norm(self, x):
    return norm_one(x)


def monai_net(model, what, layout):
    """MONAI's network with the formula's weights. UNETR's attention by scaled_dot_product_attention, instance norm
    as in norm_one."""
    from monai.networks import nets as theirs
    if model == "unetr":
        net = theirs.UNETR(in_channels=4, out_channels=3, img_size=CROP)
    else:
        import inspect
        size = {} if "img_size" not in inspect.signature(theirs.SwinUNETR).parameters else dict(img_size=(CROP,) * 3)
        net = theirs.SwinUNETR(in_channels=4, out_channels=3, feature_size=48, **size)
    torch.nn.InstanceNorm3d.forward = quick_norm
    for module in net.modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = True
    for name, t in net.state_dict().items():
        if t.is_floating_point():
            t.copy_(torch.from_numpy(nets.parameter_value(name, tuple(t.shape))))
    for p in net.parameters():
        if p.dim() == 5:
            p.data = in_layout(p.data, layout)
    return net


def corner(y, model):
    """Root mean square of z < D/2, y < H/3, x < W/4"""
    y = y.permute(0, 1, 4, 2, 3) if model in XYZ else y
    y = y[:, :, : y.shape[2] // 2, : y.shape[3] // 4, : y.shape[4] // 3].double()
    return float(y.square().mean().sqrt())


def inputs(model, layout):
    size = (CROP,) * 3
    x = torch.from_numpy(np.stack([nets.volume(0, m, size) for m in range(4 if model in SEGMENTS else 1)]))[None]
    X, Y, Z = torch.meshgrid(*[torch.arange(CROP)] * 3, indexing="ij")
    balls = [(X - 40 - 4 * r) ** 2 + (Y - 50) ** 2 + (Z - 44) ** 2 < (14 + 6 * r) ** 2 for r in range(3)]
    target = torch.stack(balls)[None].float()
    if model not in XYZ:
        x, target = x.permute(0, 1, 4, 2, 3), target.permute(0, 1, 4, 2, 3)
    return [in_layout(t, layout) for t in (x, target)]


def dice(logits, target):
    q, axes = logits.sigmoid(), (0, 2, 3, 4)
    return (1 - (2 * (q * target).sum(axes) + 1e-5) / (q.sum(axes) + target.sum(axes) + 1e-5)).mean()


def adamw(trained):
    try:
        return torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-5, fused=True)
    except (RuntimeError, TypeError):  # before 2.4: no fused optimizer on the processor
        return torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-5, foreach=True)


def network(model, what, layout, compiled):
    """run and the list that gets what `check` is of the first run"""
    net, check = (monai_net if model in MONAI else Net)(model, what, layout), []
    x, target = inputs(model, layout)
    net.train(what == "step")
    call = net
    if compiled:
        from torch._inductor import config
        config.freezing = True
        call = torch.compile(net)

    def inference():
        with torch.no_grad():
            y = call(x)
        if not check:
            check.append(corner(y[3] if what == "encode" else y[0] if model == "uniunet" else y, model))

    def step():
        optimizer.zero_grad(set_to_none=True)
        y = call(x)
        if model == "uniunet":
            loss = sum(dice(t, target) for t in y)
        else:
            loss = dice(y, target) if model in MONAI else F.mse_loss(y, x)
        if not check:
            check.append(float(loss.detach()))
        loss.backward()
        optimizer.step()

    if what != "step":
        return inference, check
    optimizer = adamw(net.parameters())
    return step, check


def bench_variant(args, row, name, make):
    """One way to run a row, in this process. Stops early when it is slower than --limit seconds."""
    peak_reset()
    before = status_mb("VmRSS:")
    run, check = make()
    warm, = timed(run)
    if "compiled" in name:
        warm, = timed(run)
    times = [warm] if args.limit and warm > 2 * args.limit else list(timed(run))
    if not args.limit or times[0] <= 1.15 * args.limit:
        times += [timed(run)[0] for _ in range(args.reps - 1)]
    report(args, row, name, sorted(times), peak_mb=round(status_mb("VmHWM:") - before, 1), check=float("%.9g" % check[0]))


def child(args, row, options):
    """A process each: the memory one variant leaves behind is not the other's. None when it fails."""
    command = [sys.executable, os.path.abspath(__file__), "--only", row, "--json", "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        print("%s: %s failed: %s" % (row, " ".join(options), (done.stderr.strip().splitlines() or ["killed"])[-1]), file=sys.stderr)
        return None
    return json.loads(lines[-1])


def show(args, found):
    if args.json:
        print(json.dumps(found, separators=(",", ":")))
    else:
        print("%-32s %10.2f ms  spread %3.0f%%  %-24s peak %6.0f MB  check %.6g" % (
            found["row"], found["median_ms"], found["spread"] * 100, found["layout"], found["peak_mb"], found["check"]))
    sys.stdout.flush()


def bench_network(args, row, model, what):
    variants = list(LAYOUTS)[::-1] + (["channels_last_3d loose"] if what == "forward" else [])
    variants += ["channels_last_3d compiled"] if what == "encode" and COMPILE else []
    if not wanted(args, row):
        return
    if model in MONAI and not importlib.util.find_spec("monai"):
        print("SKIP: %s: monai is not installed for this Python" % row, file=sys.stderr)
        return
    if args.variant:
        layout, compiled = args.variant.replace(" compiled", ""), "compiled" in args.variant
        return bench_variant(args, row, args.variant, lambda: network(model, what, layout, compiled))
    best = None
    for variant in variants:
        limit = ["--limit", str(best["median_ms"] * 1e-3)] if best else []
        found = child(args, row, ["--variant", variant, "--reps", str(args.reps)] + limit)
        if found and (not best or found["median_ms"] < best["median_ms"]):
            best = found
    if best:
        show(args, best)


# ---------------------------------------------------------------------------------------------------------------------
# The real step: cases x 2 views, templates of eight modalities, all losses

def real_step(cases, layout):
    net = Net("uniformer", "forward", layout)
    template = torch.nn.Parameter(torch.zeros(8, 155, 240, 240))
    optimizer = adamw(list(net.parameters()) + [template])
    size = (CROP,) * 3
    x, other = [torch.from_numpy(np.stack([nets.volume(c, m, size) for c in range(cases)])).permute(0, 3, 1, 2).contiguous()
                for m in (1, 3)]

    def mask():
        kept = torch.rand(2 * cases, 12 ** 3).argsort(1)[:, : 12 ** 3 // 8]
        blocks = torch.ones(2 * cases, 12 ** 3).scatter_(1, kept, 0.0).reshape(-1, 12, 12, 12)
        return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat_interleave(8, 3) > 0

    def step():
        optimizer.zero_grad(set_to_none=True)
        crops = [template[i, 20 + i: 116 + i, 70 - i: 166 - i, 70 - i: 166 - i] for i in range(cases)]
        views = torch.where(mask(), torch.cat([torch.stack(crops), other]), torch.cat([x, x]))[:, None]
        p = {name: getattr(net, field) for name, field in net.names}
        last = nets.uniformer_encode(p, net.cfg, views.permute(0, 1, 3, 4, 2), True)[3]
        rec = nets.uniformer_decode(p, net.cfg, last).permute(0, 1, 4, 2, 3)[:, 0]
        loss = 10 * F.mse_loss(rec[:cases], x) + F.mse_loss(rec[cases:], x) + nets.contrast(last[:cases], last[cases:])
        loss.backward()
        optimizer.step()

    return step, [0.0]


def available_mb():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) * 1024e-6


def bench_real(args):
    """All three cases where they fit in memory, or else as many as do, scaled to three ("estimated")."""
    wanted_cases, layout = 3, "channels_last_3d"
    if not wanted(args, "real"):
        return
    if args.variant:
        return bench_variant(args, "real", layout, lambda: real_step(int(args.variant), layout))
    one = child(args, "real", ["--variant", "1", "--limit", "0.001"])  # a single run: for its memory
    if not one:
        return
    fixed = 4 * 4e-6 * (sum(p.numel() for p in Net("uniformer", "forward", layout).parameters()) + 8 * 155 * 240 * 240)
    each = one["peak_mb"] - fixed
    cases = max(1, min(wanted_cases, int((0.92 * available_mb() - fixed - 500) / each)))
    found = child(args, "real", ["--variant", str(cases), "--reps", str(args.reps)])
    if not found:
        return
    found.update(cases=cases, measured_ms=found["median_ms"], measured_mb=found["peak_mb"])
    if cases < wanted_cases:
        found["median_ms"] *= wanted_cases / cases
        found["peak_mb"] = round(fixed + (found["peak_mb"] - fixed) * wanted_cases / cases, 1)
        found["layout"] += " %d of %d cases" % (cases, wanted_cases)
    show(args, found)


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
            for name, (variant, times) in zip(names, measure(variants, args.reps)):
                if wanted(args, name):
                    report(args, name, variant, times)


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
    for name, times in measure({"monai": lambda: lambda: chain(dict(data)) and None}, args.reps):
        report(args, "prepare", name, times)
    torch.set_num_threads(threads)


# A pair of heads: rigid registration and resampling with SimpleITK, signed distances with SciPy, each on one core. The
# registration is that of SimpleITK's own examples (Mattes' mutual information of 32 bins, geometric centres, four times
# and twice and once the voxel), with as many samples as ours. Processor time, as bench_nifti takes it.

def register_itk(sitk, fixed, moving):
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY)
    r = sitk.ImageRegistrationMethod()
    r.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    r.SetMetricSamplingStrategy(r.RANDOM)
    r.SetMetricSamplingPercentage(min(1.0, 200000.0 / fixed.GetNumberOfPixels()), seed=1)
    r.SetInterpolator(sitk.sitkLinear)
    r.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=1e-3, numberOfIterations=200)
    r.SetOptimizerScalesFromPhysicalShift()
    r.SetShrinkFactorsPerLevel([4, 2, 1])
    r.SetSmoothingSigmasPerLevel([2, 1, 0])
    r.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    r.SetInitialTransform(start, inPlace=False)
    return r.Execute(fixed, moving)


def bench_register(args):
    try:
        import SimpleITK as sitk
        from scipy.ndimage import distance_transform_edt
    except ImportError:
        print("SKIP: register: SimpleITK and scipy are not installed for this Python", file=sys.stderr)
        return
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in args.register[:2])
    mask = sitk.ReadImage(args.register[2])
    inside, mm = sitk.GetArrayFromImage(mask) > 0, mask.GetSpacing()[::-1]
    found = register_itk(sitk, fixed, moving)

    def distances():
        return distance_transform_edt(~inside, sampling=mm) - distance_transform_edt(inside, sampling=mm)

    for row, peer, call in (("register", "SimpleITK", lambda: register_itk(sitk, fixed, moving)),
                            ("resample", "SimpleITK", lambda: sitk.Resample(moving, fixed, found, sitk.sitkLinear, 0.0)),
                            ("distance", "SciPy", distances)):
        times = []
        for _ in range(args.reps):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        report(args, row, peer, sorted(times))


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
            for layout, times in measure({"monai": lambda: lambda: value.append(float(metric(p, t))) or None}, min(args.reps, 3)):
                report(args, row + name, layout, times)
            if not args.json:
                print("    %.6g" % value[-1])


def wanted(args, row):
    return not args.only or row == args.only or row.startswith(args.only + "_")


def machine():
    config = torch.__config__.show()
    blas = next((line.strip(" -").split(" for ")[0] for line in config.splitlines() if "Math Kernel Library" in line
                 or "OpenBLAS" in line), "BLAS unknown")
    print(json.dumps(dict(torch=torch.__version__, blas=blas.replace("Intel(R) oneAPI ", ""), threads=torch.get_num_threads(),
                          mkl_fast_kernels=int("mkl" in os.environ.get("LD_PRELOAD", ""))), separators=(",", ":")))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--only")
    a.add_argument("--threads", type=int, default=0)
    a.add_argument("--reps", type=int, default=5)
    a.add_argument("--json", action="store_true")
    a.add_argument("--machine", action="store_true", help="nothing but versions, as JSON")
    a.add_argument("--variant", help="a network's row in this one alone; of the real step: number of cases")
    a.add_argument("--limit", type=float, default=0, help="seconds: a variant that is slower is not measured to the end")
    a.add_argument("--prepare", metavar="CASE_DIR", help="nothing but the preparation of this case")
    a.add_argument("--metrics", metavar="SEG", nargs="?", const="", help="nothing but HD95 and Dice, of this file too")
    a.add_argument("--register", metavar=("FIXED", "MOVING", "MASK"), nargs=3, help="nothing but these heads, and the mask's distances")
    args = a.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if FLASH:
        nets.attention = flash_attention
    nets.norm_each = norm_one
    if args.machine:
        return machine()
    if not args.json:
        print("PyTorch %s, %d threads" % (torch.__version__, torch.get_num_threads()))
    if args.prepare:
        return bench_prepare(args)
    if args.metrics is not None:
        return bench_metrics(args)
    if args.register:
        return bench_register(args)
    bench_network(args, "step", "uniformer", "step")
    bench_network(args, "inference", "uniformer", "encode")
    bench_network(args, "unet3d_forward", "unet3d", "forward")
    bench_network(args, "unet3d_step", "unet3d", "step")
    bench_network(args, "uniunet_forward", "uniunet", "forward")
    bench_network(args, "uniunet_step", "uniunet", "step")
    for model in MONAI:
        bench_network(args, model + "_forward", model, "forward")
        bench_network(args, model + "_step", model, "step")
    bench_real(args)
    bench_kernels(args)


if __name__ == "__main__":
    main()
