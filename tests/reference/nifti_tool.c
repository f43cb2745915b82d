/* nifti_tool.c - what nifti_reference.py runs: one file in, any chain of transforms, one file of numbers out.

   nifti_tool info FILE                 header fields, one "name value..." line each
   nifti_tool copy FILE OUT VERSION     bmvp_nii_read and bmvp_nii_write
   nifti_tool box FILE OUT x0 y0 z0 x1 y1 z1 t
   nifti_tool run FILE OUT [t N] [raw] [component N] [orient CODES] [spacing X Y Z MODE DIAGONAL] [crop MARGIN]
              [center] [scale LOWER UPPER MIN MAX CLIP RELATIVE] [pad X Y Z] [resize X Y Z MODE ALIGN] [load CODES]

   OUT of box and run: int64 dim[3], double affine[16], float32 voxels. A failure prints the message, exit code 1. */
#define BMVP_NIFTI_IMPLEMENTATION
#include "../../bmvp_nifti.h"

static bmvp_error err;

static void check(bmvp_status s) {
    if (s == BMVP_OK) return;
    printf("%s: %s\n", bmvp_status_text(s), err.message);
    exit(1);
}

static void print_numbers(const char *name, const double *x, int n) {
    int i;
    printf("%s", name);
    for (i = 0; i < n; i++) printf(" %.17g", x[i]);
    printf("\n");
}

static void info(const char *path) {
    bmvp_nii_image im;
    double affine[16];
    char codes[4];
    int i;
    check(bmvp_nii_read_header(&im, path, NULL, &err));
    printf("version %d\nndim %d\ndim", im.version, im.ndim);
    for (i = 0; i < im.ndim; i++) printf(" %lld", (long long)im.dim[i]);
    printf("\ndatatype %d\nqform_code %d\nsform_code %d\nxyzt_units %d\n", im.datatype, im.qform_code, im.sform_code,
           im.xyzt_units);
    print_numbers("pixdim", im.pixdim, 8);
    print_numbers("slope", &im.scl_slope, 1);
    print_numbers("inter", &im.scl_inter, 1);
    print_numbers("affine", im.affine, 16);
    bmvp_nii_qform(affine, &im);
    print_numbers("qform", affine, 16);
    printf("source %d\n", (int)bmvp_nii_rectify_affine(affine, &im));
    print_numbers("rectified", affine, 16);
    bmvp_nii_axcodes(codes, im.affine);
    printf("axcodes %s\nextensions %d", codes, im.n_extensions);
    for (i = 0; i < im.n_extensions; i++)
        printf(" %d:%lld", (int)im.extensions[i].code, (long long)im.extensions[i].size);
    printf("\ndescrip %s\nintent_name %s\nintent_code %d\n", im.descrip, im.intent_name, im.intent_code);
    bmvp_nii_image_free(&im);
}

static void put(const char *path, const int64_t dim[3], const double affine[16], const float *data) {
    FILE *f = fopen(path, "wb");
    size_t n = (size_t)(dim[0] * dim[1] * dim[2]);
    if (f == NULL || fwrite(dim, 8, 3, f) != 3 || fwrite(affine, 8, 16, f) != 16 || fwrite(data, 4, n, f) != n ||
        fclose(f) != 0) {
        printf("%s cannot be written\n", path);
        exit(1);
    }
}

static char **args, **args_end;

static const char *word(void) {
    if (args == args_end) {
        printf("an argument is missing\n");
        exit(2);
    }
    return *args++;
}

static double number(void) { return strtod(word(), NULL); }
static int whole(void) { return (int)number(); }
static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static void box(void) {
    bmvp_nii_file file;
    bmvp_nii_box b;
    const char *path = word(), *out = word();
    int64_t dim[3];
    float *data;
    int i;
    for (i = 0; i < 3; i++) b.start[i] = whole();
    for (i = 0; i < 3; i++) b.end[i] = whole();
    for (i = 0; i < 3; i++) dim[i] = b.end[i] - b.start[i];
    data = (float *)malloc((size_t)(dim[0] * dim[1] * dim[2]) * sizeof(float));
    check(bmvp_nii_open(&file, path, NULL, &err));
    check(bmvp_nii_read_box(data, &file, &b, whole(), &err));
    put(out, dim, file.image.affine, data);
    bmvp_nii_close(&file);
    free(data);
}

static void transform(bmvp_nii_volume *v, const char *op) {
    bmvp_nii_box b;
    int i;
    if (is(op, "orient")) {
        check(bmvp_nii_orient(v, word(), &err));
    } else if (is(op, "spacing")) {
        bmvp_nii_resample how;
        double mm[3];
        memset(&how, 0, sizeof how);
        for (i = 0; i < 3; i++) mm[i] = number();
        how.mode = whole();
        how.diagonal = whole();
        check(bmvp_nii_spacing(v, mm, &how, &err));
    } else if (is(op, "crop")) {
        check(bmvp_nii_foreground_box(&b, v, 1, whole(), &err));
        check(bmvp_nii_crop(v, &b, 0, &err));
    } else if (is(op, "center")) {
        check(bmvp_nii_center_foreground_box(&b, v, 1, &err));
        check(bmvp_nii_crop(v, &b, 0, &err));
    } else if (is(op, "scale")) {
        bmvp_nii_scale s;
        s.lower = number();
        s.upper = number();
        s.b_min = number();
        s.b_max = number();
        s.clip = whole();
        s.relative = whole();
        check(bmvp_nii_scale_percentiles(v, &s, NULL, &err));
    } else if (is(op, "pad") || is(op, "resize")) {
        int64_t size[3];
        for (i = 0; i < 3; i++) size[i] = whole();
        if (is(op, "pad")) {
            bmvp_nii_pad_box(&b, v->dim, size, 0);
            check(bmvp_nii_crop(v, &b, 0, &err));
        } else {
            int mode = whole();
            check(bmvp_nii_resize(v, size, mode, whole(), &err));
        }
    } else {
        printf("unknown word %s\n", op);
        exit(2);
    }
}

static void run(void) {
    bmvp_nii_volume v;
    bmvp_nii_load how;
    const char *path = word(), *out = word();
    memset(&how, 0, sizeof how);
    for (; args < args_end; args++) {
        how.first = 1;
        if (is(*args, "t")) how.t = (args++, strtol(*args, NULL, 10));
        else if (is(*args, "component")) how.component = (args++, (int)strtol(*args, NULL, 10));
        else if (is(*args, "raw")) how.raw_values = 1;
        else if (is(*args, "load")) how.axcodes = *++args;
        else break;
    }
    check(bmvp_nii_read_volume(&v, path, &how, NULL, &err));
    while (args < args_end) transform(&v, word());
    put(out, v.dim, v.affine, v.data);
    bmvp_nii_volume_free(&v);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    args = argv + 2;
    args_end = argv + argc;
    if (is(argv[1], "info")) {
        info(word());
    } else if (is(argv[1], "copy")) {
        bmvp_nii_image im;
        bmvp_nii_write_options how;
        const char *in = word(), *out = word();
        memset(&how, 0, sizeof how);
        how.version = whole();
        check(bmvp_nii_read(&im, in, NULL, &err));
        check(bmvp_nii_write(out, &im, &how, &err));
        bmvp_nii_image_free(&im);
    } else if (is(argv[1], "box")) {
        box();
    } else if (is(argv[1], "run")) {
        run();
    } else {
        return 2;
    }
    return 0;
}
