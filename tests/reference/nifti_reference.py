"""Compares bmvp_nifti.h with nibabel and MONAI on real and on awkward files; writes the fixtures of tests/unit/test_nifti.c.

    python tests/reference/nifti_reference.py DATA_FOLDER [--write-fixtures] [--zlib]

Needs a C compiler, numpy, nibabel 5.2.1, torch 2.6.0 and monai 1.4.0. DATA_FOLDER is searched for *.nii and *.nii.gz.
Every comparison prints one line; the last line is "N passed, N failed". Tolerance: 1e-5 of the range of the values.
"""
import argparse, gzip, os, struct, subprocess, sys, tempfile, warnings, zlib
from pathlib import Path
import numpy as np
import nibabel as nib
from nibabel.nifti1 import Nifti1Extension

warnings.filterwarnings("ignore")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "nifti"
TOL = 1e-5
passed = failed = 0


def report(name, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)


class Tool:
    def __init__(self, folder, use_zlib):
        self.exe, self.out = folder / "nifti_tool", folder / "out.bin"
        codec = ["-DBMVP_NIFTI_ZLIB", "-lz"] if use_zlib else ["-ldeflate"]
        cc = os.environ.get("CC", "cc").split()
        subprocess.run(cc + ["-std=c99", "-O2", str(HERE / "nifti_tool.c"), "-o", str(self.exe)] + codec + ["-lm"], check=True)

    def call(self, *words):
        r = subprocess.run([str(self.exe)] + [str(w) for w in words], capture_output=True, text=True, errors="replace")
        if r.returncode:
            raise RuntimeError(r.stdout.strip() or f"exit {r.returncode} {r.stderr[-300:]}")
        return r.stdout

    def volume(self, verb, path, *words):
        self.call(verb, path, self.out, *words)
        b = self.out.read_bytes()
        dim = np.frombuffer(b, np.int64, 3)
        affine = np.frombuffer(b, np.float64, 16, 24).reshape(4, 4)
        return np.frombuffer(b, np.float32, -1, 152).reshape(dim[::-1]).transpose(2, 1, 0), affine

    def info(self, path):
        d = {}
        for line in self.call("info", path).splitlines():
            k, _, v = line.partition(" ")
            d[k] = v
        return d


def same(name, got, want, affine=None, want_affine=None, skip=None, tol=TOL):
    """skip: voxels where the reference is not defined (exact ties)."""
    if got.shape != tuple(want.shape):
        return report(name, False, f"shape {got.shape}, wanted {tuple(want.shape)}")
    want = np.asarray(want, np.float64)
    finite = np.isfinite(want)
    scale = max(np.ptp(want[finite]) if finite.any() else 0, 1e-30)
    scale = max(scale, np.abs(want[finite]).max() * 1e-2 if finite.any() else 0)
    agree = np.where(finite, np.abs(got.astype(np.float64) - want) <= tol * scale,
                     (np.isnan(got) & np.isnan(want)) | (got == want))
    if skip is not None:
        agree = agree | skip
    worst = np.abs(np.where(finite, got - want, 0))
    if skip is not None:
        worst = np.where(skip, 0, worst)
    ok, detail = bool(agree.all()), f"{tuple(want.shape)} worst {worst.max() / scale:.1e}"
    if affine is not None:
        d = np.abs(affine - want_affine).max()
        ok, detail = ok and bool(d <= 1e-4), detail + f" affine {d:.1e}"
    report(name, ok, detail)


# ---- awkward files --------------------------------------------------------------------------------------------------

def base_affine(oblique=0.0):
    c, s = np.cos(oblique), np.sin(oblique)
    r = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    a = np.eye(4)
    a[:3, :3] = r @ np.diag([1.5, 2.0, 2.5])
    a[:3, 3] = [-20, 15, 7.5]
    return a


def patch(src, dst, **fields):
    """Copies a NIfTI-1 file with header bytes changed: field=(offset, struct format, value)."""
    b = bytearray(Path(src).read_bytes())
    for off, fmt, val in fields.values():
        struct.pack_into(fmt, b, off, val)
    Path(dst).write_bytes(bytes(b))


def pattern(dtype, shape=(9, 7, 5), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        ii = np.iinfo(dtype)
        lo, hi = max(ii.min, -2**40), min(ii.max, 2**40)
        return rng.integers(lo, hi, shape, dtype=np.int64 if ii.min < 0 or hi < 2**63 else np.uint64).astype(dtype)
    x = rng.normal(size=shape) * 100
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=shape)
    return x.astype(dtype)


