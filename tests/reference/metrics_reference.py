#!/usr/bin/env python3
"""Numbers of MONAI 1.4.0, SciPy and scikit-learn for tests/unit/test_metrics.c.

    metrics_reference.py DIR [DATA_FOLDER]

Writes into DIR: masks.txt (Dice and surface distances of masks given by formula), distance.safetensors (distance transforms),
classes.txt (classification) and, with DATA_FOLDER (which holds patients/), real.txt: numbers of real segmentations against
changed copies, none of their voxels. Masks and scores are built from `uniform` of networks_reference.py, in C the same way.
Needs torch 2.6.0, monai 1.4.0, numpy, scipy, scikit-learn, safetensors and, for DATA_FOLDER, nibabel.
"""
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from safetensors.numpy import save_file
from scipy import ndimage
from sklearn import metrics as sk

from networks_reference import uniform

warnings.filterwarnings("ignore")
PERCENTILES = (None, 95, 50, 5)


# ---- masks


def mask(text, dim):
    kind, *number = text.split()
    number = [int(v) for v in number]
    m = np.zeros(dim, np.uint8)
    if kind == "full":
        m[:] = 1
    elif kind == "noise":  # seed, share in thousandths
        m[:] = (uniform("noise", m.size, number[0]) * 1000 < number[1]).reshape(dim)
    elif kind == "voxel":
        m[tuple(number)] = 1
    elif kind == "box":  # first and one beyond the last
        m[number[0] : number[3], number[1] : number[4], number[2] : number[5]] = 1
    elif kind == "balls":  # seed, how many, largest radius
        u = uniform("balls", 4 * number[1], number[0]).reshape(-1, 4)
        at = np.indices(dim)
        for row in u:
            r = 1 + int(row[3] * number[2])
            m |= (sum((at[a] - int(row[a] * dim[a])) ** 2 for a in range(3)) <= r * r).astype(np.uint8)
    else:
        assert kind == "empty"
    return m


ISO, THICK, ODD = (1.0, 1.0, 1.0), (5.000104, 0.4297, 0.4297), (0.7, 1.3, 2.1)
CASES = [
    ("both empty", (6, 7, 8), ISO, "empty", "empty"),
    ("prediction empty", (6, 7, 8), ISO, "empty", "balls 1 2 3"),
    ("truth empty", (6, 7, 8), ODD, "balls 1 2 3", "empty"),
    ("equal", (12, 13, 14), ODD, "balls 2 3 4", "balls 2 3 4"),
    ("one voxel each, the same", (5, 5, 5), ISO, "voxel 2 3 1", "voxel 2 3 1"),
    ("one voxel each", (9, 8, 7), THICK, "voxel 0 7 0", "voxel 8 0 6"),
    ("one voxel in a ball", (12, 12, 12), ISO, "voxel 5 5 5", "balls 3 1 5"),
    ("full against full", (7, 6, 5), ODD, "full", "full"),
    ("full against a voxel", (9, 10, 11), ODD, "full", "voxel 8 0 10"),
    ("full against a box", (9, 10, 11), ISO, "full", "box 2 2 2 7 8 9"),
    ("boxes at the borders", (10, 11, 12), ODD, "box 0 0 0 4 11 5", "box 6 3 2 10 11 12"),
    ("a box at the border and one within", (10, 11, 12), ISO, "box 0 0 0 5 6 7", "box 1 1 1 6 7 8"),
    ("opposite corners of a long volume", (40, 30, 200), (1.1, 0.9, 2.3), "voxel 0 0 0", "voxel 39 29 199"),
    ("one slice", (1, 20, 21), ODD, "balls 4 4 6", "balls 5 4 6"),
    ("one row", (1, 1, 50), ODD, "noise 1 300", "noise 2 300"),
    ("one column", (1, 50, 1), ISO, "noise 3 200", "noise 4 200"),
    ("one pillar", (50, 1, 1), THICK, "noise 5 200", "noise 6 100"),
    ("one voxel of image", (1, 1, 1), ODD, "full", "full"),
    ("two by two", (2, 2, 2), ISO, "noise 7 500", "noise 8 500"),
    ("noise", (14, 15, 17), ISO, "noise 9 500", "noise 10 500"),
    ("noise, thick slices", (9, 24, 25), THICK, "noise 11 500", "noise 12 300"),
    ("sparse noise", (20, 21, 22), ODD, "noise 13 3", "noise 14 2"),
    ("noise against a voxel", (20, 21, 22), ODD, "noise 15 500", "voxel 1 19 2"),
    ("noise against a ball", (24, 25, 26), ISO, "noise 16 400", "balls 16 1 4"),
    ("balls", (30, 31, 33), ISO, "balls 17 4 9", "balls 18 4 9"),
    ("balls, odd spacing", (30, 31, 33), ODD, "balls 19 5 8", "balls 20 5 8"),
    ("balls, thick slices", (12, 40, 41), THICK, "balls 21 6 7", "balls 22 6 7"),
    ("balls far apart", (60, 61, 62), (0.9375, 0.9375, 1.2), "box 1 2 3 12 13 14", "box 45 46 47 60 61 62"),
    ("an outlier", (40, 41, 42), ISO, "balls 23 1 9", "balls 24 7 4"),
    ("tiny spacing", (12, 13, 14), (1e-3, 2e-3, 1.5e-3), "balls 25 2 4", "balls 26 2 4"),
    ("large spacing", (12, 13, 14), (100.0, 37.5, 81.25), "balls 25 2 4", "balls 26 2 4"),
]


