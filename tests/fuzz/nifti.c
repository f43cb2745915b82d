/* nifti.c - fuzzing of NIfTI. The first byte: bit 0, the rest is put into gzip with a right checksum; bit 1, a
 * transform follows where the image is small. An image that is read is written and read again: the same voxels. */
#include "tests/fuzz/fuzz.h"

static void make_gzip(fuzz_bytes *out, const uint8_t *p, size_t n)
{
    static const uint8_t head[10] = { 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255 };
    const uint32_t crc = fuzz_crc(p, n);
    const size_t size = n;
    fuzz_put(out, head, sizeof head);
    do { /* blocks that are stored */
        const size_t k = n < 65535 ? n : 65535;
        fuzz_number(out, k == n, 1);
        fuzz_number(out, k, 2);
        fuzz_number(out, ~k, 2);
        fuzz_put(out, p, k);
        p += k;
        n -= k;
    } while (n > 0);
    fuzz_number(out, crc, 4);
    fuzz_number(out, size, 4);
}

static void write_again(const bmvp_nii_image *image, const bmvp_nii_options *o)
{
    bmvp_nii_image back;
    void *bytes = NULL;
    size_t n = 0;
    bmvp_error e;
    memset(&back, 0, sizeof back);
    if (bmvp_nii_write_memory(&bytes, &n, image, NULL, &e)) return;
    FUZZ_CHECK(bmvp_nii_read_memory(&back, bytes, n, NULL, 0, o, &e) == BMVP_OK);
    FUZZ_CHECK(back.datatype == image->datatype && back.data_bytes == image->data_bytes);
    FUZZ_CHECK(memcmp(back.dim, image->dim, sizeof back.dim) == 0);
    FUZZ_CHECK(image->data_bytes == 0 || memcmp(back.data, image->data, (size_t)image->data_bytes) == 0);
    bmvp_nii_image_free(&back);
    bmvp_nii_bytes_free(bytes, &image->allocator);
}

static void transform(bmvp_nii_volume *v, unsigned draw)
{
    static const char *const codes[] = { "RAS", "LPS", "SAR", "PIR", "XYZ", "RA", "" };
    static const double factor[] = { 1, 0.5, 2, -1, 0, 1.3 };
    static const bmvp_nii_scale scale = { 1, 99, 0, 1, 1, 0, 0 };
    double mm[3];
    bmvp_nii_box box;
    bmvp_error e;
    int a;
    if (draw & 1) (void)bmvp_nii_orient(v, codes[draw / 2 % 7], &e);
    bmvp_nii_voxel_size(mm, v->affine);
    for (a = 0; a < 3; ++a) mm[a] *= factor[(draw >> (4 + 3 * a)) % 6];
    if (draw & 2) (void)bmvp_nii_spacing(v, mm, NULL, &e);
    if (draw & 4) (void)bmvp_nii_scale_percentiles(v, &scale, NULL, &e);
    if (draw & 8 && bmvp_nii_nonzero_box(&box, v, &e) == BMVP_OK) (void)bmvp_nii_crop(v, &box, 0, &e);
}

int FUZZ_ONE(const uint8_t *data, size_t n)
{
    fuzz_bytes file;
    fuzz_memory m;
    bmvp_nii_options o;
    bmvp_nii_image image;
    bmvp_nii_volume v;
    bmvp_error e;
    bmvp_status s;
    if (n < 2) return 0;
    memset(&file, 0, sizeof file);
    if (data[0] & 1) make_gzip(&file, data + 1, n - 1);
    else fuzz_put(&file, data + 1, n - 1);
    memset(&o, 0, sizeof o);
    memset(&image, 0, sizeof image);
    memset(&v, 0, sizeof v);
    o.allocator = fuzz_begin(&m, file.n);
    o.max_bytes = 1 << 24; /* transforms of what a few voxels ask for */
    s = bmvp_nii_read_memory(&image, file.data, file.n, NULL, 0, &o, &e);
    if (s) fuzz_refused(s, &e);
    else {
        write_again(&image, &o);
        if (image.n_voxels < 5000 && bmvp_nii_to_volume(&v, &image, NULL, &o, &e) == BMVP_OK) {
            if (data[0] & 2) transform(&v, data[n - 1] * 257u + data[n / 2]);
            bmvp_nii_volume_free(&v);
        }
    }
    bmvp_nii_image_free(&image);
    fuzz_end(&m);
    free(file.data);
    return 0;
}