def make_awkward(folder):
    made = []

    def save(name, img):
        nib.save(img, folder / name)
        made.append(folder / name)
        return folder / name

    for order in "<>":
        tag = "le" if order == "<" else "be"
        for dt in "i1 u1 i2 u2 i4 u4 i8 u8 f4 f8 c8 c16".split():
            for cls, v in ((nib.Nifti1Image, 1), (nib.Nifti2Image, 2)):
                hdr = (nib.Nifti1Header if v == 1 else nib.Nifti2Header)(endianness=order)
                hdr.set_data_dtype(np.dtype(dt).newbyteorder(order))
                img = cls(pattern(dt), base_affine(), hdr, dtype=np.dtype(dt))
                save(f"{dt}_{tag}_v{v}.nii" + (".gz" if v == 2 else ""), img)
    plain = save("plain.nii", nib.Nifti1Image(pattern("i2", (11, 8, 6, 3), 1), base_affine(0.3)))
    save("pair.hdr", nib.Nifti1Pair(pattern("i2", seed=2), base_affine()))
    for order, tag in (("<", "le"), (">", "be")):
        hdr = nib.AnalyzeHeader(endianness=order)
        hdr.set_data_dtype(np.dtype("i2").newbyteorder(order))
        hdr.set_data_shape((9, 7, 5))
        hdr.set_zooms((1.5, 2, 2.5))
        save(f"analyze_{tag}.hdr", nib.AnalyzeImage(pattern("i2", seed=12), None, hdr))
    save("pair2.hdr", nib.Nifti2Pair(pattern("f4", seed=3), base_affine()))
    save("oblique.nii", nib.Nifti1Image(pattern("f4", (12, 14, 10), 4), base_affine(0.6)))
    save("strongly_oblique.nii", nib.Nifti1Image(pattern("f4", (12, 14, 10), 5), base_affine(0.8)))
    shear = base_affine()
    shear[0, 1] += 0.7
    save("shear.nii", nib.Nifti1Image(pattern("f4", (12, 14, 10), 6), shear))
    for code, dst in (("LPS", "lps.nii"), ("PIR", "pir.nii.gz"), ("SLA", "sla.nii")):
        im = nib.Nifti1Image(pattern("i2", (70, 9, 67), 7), base_affine(0.1))
        t = nib.orientations.ornt_transform(nib.io_orientation(im.affine), nib.orientations.axcodes2ornt(code))
        save(dst, im.as_reoriented(t))
    ext = nib.Nifti1Image(pattern("i2", seed=8), base_affine())
    ext.header.extensions.append(Nifti1Extension(6, b"a comment"))
    ext.header.extensions.append(Nifti1Extension(4, b"<AFNI/>" * 400))
    save("extensions.nii", ext)
    off = nib.Nifti1Image(pattern("i2", seed=9), base_affine())
    off.header["vox_offset"] = 2880
    save("offset2880.nii.gz", off)

    def patched(name, **fields):
        patch(plain, folder / name, **fields)
        made.append(folder / name)

    patched("slope.nii", a=(112, "<f", 0.0754), b=(116, "<f", 3100.76))
    patched("slope_only.nii", a=(112, "<f", -2.5))
    patched("inter_only.nii", a=(112, "<f", 1.0), b=(116, "<f", -7.25))
    patched("slope_zero.nii", a=(112, "<f", 0.0), b=(116, "<f", 3.0))
    patched("slope_nan.nii", a=(112, "<f", float("nan")), b=(116, "<f", float("nan")))
    patched("slope_inf.nii", a=(112, "<f", float("inf")), b=(116, "<f", 1.0))
    patched("codes00.nii", a=(252, "<h", 0), b=(254, "<h", 0))
    patched("qform_only.nii", a=(252, "<h", 1), b=(254, "<h", 0))
    patched("qfac0.nii", a=(252, "<h", 1), b=(254, "<h", 0), c=(76, "<f", 0.0))
    patched("qfac_minus.nii", a=(252, "<h", 1), b=(254, "<h", 0), c=(76, "<f", -1.0))
    patched("codes_unknown.nii", a=(252, "<h", 77), b=(254, "<h", -4))
    patched("pixdim_bad.nii", a=(252, "<h", 0), b=(254, "<h", 0), c=(80, "<f", 0.0), d=(84, "<f", -2.0))
    patched("sform_wrong.nii", a=(252, "<h", 1), b=(280, "<f", 9.0))
    patched("both_wrong.nii", a=(252, "<h", 1), b=(280, "<f", 9.0), c=(80, "<f", 3.5))
    patched("quat_180.nii", a=(252, "<h", 1), b=(254, "<h", 0), c=(256, "<f", 0.0), d=(260, "<f", 1.0), e=(264, "<f", 0.0))
    patched("quat_near_180.nii", a=(252, "<h", 1), b=(254, "<h", 0), c=(256, "<f", 0.6), d=(260, "<f", 0.8), e=(264, "<f", 1e-4))
    patched("flag_no_extension.nii", a=(348, "<B", 1))
    patched("bitpix_wrong.nii", a=(72, "<h", 13))
    nan = pattern("f4", seed=10)
    nan[1, 2, 3], nan[0, 0, 0], nan[4, 4, 4] = np.nan, np.inf, -np.inf
    save("nan.nii", nib.Nifti1Image(nan, base_affine()))
    raw = Path(plain).read_bytes()
    half = len(raw) // 2
    (folder / "members.nii.gz").write_bytes(gzip.compress(raw[:100]) + gzip.compress(raw[100:half]) + gzip.compress(raw[half:]))
    (folder / "trailing.nii.gz").write_bytes(gzip.compress(raw + b"x" * 999))
    made.extend([folder / "members.nii.gz", folder / "trailing.nii.gz"])
    for shape in ((5,), (5, 6), (1, 1, 1), (3, 4, 5, 1, 2), (2, 2, 2, 2, 2, 1, 2)):
        save(f"dims{len(shape)}_{shape[0]}.nii", nib.Nifti1Image(pattern("i2", shape, 11), base_affine()))
    return made