def numbers(p, t, mm):
    """Dice, HD and percentiles; float32 of MONAI"""
    p, t = (torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None] for x in (p, t))
    out = [float(DiceMetric(include_background=True)(p, t))]
    for k in PERCENTILES:
        out.append(float(HausdorffDistanceMetric(include_background=True, percentile=k)(p, t, spacing=list(mm))))
    return " ".join("%.9g" % v for v in out)


def write_masks(path):
    with open(path, "w") as f:
        f.write("# name|D H W|mm|prediction|truth|Dice, HD, HD95, 50th and 5th percentile: metrics_reference.py\n")
        for name, dim, mm, p, t in CASES:
            sizes, spacing = " ".join(map(str, dim)), " ".join("%.9g" % v for v in mm)
            f.write("|".join((name, sizes, spacing, p, t, numbers(mask(p, dim), mask(t, dim), mm))) + "\n")


# ---- distance transforms

DISTANCES = [
    ((9, 11, 13), ISO, "noise 30 20"),
    ((9, 11, 13), ODD, "noise 31 10"),
    ((7, 12, 10), THICK, "balls 32 2 2"),
    ((1, 1, 40), ODD, "noise 33 100"),
    ((30, 1, 2), ISO, "voxel 29 0 1"),
    ((5, 6, 7), ODD, "full"),
]


def write_distances(path):
    tensors, meta = {}, {}
    for i, (dim, mm, text) in enumerate(DISTANCES):
        d = ndimage.distance_transform_edt(mask(text, dim) == 0, sampling=mm)
        tensors["distance%d" % i] = d.astype(np.float32)
        meta["case%d" % i] = "%d %d %d|%.9g %.9g %.9g|%s" % (*dim, *mm, text)
    save_file(tensors, path, metadata=meta)


# ---- classification

#   name, cases, classes, classes that occur, seed, bonus of the true class
CLASSES = [
    ("two classes", 60, 2, 2, 1, 6),
    ("two classes, many", 3000, 2, 2, 2, 2),
    ("two classes, no skill", 200, 2, 2, 3, 0),
    ("two classes, sure", 40, 2, 2, 4, 100),
    ("two classes, only class 0", 30, 2, 1, 5, 3),
    ("two cases", 2, 2, 2, 6, 1),
    ("one case", 1, 2, 2, 7, 1),
    ("three classes", 90, 3, 3, 8, 8),
    ("seven classes", 700, 7, 7, 9, 5),
    ("four classes, one missing", 120, 4, 3, 10, 3),
    ("four classes, three missing", 20, 4, 1, 11, 100),
]


def class_case(n, classes, present, seed, bonus):
    """Whole numbers 1..12, the true class gets a bonus, divided by their sum: the same floats everywhere, with many ties"""
    truth = (uniform("truth", n, seed) * present).astype(np.int64)
    points = 1 + (uniform("points", n * classes, seed) * 12).astype(np.int64).reshape(n, classes)
    points[np.arange(n), truth] += bonus
    return (points / points.sum(1, keepdims=True)).astype(np.float32), truth


