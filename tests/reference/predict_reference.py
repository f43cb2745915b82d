#!/usr/bin/env python3
"""Where prepared probabilities lie on the grid of an image, by scipy: reference values of bmvp_ssl.h's >>predict call.

    predict_reference.py FILE.safetensors     read by tests/unit/test_predict.c

A case has two random affines: P of the prepared grid (D, H, W voxels; RAS, anisotropic or oblique, as preparation leaves it) and O
of an image, with what its name says. The expected values at image voxel i are the linear interpolation
(scipy.ndimage.map_coordinates, order 1) of the prepared map at p = inverse(P) O i, the border's value within half a voxel beyond
the border, and 0 outside. `empty` are prepared voxels without content: there the first of exclusive outputs is 1, the others 0.
Needs numpy, scipy, safetensors.
"""

import sys

import numpy as np
from safetensors.numpy import save_file
from scipy.ndimage import map_coordinates

OUTPUTS = 3


def rotation(rng, most):
    """By up to `most` radians about each axis."""
    m = np.eye(3)
    for a, t in enumerate(rng.uniform(-most, most, 3)):
        r = np.eye(3)
        i, j = [k for k in range(3) if k != a]
        r[i, i] = r[j, j] = np.cos(t)
        r[i, j], r[j, i] = -np.sin(t), np.sin(t)
        m = m @ r
    return m


def affine(m, size, centre):
    """The linear part m, with the grid's middle voxel at `centre`."""
    a = np.eye(4)
    a[:3, :3] = m
    a[:3, 3] = centre - m @ ((np.array(size) - 1) / 2)
    return a


def image(rng, name):
    m = np.eye(3) * rng.uniform(0.6, 1.4)
    if name in ("anisotropic", "all"): m = m @ np.diag(rng.uniform(0.4, 2.5, 3))
    if name in ("flipped", "all"): m = m @ np.diag(rng.choice([-1, 1], 3) if name == "all" else [-1, 1, -1])
    if name in ("permuted", "all"): m = m[:, rng.permutation(3) if name == "all" else [2, 0, 1]]
    if name in ("sheared", "all"): m = m @ (np.eye(3) + np.triu(rng.uniform(-0.5, 0.5, (3, 3)), 1))
    if name in ("rotated", "all"): m = rotation(rng, 0.7) @ m
    if name == "half": m = np.diag([0.5, 0.5, 0.5])
    return m


def main(path):
    names = ["straight", "half", "anisotropic", "flipped", "permuted", "sheared", "rotated"] + ["all"] * 7
    tensors, meta = {}, {}
    for n, name in enumerate(names):
        rng = np.random.default_rng(n)
        dim = rng.integers(5, 11, 3)  # x, y, z of the prepared grid
        if n == 9: dim[2] = 1
        if n == 10: dim[0], dim[1] = 1, 2
        size = rng.integers(6, 13, 3)
        p = affine(rotation(rng, 0.4 if name == "all" else 0) @ np.diag(rng.uniform(0.8, 1.2, 3)), dim, rng.uniform(-30, 30, 3))
        o = affine(image(rng, name), size, (p @ [*((dim - 1) / 2), 1])[:3] + rng.uniform(-1, 1, 3))
        if name == "half": o[:3, 3] = p[:3, 3] - 0.75  # exactly at quarters and at half a voxel beyond the border
        if name == "half": p[:3, :3] = np.eye(3)
        prepared = rng.random((dim[2], dim[1], dim[0], OUTPUTS)).astype(np.float32)
        empty = rng.random(prepared.shape[:3]) < 0.2
        shown = np.where(empty[..., None], np.eye(OUTPUTS)[0], prepared)
        i = np.stack(np.meshgrid(*[np.arange(k) for k in size], indexing="ij"))
        m = np.linalg.inv(p) @ o
        x = np.tensordot(m[:3, :3], i, 1) + m[:3, 3].reshape(3, 1, 1, 1)
        inside = ((x >= -0.5) & (x <= (dim - 0.5).reshape(3, 1, 1, 1))).all(0)
        y = np.stack([map_coordinates(shown[..., k].astype(float).T, x, order=1, mode="nearest") for k in range(OUTPUTS)])
        y = np.where(inside, y, np.eye(OUTPUTS)[0].reshape(-1, 1, 1, 1))  # as exclusive classes: background outside
        key = "%02d_%s" % (n, name)
        tensors[key + ".prepared"] = prepared
        tensors[key + ".content"] = (~empty).astype(np.float32)
        tensors[key + ".to"] = p.astype(np.float64)
        tensors[key + ".from"] = o.astype(np.float64)
        tensors[key + ".size"] = size.astype(np.float32)
        tensors[key + ".expected"] = np.ascontiguousarray(y.transpose(0, 3, 2, 1).astype(np.float32))  # output, z, y, x
    meta["cases"] = ",".join("%02d_%s" % c for c in enumerate(names))
    save_file(tensors, path, meta)


if __name__ == "__main__":
    main(sys.argv[1])