# ---- comparisons ----------------------------------------------------------------------------------------------------

def numbers(text):
    return np.array([float(x) for x in text.split()])


def compare_read(tool, path, label):
    img = nib.load(path)
    try:
        d = tool.info(path)
    except RuntimeError as e:
        return report(f"info {label}", False, str(e))
    shape = img.shape
    report(f"info {label}", [int(x) for x in d["dim"].split()] == list(shape) and int(d["datatype"]) == int(img.header["datatype"])
           and np.allclose(numbers(d["affine"]).reshape(4, 4), img.affine, atol=1e-5, rtol=1e-5, equal_nan=True)
           and [(int(e.split(":")[0])) for e in d["extensions"].split()[1:]] == [e.get_code() for e in getattr(img.header, "extensions", [])],
           d["axcodes"])
    data = np.asanyarray(img.dataobj)
    if data.dtype.kind not in "iufc":
        return
    parts = [("", [])]
    if data.dtype.kind == "c":
        parts = [("real", ["component", 1]), ("imag", ["component", 2])]
    data = data.reshape(shape[:3] + (1,) * (3 - len(shape)) + (-1,), order="F")
    for part, words in parts:
        want = getattr(data, part) if part else data
        t = data.shape[3] - 1
        got, affine = tool.volume("run", path, "t", t, *words)
        with np.errstate(all="ignore"):
            same(f"read {label} {part}", got, want[..., t].astype(np.float32), tol=1e-7)


def compare_info_monai(tool, path, label):
    from monai.data.utils import correct_nifti_header_if_necessary
    img = nib.load(path)
    given = img.header["qform_code"] > 0 # MONAI also takes a qform of code 0
    want = correct_nifti_header_if_necessary(img).affine if given else img.affine
    got = numbers(tool.info(path)["rectified"]).reshape(4, 4)
    report(f"rectify {label}", np.allclose(got, want, atol=1e-5, rtol=1e-5), f"{np.abs(got - want).max():.1e}")


def load_monai(path):
    from monai.transforms import LoadImage
    m = LoadImage(reader="NibabelReader", image_only=True, ensure_channel_first=True)(str(path))
    return m if m.ndim == 4 else None


def ties(src_shape, affine, out, out_affine):
    """Voxels whose source coordinate is within 1e-6 of a half on some axis: nearest is decided by rounding noise."""
    m = np.linalg.inv(affine) @ out_affine
    i = np.stack(np.meshgrid(*[np.arange(s) for s in out], indexing="ij"), -1)
    q = i @ m[:3, :3].T + m[:3, 3]
    f = np.abs(q - np.floor(q) - 0.5)
    return (f < 1e-6).any(-1)