def class_numbers(score, truth, classes):
    """Per class from scikit-learn, what is undefined NaN, then the mean; two classes: class 1"""
    guess, labels, nan = score.argmax(1), list(range(classes)), np.nan
    f1 = sk.f1_score(truth, guess, labels=labels, average=None, zero_division=nan)
    sensitivity = sk.recall_score(truth, guess, labels=labels, average=None, zero_division=nan)
    specificity, auc = np.empty(classes), np.empty(classes)
    for k in labels:
        specificity[k] = sk.recall_score(truth == k, guess == k, pos_label=False, zero_division=nan)
        auc[k] = sk.roc_auc_score(truth == k, score[:, k]) if 0 < (truth == k).sum() < len(truth) else nan
    use = [1] if classes == 2 else labels
    out = [sk.accuracy_score(truth, guess)] + [v[use].mean() for v in (auc, f1, sensitivity, specificity)]
    if len(np.unique(truth)) == classes:  # what a user of scikit-learn would call
        assert np.isclose(out[2], sk.f1_score(truth, guess, average="binary" if classes == 2 else "macro"), atol=1e-15)
        whole = sk.roc_auc_score(truth, score[:, 1]) if classes == 2 else sk.roc_auc_score(truth, score, multi_class="ovr")
        assert np.isclose(out[1], whole, atol=1e-12)
    return " ".join("%.17g" % v for v in out)


def write_classes(path):
    with open(path, "w") as f:
        f.write("# name|cases, classes, classes that occur, seed, bonus|accuracy, AUC, F1, sensitivity, specificity")
        f.write(": metrics_reference.py\n")
        for name, *how in CLASSES:
            score, truth = class_case(*how)
            f.write("%s|%s|%s\n" % (name, " ".join(map(str, how)), class_numbers(score, truth, how[1])))


# ---- real masks

#   file, bits of the label values in the prediction, its shift in voxels (D, H, W) and dilations, bits of those in the truth
REAL = [
    ("msd_brats_001/seg.nii.gz", 14, (0, 0, 0), 0, 14),
    ("msd_brats_001/seg.nii.gz", 14, (2, -3, 4), 0, 14),
    ("msd_brats_001/seg.nii.gz", 14, (0, 0, 0), 3, 14),
    ("msd_brats_001/seg.nii.gz", 10, (-1, 5, 2), 1, 14),
    ("msd_brats_001/seg.nii.gz", 4, (0, 0, 0), 0, 8),
    ("msd_brats_001/seg.nii.gz", 8, (30, -60, 90), 0, 4),
    ("openms_07/seg.nii.gz", 2, (1, 1, 0), 0, 2),
    ("openms_07/seg.nii.gz", 2, (0, 0, 0), 2, 2),
    ("openms_19/seg.nii.gz", 2, (0, -2, 1), 1, 2),
    ("tcga_06_1802_native/seg_auto.nii.gz", 6, (1, 0, 0), 0, 6),
    ("tcga_06_1802_native/seg_auto.nii.gz", 4, (0, 9, -7), 2, 2),
]


def shifted(m, by):
    out = np.zeros_like(m)
    to = [slice(max(0, b), m.shape[a] + min(0, b)) for a, b in enumerate(by)]
    of = [slice(max(0, -b), m.shape[a] + min(0, -b)) for a, b in enumerate(by)]
    out[tuple(to)] = m[tuple(of)]
    return out


def write_real(path, folder):
    import nibabel

    with open(path, "w") as f:
        f.write("# file below patients|mm of D H W|label bits of the prediction, shift D H W, dilations|label bits of the truth|")
        f.write("Dice, HD, HD95, 50th and 5th percentile: metrics_reference.py\n")
        for name, of_p, by, dilations, of_t in REAL:
            image = nibabel.load(folder / name)
            labels = np.asanyarray(image.dataobj).T.astype(np.int64)
            mm = [float(v) for v in image.header.get_zooms()[::-1]]
            p, t = shifted(of_p >> labels & 1, by).astype(np.uint8), (of_t >> labels & 1).astype(np.uint8)
            if dilations:
                p = ndimage.binary_dilation(p, iterations=dilations).astype(np.uint8)
            how = "%d %d %d %d %d" % (of_p, *by, dilations)
            f.write("|".join((name, " ".join("%.9g" % v for v in mm), how, str(of_t), numbers(p, t, mm))) + "\n")


def main():
    out = Path(sys.argv[1])
    write_masks(out / "masks.txt")
    write_distances(out / "distance.safetensors")
    write_classes(out / "classes.txt")
    if len(sys.argv) > 2:
        folder = Path(sys.argv[2])
        write_real(out / "real.txt", folder / "patients" if (folder / "patients").is_dir() else folder / "data" / "patients")


if __name__ == "__main__":
    main()