def box_center(x):
    idx = np.argwhere(np.asarray(x)[0] > 0)
    n = np.array(x.shape[1:])
    if not len(idx):
        return [0] * 3, list(n)
    c, lo, hi = n / 2, idx.min(0), idx.max(0) + 1
    h = np.maximum(np.abs(lo - c), np.abs(hi - c))
    return [int(v) for v in c - h], [int(v) for v in c + h]


def compare_transforms(tool, path, label, spacings, quick=False):
    from monai.transforms import (Orientation, Spacing, ScaleIntensityRangePercentiles, CropForeground, SpatialCrop,
                                  SpatialPad, Resize)
    m = load_monai(path)
    if m is None or not np.isfinite(np.asarray(m)).all() or m.shape[0] != 1:
        return
    codes = ["RAS"] if quick else ["RAS", "LPS", "PIR", "ASL"]
    for c in codes:
        try:
            w = Orientation(axcodes=c)(m)
        except Exception:
            continue
        got, a = tool.volume("run", path, "load", c)
        same(f"load {c} {label}", got, w[0], a, w.affine.numpy(), tol=1e-7)
        got, a = tool.volume("run", path, "orient", c)
        same(f"orient {c} {label}", got, w[0], a, w.affine.numpy(), tol=1e-7)
    for p in spacings:
        for mode, k in (("bilinear", 0), ("nearest", 1)):
            for diagonal in ((False,) if quick else (False, True)):
                if diagonal and mode == "nearest":
                    continue
                try:
                    w = Spacing(pixdim=p, mode=mode, diagonal=diagonal)(m)
                except Exception as e:
                    print("note spacing", label, p, e)
                    continue
                got, a = tool.volume("run", path, "spacing", *p, k, int(diagonal))
                skip = ties(m.shape[1:], m.affine.numpy(), w.shape[1:], w.affine.numpy()) if k else None
                wrong = (got != np.asarray(w[0])).sum() if k and got.shape == w[0].shape else 0
                same(f"spacing {p} {mode}{' diagonal' if diagonal else ''} {label}", got, w[0], a, w.affine.numpy(), skip)
                if k:
                    print(f"     nearest: {int(skip.sum())} voxels at ties, {int(wrong)} differ")
    for lo, hi, clip, rel in ((5, 95, True, False), (1, 99, True, False), (0.5, 99.9, False, True)):
        w = ScaleIntensityRangePercentiles(lo, hi, 0.0, 1.0, clip=clip, relative=rel)(m)
        got, _ = tool.volume("run", path, "scale", lo, hi, 0, 1, int(clip), int(rel))
        same(f"scale {lo} {hi} {label}", got, w[0], tol=1e-6)
    if (np.asarray(m) > 0).any():
        for margin in (0, 3):
            w = CropForeground(margin=margin, allow_smaller=True)(m)
            got, a = tool.volume("run", path, "crop", margin)
            same(f"crop {margin} {label}", got, w[0], a, w.affine.numpy(), tol=0)
        s, e = box_center(m)
        w = SpatialCrop(roi_start=s, roi_end=e)(m)
        got, a = tool.volume("run", path, "center")
        same(f"center {label}", got, w[0], a, w.affine.numpy(), tol=0)
    pad = [s + i * 3 for i, s in enumerate(m.shape[1:])]
    w = SpatialPad(pad)(m)
    got, a = tool.volume("run", path, "pad", *pad)
    same(f"pad {label}", got, w[0], a, w.affine.numpy(), tol=0)
    if not quick:
        n = np.array(m.shape[1:])
        for size in (np.maximum(n // 2, 1), np.maximum((n * 1.3).astype(int), 1), np.maximum(n * 2 // 3, 1)):
            for k, mode, ac in ((0, "trilinear", False), (0, "trilinear", True), (1, "nearest", None), (2, "nearest-exact", None),
                                (3, "area", None)):
                w = Resize([int(v) for v in size], mode=mode, align_corners=ac)(m)
                got, a = tool.volume("run", path, "resize", *size, k, int(bool(ac)))
                same(f"resize {[int(v) for v in size]} {mode} {ac} {label}", got, w[0], a, w.affine.numpy())


def compare_chain(tool, path, label):
    """The release's pre-training chain."""
    from monai.transforms import Orientation, Spacing, ScaleIntensityRangePercentiles, SpatialCrop
    m = load_monai(path)
    m = Spacing(pixdim=(1, 1, 1), mode="bilinear")(Orientation(axcodes="RAS")(m))
    s, e = box_center(m)
    m = SpatialCrop(roi_start=s, roi_end=e)(m)
    m = ScaleIntensityRangePercentiles(5, 95, 0, 1, clip=True, channel_wise=True)(m)
    got, a = tool.volume("run", path, "load", "RAS", "spacing", 1, 1, 1, 0, 0, "center", "scale", 5, 95, 0, 1, 1, 0)
    same(f"chain {label}", got, m[0], a, m.affine.numpy())


def compare_boxes(tool, path, label, rng):
    img = np.asanyarray(nib.load(path).dataobj).astype(np.float32)
    img = img.reshape(img.shape[:3] + (1,) * (3 - img.ndim) + (-1,), order="F")
    n = np.array(img.shape[:3])
    for _ in range(3):
        lo = np.array([rng.integers(-3, v + 2) for v in n])
        hi = lo + rng.integers(1, 12, 3)
        t = int(rng.integers(img.shape[3]))
        want = np.zeros(hi - lo, np.float32)
        a, b = np.maximum(lo, 0), np.maximum(np.minimum(hi, n), np.maximum(lo, 0))
        want[tuple(slice(p - q, r - q) for p, r, q in zip(a, b, lo))] = img[tuple(slice(p, r) for p, r in zip(a, b)) + (t,)]
        got, _ = tool.volume("box", path, *lo, *hi, t)
        same(f"box {label} {list(lo)}", got, want, tol=1e-7)


def compare_copies(tool, path, label, folder):
    for version, name in ((1, "copy.nii"), (2, "copy.nii.gz"), (1, "copypair.hdr"), (2, "copypair2.img.gz"), (0, "copy0.nii.gz")):
        out = folder / name
        tool.call("copy", path, out, version)
        a, b = nib.load(path), nib.load(out)
        ok = a.shape == b.shape and np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj), equal_nan=a.get_data_dtype().kind in "fc")
        ok = ok and np.allclose(a.affine, b.affine, rtol=1e-6, atol=1e-6) and len(a.header.extensions) == len(b.header.extensions)
        ok = ok and all(x.get_code() == y.get_code() and bytes(x.get_content() if isinstance(x.get_content(), bytes) else b"") ==
                        bytes(y.get_content() if isinstance(y.get_content(), bytes) else b"")
                        for x, y in zip(a.header.extensions, b.header.extensions))
        ok = ok and (version == 0 or (int(b.header["sizeof_hdr"]) == (348 if version == 1 else 540)))
        report(f"copy {label} to {name}", ok)


# ---- fixtures for make test -----------------------------------------------------------------------------------------

def write_fixtures():
    """Small inputs, and for each chain what MONAI makes of it, as float32 NIfTI-2 (its affines are float64)."""
    from monai.transforms import (Orientation, Spacing, ScaleIntensityRangePercentiles, CropForeground, SpatialPad, Resize,
                                  SpatialCrop)
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for old in FIXTURES.glob("*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        made = {p.name: p for p in make_awkward(d)}
        keep = [f"{t}_be_v1.nii" for t in "i1 u1 i2 u2 i4 u4 i8 u8 f4 f8 c8 c16".split()]
        keep += ["i2_le_v1.nii", "f4_be_v2.nii.gz", "extensions.nii", "offset2880.nii.gz", "qform_only.nii", "codes00.nii",
                 "qfac0.nii", "slope.nii", "members.nii.gz", "nan.nii", "pair.hdr", "quat_near_180.nii", "sform_wrong.nii"]
        expect = []
        for name in keep:
            b = made[name].read_bytes()
            (FIXTURES / name).write_bytes(b)
            if name.endswith(".hdr"):
                (FIXTURES / name).with_suffix(".img").write_bytes(made[name].with_suffix(".img").read_bytes())
            img = nib.load(made[name])
            data = np.asanyarray(img.dataobj).reshape(-1, order="F")
            x = data.real.astype(np.float64)
            x = x[np.isfinite(x)]
            row = [name, *(list(img.shape) + [1] * 4)[:4], float(x.sum()), float((x * x).sum())] + list(img.affine[:3].reshape(-1))
            expect.append(" ".join(str(v) if isinstance(v, (str, int, np.integer)) else f"{v:.17g}" for v in row))
        (FIXTURES / "expected.txt").write_text("\n".join(expect) + "\n")
    n = (23, 19, 17)
    g = np.stack(np.meshgrid(*[np.linspace(-1, 1, v) for v in n], indexing="ij"))
    rng = np.random.default_rng(42)
    x = np.where((g**2).sum(0) < 0.7, 400 + 200 * np.sin(4 * g[0]) + 80 * g[1] * g[2] + 20 * rng.normal(size=n), 0)
    aff = np.diag([-1.7, 2.3, 1.0, 1.0])
    aff[:3, 3] = [30, -20, -8]
    cases = {"straight": aff, "oblique": base_affine(0.4), "sheared": aff + np.array([[0, .4, 0, 0], [0, 0, .2, 0], [0] * 4, [0] * 4])}
    for name, a in cases.items():
        nib.save(nib.Nifti1Image(x.astype(np.int16), a), FIXTURES / f"in_{name}.nii.gz")
    steps = {
        "straight": [("orient", Orientation(axcodes="PIR")), ("spacing", Spacing(pixdim=(1, 1, 1))),
                     ("coarse", Spacing(pixdim=(2, 3, 2.5))), ("nearest", Spacing(pixdim=(1.1, 1.3, 0.9), mode="nearest")),
                     ("scale", ScaleIntensityRangePercentiles(5, 95, 0, 1, clip=True)), ("crop", CropForeground(margin=1, allow_smaller=True)),
                     ("pad", SpatialPad((30, 19, 24))), ("area", Resize((11, 8, 9), mode="area")),
                     ("linear", Resize((30, 12, 20), mode="trilinear")), ("corners", Resize((30, 12, 20), mode="trilinear", align_corners=True)),
                     ("exact", Resize((30, 12, 20), mode="nearest-exact"))],
        "oblique": [("orient", Orientation(axcodes="RAS")), ("spacing", Spacing(pixdim=(1.4, 1.4, 1.4)))],
        "sheared": [("spacing", Spacing(pixdim=(1.5, 1.5, 1.5))), ("diagonal", Spacing(pixdim=(2, 2, 2), diagonal=True))],
    }
    for name, list_ in steps.items():
        for step, t in list_:
            w = t(load_monai(FIXTURES / f"in_{name}.nii.gz"))
            nib.save(nib.Nifti2Image(np.asarray(w[0], np.float32), w.affine.numpy()), FIXTURES / f"out_{name}_{step}.nii.gz")
    print("fixtures:", sum(p.stat().st_size for p in FIXTURES.glob("*")), "bytes")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("data")
    ap.add_argument("--write-fixtures", action="store_true")
    ap.add_argument("--zlib", action="store_true", help="build the library with zlib instead of libdeflate")
    ap.add_argument("--quick", action="store_true", help="leave out the slow comparisons on large files")
    args = ap.parse_args()
    if args.write_fixtures:
        write_fixtures()
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        tool = Tool(d, args.zlib)
        (d / "files").mkdir()
        files = make_awkward(d / "files")
        rng = np.random.default_rng(1)
        for p in files:
            compare_read(tool, p, p.name)
            compare_info_monai(tool, p, p.name)
            if p.suffix != ".gz":
                compare_boxes(tool, p, p.name, rng)
            if len(nib.load(p).shape) == 3 and nib.load(p).get_data_dtype().kind in "iuf":
                compare_transforms(tool, p, p.name, [(1, 1, 1), (3, 2, 2.2), (1.5, 2, 2.5), (0.75, 1.0, 1.25)])
        for name in ("extensions.nii", "pair.hdr", "u2_be_v1.nii", "c16_be_v2.nii.gz", "nan.nii", "offset2880.nii.gz", "qfac0.nii"):
            compare_copies(tool, d / "files" / name, name, d)
        real = sorted(p for p in Path(args.data).rglob("*.nii*"))
        for p in real:
            label = str(p.relative_to(args.data))
            compare_read(tool, p, label)
            compare_info_monai(tool, p, label)
            if args.quick and "orientation" not in label and "t1.nii" not in label:
                continue
            compare_transforms(tool, p, label, [(1, 1, 1), (1.3, 0.9, 2.0)], quick=True)
            compare_chain(tool, p, label)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
