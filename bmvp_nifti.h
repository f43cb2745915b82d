/* bmvp_nifti.h - v0.2.0 - read, write and prepare NIfTI volumes in one C header - MIT, no warranty (see its end)

   Do this:
       #define BMVP_NIFTI_IMPLEMENTATION      (in one C or C++ file)
       #include "bmvp_nifti.h"                (everywhere else without the define)
       cc program.c -ldeflate -lm
   BMVP_IMPLEMENTATION, the switch of all bmvp headers, works as well.

   WHAT IT IS
   Reads and writes NIfTI-1 and NIfTI-2 (and reads ANALYZE 7.5): one file or a .hdr/.img pair, plain or gzip, from
   files and from memory, in either byte order, every numeric type, extensions kept. Whether data are compressed and
   which format they are is decided by content, never by the file name. Voxels come out as float32 with slope and
   intercept applied as nibabel does it, in any orientation, in one pass. Transforms give the numbers of MONAI 1.4.0:
   orientation, spacing, percentile scaling, foreground crops, pad, resize, random crop. Volumes are registered (rigid
   to affine, any contrast) and resampled through matrices. Every number in a file is checked before it is used; errors
   name the file and the field.

   WHAT IT DOES NOT DO
   No deformable registration, no DICOM; templates are not included. Labels are volumes like others (resample them with
   NEAREST). float128, complex256 and the 1-bit type are read and written as bytes but not converted to float32. POSIX
   files only (Linux, macOS, BSD).

   CONTENTS
     >>status       status codes, error messages, allocator (shared with bmvp_tensor.h), names of version 0.1
     >>memory       pools, options of calls
     >>datatype     voxel types
     >>image        an image as it is in the file
     >>io           reading and writing images
     >>volume       one 3-D float32 volume, in any orientation
     >>box          reading boxes out of uncompressed files
     >>affine       affine rules
     >>transform    spacing, intensities, crops, pad, resize
     >>register     alignment of volumes, resampling by a matrix, transform files, distances, components
     >>brain        brain masks by a template
     >>base         (implementation from here on) errors, memory, checked arithmetic
     >>bytes        byte order and field access
     >>matrix       3x3 and 4x4 algebra
     >>gzip         inflate of a prefix, whole streams, compression
     >>source       bytes of a file or of a buffer, plain or gzip
     >>header       decoding and checking headers
     >>extension    extension lists
     >>read         whole images
     >>encode       headers to bytes
     >>write        images to files and memory
     >>convert      raw voxels to float32, orientation, in one pass
     >>crop file    boxes from open files
     >>orient       orientation of affines and volumes
     >>spacing      resampling to a voxel size
     >>intensity    order statistics and percentile scaling
     >>boxes        foreground, crop, pad, random boxes
     >>resize       resampling to a grid size
     >>resample to  onto another grid through a matrix
     >>transform files           matrices as text, ITK's
     >>distance     exact signed distances
     >>component    the largest one
     >>pyramid      smoothed levels, smoothing
     >>mutual information        samples, joint histogram, gradient
     >>pose         parameters of a matrix
     >>optimiser    BFGS
     >>search       where to start
     >>registration              the levels
     >>deformation  coarse, over an affine
     >>brain impl   distance carried over, evidence, cleaning, report

   A COMPLETE PROGRAM
     #define BMVP_NIFTI_IMPLEMENTATION
     #include "bmvp_nifti.h"
     #include <stdio.h>
     int main(int argc, char **argv) {
         const double mm[3] = {1, 1, 1};
         bmvp_error err;
         bmvp_nii_volume v;
         bmvp_nii_box box;
         bmvp_nii_load how = {0};
         bmvp_nii_scale scale = {1, 99, 0, 1, 1, 0, 0};
         if (argc != 3) return 2;
         how.axcodes = "RAS";
         if (bmvp_nii_read_volume(&v, argv[1], &how, NULL, &err) != BMVP_OK ||
             bmvp_nii_spacing(&v, mm, NULL, &err) != BMVP_OK ||
             bmvp_nii_foreground_box(&box, &v, 1, 0, &err) != BMVP_OK ||
             bmvp_nii_crop(&v, &box, 0, &err) != BMVP_OK ||
             bmvp_nii_scale_percentiles(&v, &scale, NULL, &err) != BMVP_OK ||
             bmvp_nii_write_volume(argv[2], &v, BMVP_NII_INT16, 1.0 / 32767, 0, NULL, NULL, &err) != BMVP_OK) {
             printf("%s\n", err.message);
             return 1;
         }
         bmvp_nii_volume_free(&v);
         return 0;
     }

   CONVENTIONS
   Axes    Everywhere x, y, z: dim[0] is x. x is fastest in memory: data[(z * dim[1] + y) * dim[0] + x].
           (MONAI holds [x][y][z] arrays with z fastest; the index of an axis is the same, only memory order differs.)
   Affines double[16], row-major 4x4, voxel index (x, y, z, 1) -> millimetres (x to the right, y to the front, z up).
   Memory  Structs belong to the caller, blocks inside them to the library: every filled struct has a _free function,
           which may also be called on a zeroed struct and twice. An output struct is overwritten, not freed, and is
           zeroed when the call fails. Transforms work in place on a volume and leave it unchanged when they fail.
   Errors  Functions return a bmvp_status, 0 = BMVP_OK. `err` may be NULL; it is written only on failure. E_IO: a file
           cannot be opened, read or written. E_FORMAT: its content is not valid (no NIfTI header, a field, data that
           end too early, damaged gzip). E_ARG: an argument of the call, or an affine that does not allow it. E_OOM: no
           memory, or more than max_bytes. E_UNSUPPORTED. The message names file and field.
   Threads No globals. Different structs can be used from different threads; a bmvp_nii_file by many at once.

   CONFIG MACROS
   BMVP_NIFTI_IMPLEMENTATION  set in one file: compiles the code (BMVP_IMPLEMENTATION does the same for all headers)
   BMVP_NIFTI_ZLIB            with the implementation: gzip by zlib (-lz) instead of libdeflate (-ldeflate)
   BMVP_NIFTI_NO_GZIP         with the implementation: no gzip at all; compressed files report UNSUPPORTED
   BMVP_API                   linkage of public functions; default nothing (extern); set everywhere alike
   In strict C99 (-std=c99) include this header before others in the implementing file, or define _DEFAULT_SOURCE. */

#ifndef BMVP_NIFTI_H_INCLUDED
#define BMVP_NIFTI_H_INCLUDED
#define BMVP_NIFTI_VERSION 200 /* major * 10000 + minor * 100 + patch */

#if defined(BMVP_IMPLEMENTATION) && !defined(BMVP_NIFTI_IMPLEMENTATION)
#define BMVP_NIFTI_IMPLEMENTATION
#endif
#if defined(__STRICT_ANSI__) && !defined(_DEFAULT_SOURCE) && defined(BMVP_NIFTI_IMPLEMENTATION)
#define _DEFAULT_SOURCE 1 /* pread, fsync, madvise; works when this header comes before the C library's */
#endif

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* >>status ----------------------------------------------------------------------------------------------------- */

/* ---- common: the same text in bmvp_tensor.h and bmvp_nifti.h, so that each stands alone -------------------------- */
#ifndef BMVP_COMMON
#define BMVP_COMMON 1
#ifndef BMVP_API
#define BMVP_API
#endif
#if defined(__GNUC__)
#define BMVP_RESTRICT __restrict__
#define BMVP_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define BMVP_RESTRICT
#define BMVP_PRINTF(f, a)
#endif

#define BMVP_STATUSES(X) \
    X(OK,            "ok") \
    X(E_OOM,         "out of memory") \
    X(E_SHAPE,       "shapes do not fit") \
    X(E_ARG,         "bad argument") \
    X(E_UNSUPPORTED, "not supported") \
    X(E_IO,          "file could not be read or written") \
    X(E_FORMAT,      "file content is not valid") \
    X(E_STATE,       "called at the wrong time") \
    X(E_INTERNAL,    "internal error") \
    X(E_CANCELLED,   "cancelled")
#define BMVP_X(id, text) BMVP_##id,
typedef enum bmvp_status { BMVP_STATUSES(BMVP_X) BMVP_STATUS_COUNT } bmvp_status;
#undef BMVP_X

typedef struct bmvp_error {
    bmvp_status status;
    char message[512]; /* one sentence: what, where (op, file, field), and what to do where we know it */
} bmvp_error;

/* English text of a status, never NULL. */
static inline const char *bmvp_status_text(bmvp_status s)
{
#define BMVP_X(id, text) text,
    static const char *const t[] = { BMVP_STATUSES(BMVP_X) };
#undef BMVP_X
    return (unsigned)s < BMVP_STATUS_COUNT ? t[s] : "unknown status";
}

/* Both functions or neither (malloc and free). alloc returns NULL on failure; bmvp_nifti.h wants malloc's alignment,
   bmvp_tensor.h takes any. */
typedef struct bmvp_allocator {
    void *(*alloc)(size_t size, void *user);
    void (*free)(void *ptr, void *user);
    void *user;
} bmvp_allocator;

/* One piece of parallel work. task in [0, n_tasks), worker in [0, threads): no two running pieces have one worker. */
typedef void (*bmvp_task_fn)(void *arg, int64_t task, int worker);
/* Runs fn(arg, 0 .. n_tasks-1, worker), each once, in any order and place; returns when all are done. */
typedef void (*bmvp_parallel_fn)(void *user, int64_t n_tasks, bmvp_task_fn fn, void *arg);
#elif BMVP_COMMON != 1
#error "bmvp_tensor.h and bmvp_nifti.h are of different versions: take both from one release"
#endif
/* ---- end of the common part -------------------------------------------------------------------------------------- */

/* Names of version 0.1, for programs written with them. */
typedef bmvp_status bmvp_nii_status;
typedef bmvp_error bmvp_nii_error;
#define bmvp_nii_status_text bmvp_status_text
#define BMVP_NII_OK BMVP_OK
#define BMVP_NII_E_ARGUMENT BMVP_E_ARG
#define BMVP_NII_E_AFFINE BMVP_E_ARG
#define BMVP_NII_E_MEMORY BMVP_E_OOM
#define BMVP_NII_E_LIMIT BMVP_E_OOM
#define BMVP_NII_E_OPEN BMVP_E_IO
#define BMVP_NII_E_READ BMVP_E_IO
#define BMVP_NII_E_WRITE BMVP_E_IO
#define BMVP_NII_E_FORMAT BMVP_E_FORMAT
#define BMVP_NII_E_HEADER BMVP_E_FORMAT
#define BMVP_NII_E_TRUNCATED BMVP_E_FORMAT
#define BMVP_NII_E_GZIP BMVP_E_FORMAT
#define BMVP_NII_E_UNSUPPORTED BMVP_E_UNSUPPORTED

/* >>memory -----------------------------------------------------------------------------------------------------
   A bmvp_allocator of zeros is malloc and free; blocks of 1 MiB and more are then asked for in huge pages where the
   system has them, which removes most of the page-fault time of a first read. Structs remember the allocator they were
   made with; it must stay valid until they are freed. The gzip codec takes its own small working memory from malloc. */

/* Memory that is used again: a pool keeps freed blocks of 64 KiB and more for the next request of about their size.
   Working through many files, this saves most page faults, which on virtual machines cost more than the arithmetic.
   Zero the struct, give bmvp_nii_pool_allocator(&pool) as hooks, free it after everything made with it. One thread per
   pool. Blocks beyond BMVP_NII_POOL_BLOCKS come straight from malloc. */
enum { BMVP_NII_POOL_BLOCKS = 64 };

typedef struct bmvp_nii_pool {
    struct { void *block; int64_t bytes; int used; } entry[BMVP_NII_POOL_BLOCKS];
} bmvp_nii_pool;

BMVP_API bmvp_allocator bmvp_nii_pool_allocator(bmvp_nii_pool *pool);
BMVP_API void bmvp_nii_pool_free(bmvp_nii_pool *pool);

/* Options of reading and making images. NULL or all zero = defaults. */
typedef struct bmvp_nii_options {
    bmvp_allocator allocator;
    int64_t max_bytes;                     /* largest single block to allocate; 0 = 64 GiB */
} bmvp_nii_options;

/* >>datatype ---------------------------------------------------------------------------------------------------
   X(name, code in the file, bytes per voxel, bytes per number (unit of byte swapping), text) */
#define BMVP_NII_DATATYPES(X)                       \
    X(UINT8,         2,  1,  1, "uint8")            \
    X(INT16,         4,  2,  2, "int16")            \
    X(INT32,         8,  4,  4, "int32")            \
    X(FLOAT32,      16,  4,  4, "float32")          \
    X(COMPLEX64,    32,  8,  4, "complex64")        \
    X(FLOAT64,      64,  8,  8, "float64")          \
    X(RGB24,       128,  3,  1, "rgb24")            \
    X(INT8,        256,  1,  1, "int8")             \
    X(UINT16,      512,  2,  2, "uint16")           \
    X(UINT32,      768,  4,  4, "uint32")           \
    X(INT64,      1024,  8,  8, "int64")            \
    X(UINT64,     1280,  8,  8, "uint64")           \
    X(FLOAT128,   1536, 16, 16, "float128")         \
    X(COMPLEX128, 1792, 16,  8, "complex128")       \
    X(COMPLEX256, 2048, 32, 16, "complex256")       \
    X(RGBA32,     2304,  4,  1, "rgba32")

#define BMVP_X(name, code, size, unit, text) BMVP_NII_##name = code,
typedef enum bmvp_nii_datatype { BMVP_NII_DATATYPES(BMVP_X) BMVP_NII_DATATYPE_NONE = 0 } bmvp_nii_datatype;
#undef BMVP_X

/* "int16" ...; "unknown" for a code that is not in the list. */
BMVP_API const char *bmvp_nii_datatype_text(int datatype);

/* Bytes per voxel; 0 for a code that is not in the list. */
BMVP_API int bmvp_nii_datatype_size(int datatype);

/* >>image ------------------------------------------------------------------------------------------------------
   An image as it is in the file. Fields of the file keep their names of nifti1.h; numbers are in native byte order. */

enum {
    BMVP_NII_MAX_DIMS = 7,
    BMVP_NII_MAX_EXTENSIONS = 4096         /* a longer list is an error, not a long loop */
};

/* Which matrix `affine` was taken from. */
typedef enum bmvp_nii_affine_source {
    BMVP_NII_AFFINE_SFORM = 1,             /* sform_code > 0 */
    BMVP_NII_AFFINE_QFORM,                 /* sform_code = 0, qform_code > 0 */
    BMVP_NII_AFFINE_FALLBACK,              /* both 0: diag(-dx, dy, dz), volume centre at 0 (as nibabel) */
    BMVP_NII_AFFINE_RECTIFIED              /* only from bmvp_nii_rectify_affine: the other matrix fits the voxel size */
} bmvp_nii_affine_source;

typedef struct bmvp_nii_extension {
    int32_t code;                          /* ecode: 2 DICOM, 4 AFNI, 6 comment, ... */
    int64_t size;                          /* bytes of data, without the 8 bytes of the extension's own header */
    unsigned char *data;
} bmvp_nii_extension;

typedef struct bmvp_nii_image {
    int version;                           /* 1, 2; 0 = ANALYZE 7.5 */
    int is_pair, is_gzip, is_swapped;      /* how it was stored: header and data apart; compressed; other byte order */

    int datatype;                          /* a bmvp_nii_datatype */
    int ndim;                              /* 1 .. 7 */
    int64_t dim[BMVP_NII_MAX_DIMS];        /* x y z t ...; 1 beyond ndim; all >= 1 */
    double pixdim[8];                      /* [0] qfac: -1 or 1; [1..3] voxel size > 0 (repaired); [4] time step */
    int64_t vox_offset;                    /* where data begin in their file */
    double scl_slope, scl_inter;           /* as stored; slope 0 (or not finite, made 0) = no scaling */
    double cal_min, cal_max, slice_duration, toffset;
    int64_t slice_start, slice_end;
    int slice_code, dim_info, xyzt_units;
    int intent_code;
    double intent_p[3];
    int qform_code, sform_code;            /* 0 .. 5 */
    double quatern[3], qoffset[3];         /* b, c, d; x, y, z */
    double srow[12];                       /* rows x, y, z */
    char intent_name[17], descrip[81], aux_file[25];   /* always ended with 0 */

    double affine[16];                     /* the matrix to use, see affine_source; in mm, whatever xyzt_units says */
    int affine_source;                     /* a bmvp_nii_affine_source */

    int n_extensions;
    bmvp_nii_extension *extensions;
    int64_t n_voxels;                      /* product of dim */
    int64_t data_bytes;                    /* n_voxels x bytes per voxel */
    void *data;                            /* voxels, native byte order, aligned for their type; NULL: header only */

    bmvp_allocator allocator;                /* hooks that free what follows */
    void *block;                           /* memory that holds data */
} bmvp_nii_image;

/* >>io --------------------------------------------------------------------------------------------------------- */

/* Reads header and extensions of `path` (.nii, .nii.gz, .hdr or .img of a pair, or any name); image->data is NULL.
   Of a gzip file only the needed beginning is inflated.
   Repaired without complaint, as nibabel does: pixdim 0 or not finite -> 1, negative -> absolute value, qfac other
   than -1 -> 1, bitpix, unknown form codes -> 0, dim 0 beyond the first -> 1, a quaternion longer than 1 (normalised),
   an extension section that does not fit (ignored). Errors: E_IO; E_FORMAT (no NIfTI or ANALYZE header; dim,
   datatype, vox_offset, scl_inter, NIfTI-2 end-of-line check; cut or damaged); E_OOM; E_UNSUPPORTED (gzip in a build
   without it). Source: nifti1.h, nifti2.h, nibabel 5.2.1. */
BMVP_API bmvp_status bmvp_nii_read_header(bmvp_nii_image *image, const char *path,
                                          const bmvp_nii_options *options, bmvp_error *err);

/* Reads header, extensions and data. Data are raw: slope and intercept are not applied (bmvp_nii_to_volume does).
   Checks of gzip: CRC-32 and length of each member; bytes after the last member that are no gzip header are ignored.
   Memory is allocated for the size the header declares: a longer stream is cut there, and refused (E_FORMAT) when more
   than 16 MiB longer. For a pair either of the two names may be given. Errors: as bmvp_nii_read_header. */
BMVP_API bmvp_status bmvp_nii_read(bmvp_nii_image *image, const char *path,
                                   const bmvp_nii_options *options, bmvp_error *err);

/* The same from memory: `bytes` is a whole single file, or the .hdr of a pair whose .img is `pair_bytes` (else NULL,
   0). Either may be gzip. The buffers are not kept. */
BMVP_API bmvp_status bmvp_nii_read_memory(bmvp_nii_image *image, const void *bytes, size_t n_bytes,
                                          const void *pair_bytes, size_t n_pair_bytes,
                                          const bmvp_nii_options *options, bmvp_error *err);

/* A new image: version 1 (2 where a dim needs it), `ndim` (1..7) dimensions, data all zero, no scaling, units mm and
   s, sform and qform set from `affine` as bmvp_nii_set_affine with code 1 (NULL: both codes 0). */
BMVP_API bmvp_status bmvp_nii_create(bmvp_nii_image *image, int datatype, int ndim, const int64_t *dim,
                                     const double affine[16], const bmvp_nii_options *options,
                                     bmvp_error *err);

/* Sets sform, qform (nearest rotation), pixdim[0..3], both codes (1..5) and affine. E_ARG: not finite or a
   column is 0. */
BMVP_API bmvp_status bmvp_nii_set_affine(bmvp_nii_image *image, const double affine[16], int code,
                                         bmvp_error *err);

/* Appends a copy of `data` (size >= 0 bytes) to the extension list. */
BMVP_API bmvp_status bmvp_nii_add_extension(bmvp_nii_image *image, int32_t code, const void *data,
                                            int64_t size, bmvp_error *err);

BMVP_API void bmvp_nii_image_free(bmvp_nii_image *image);

/* How to write. NULL or all zero = defaults. */
typedef struct bmvp_nii_write_options {
    int version;                           /* 1 or 2; 0 = image->version, 2 where a field does not fit into 1 */
    int level;                             /* gzip level 1..9; 0 = 6 */
    int store;                             /* memory only, bmvp_nii_store */
    int no_sync;                           /* 1: skip fsync (tests, scratch files) */
} bmvp_nii_write_options;

typedef enum bmvp_nii_store {
    BMVP_NII_STORE_NII = 0,                /* one plain file */
    BMVP_NII_STORE_NII_GZ                  /* one gzip file */
} bmvp_nii_store;

/* Writes the image with its extensions. The name decides how: .nii, .nii.gz, .hdr or .img (a pair: both are
   written), .hdr.gz or .img.gz (a compressed pair). Data and fields are written as they are, in native byte order,
   voxels start at the first multiple of 16 after header and extensions. Written to a temporary name in the same
   folder, synced, then renamed: the file is either the old or the new one. E_ARG: other name, no
   data, field that does not fit. E_IO, E_OOM, E_UNSUPPORTED (gzip in a build without it). */
BMVP_API bmvp_status bmvp_nii_write(const char *path, const bmvp_nii_image *image,
                                    const bmvp_nii_write_options *how, bmvp_error *err);

/* Writes one file into memory. *bytes is made by image->allocator's alloc; give it to bmvp_nii_bytes_free with
   the same hooks. */
BMVP_API bmvp_status bmvp_nii_write_memory(void **bytes, size_t *n_bytes, const bmvp_nii_image *image,
                                           const bmvp_nii_write_options *how, bmvp_error *err);

BMVP_API void bmvp_nii_bytes_free(void *bytes, const bmvp_allocator *memory);

/* >>volume ----------------------------------------------------------------------------------------------------- */

typedef struct bmvp_nii_volume {
    int64_t dim[3];                        /* x, y, z, each >= 1 (a crop box can be empty: then 0) */
    double affine[16];                     /* voxel -> mm */
    float *data;                           /* data[(z * dim[1] + y) * dim[0] + x] */
    int64_t n_nan, n_inf;                  /* found while loading (before replacement); transforms do not update them */
    bmvp_allocator allocator;
    void *block;
    int by_qform;                          /* 1: loaded by the qform, where the sform says another place: see
                                              bmvp_nii_rectify_affine; transforms may forget it */
    double forms_apart;                    /* loaded by the sform: bmvp_nii_forms_apart where that is more than the
                                              longest edge of a voxel, else 0; transforms may forget it */
} bmvp_nii_volume;

/* Which number of a voxel that has several. */
typedef enum bmvp_nii_component {
    BMVP_NII_DEFAULT_COMPONENT = 0,        /* real part; grey value */
    BMVP_NII_REAL, BMVP_NII_IMAGINARY, BMVP_NII_MAGNITUDE, BMVP_NII_PHASE,    /* complex; phase in radians */
    BMVP_NII_GREY, BMVP_NII_RED, BMVP_NII_GREEN, BMVP_NII_BLUE, BMVP_NII_ALPHA /* RGB(A); grey .299 .587 .114 */
} bmvp_nii_component;

/* How to make a volume of an image. NULL or all zero = defaults. */
typedef struct bmvp_nii_load {
    const char *axcodes;                   /* "RAS", "LPS", ...: orientation wanted; NULL = as in the file */
    int64_t t;                             /* which 3-D volume, counted through dim[3..6] */
    int64_t of;                            /* so many there must be, else E_FORMAT; 0: any number */
    int component;                         /* a bmvp_nii_component */
    int first;                             /* of several numbers a voxel, where t and component are 0. 0: the image is
                                              refused; 1: the first (first volume, real part, grey value) */
    int raw_values;                        /* 1: do not apply slope and intercept */
    int keep_affine;                       /* 0: MONAI's repair, bmvp_nii_rectify_affine; 1: image->affine */
    int replace_nonfinite;                 /* 1: NaN and infinities become `replacement` */
    float replacement;
} bmvp_nii_load;

/* Volume from an image with data: voxel selection, conversion to float32, slope and intercept, and orientation in one
   pass over memory. Values as nibabel + MONAI LoadImage: slope 1 and inter 0: direct cast to float32; else double
   arithmetic x * slope + inter (each step only where it is not 1 or 0), then cast. Slope and intercept apply to both
   parts of complex voxels and not to RGB. A voxel is one number: an image that holds several (4-D with more than one
   volume, vectors, complex, RGB) is refused with its dimensions (E_FORMAT) unless `how` says which one. Lengths in
   metres or micrometres (xyzt_units) become mm; E_FORMAT when that makes voxels smaller than 1 um or larger than 1 m.
   NaN and infinities are counted, and kept unless replacement is asked for.
   E_UNSUPPORTED: float128, complex256. E_ARG: t, axcodes or component do not fit, or axcodes wanted of an affine
   that has no orientation. E_FORMAT, with axcodes: the affine to use is singular or not finite. */
BMVP_API bmvp_status bmvp_nii_to_volume(bmvp_nii_volume *volume, const bmvp_nii_image *image,
                                        const bmvp_nii_load *how, const bmvp_nii_options *options,
                                        bmvp_error *err);

/* bmvp_nii_read, bmvp_nii_to_volume, bmvp_nii_image_free. */
BMVP_API bmvp_status bmvp_nii_read_volume(bmvp_nii_volume *volume, const char *path, const bmvp_nii_load *how,
                                          const bmvp_nii_options *options, bmvp_error *err);

/* A volume of zeros. affine NULL = identity. */
BMVP_API bmvp_status bmvp_nii_volume_create(bmvp_nii_volume *volume, const int64_t dim[3],
                                            const double affine[16], const bmvp_nii_options *options,
                                            bmvp_error *err);

BMVP_API bmvp_status bmvp_nii_volume_copy(bmvp_nii_volume *copy, const bmvp_nii_volume *volume,
                                          bmvp_error *err);

BMVP_API void bmvp_nii_volume_free(bmvp_nii_volume *volume);

/* Image of a volume, for writing. Stored number = round-half-even((value - inter) / slope), clamped to the type's
   range, NaN as 0; *n_clamped (may be NULL) counts the clamped and NaN voxels. slope 0 = chosen: for integer types the
   smallest slope that covers minimum and maximum (1 when all values are integers in range), for float types 1. slope
   and inter are rounded to float32 first, as NIfTI-1 stores them. Types: uint8, int8, uint16, int16, int32, float32,
   float64 (float types keep NaN and are not clamped). */
BMVP_API bmvp_status bmvp_nii_from_volume(bmvp_nii_image *image, const bmvp_nii_volume *volume, int datatype,
                                          double slope, double inter, int64_t *n_clamped,
                                          const bmvp_nii_options *options, bmvp_error *err);

/* bmvp_nii_from_volume, bmvp_nii_write, bmvp_nii_image_free. */
BMVP_API bmvp_status bmvp_nii_write_volume(const char *path, const bmvp_nii_volume *volume, int datatype,
                                           double slope, double inter, int64_t *n_clamped,
                                           const bmvp_nii_write_options *how, bmvp_error *err);

/* >>box -------------------------------------------------------------------------------------------------------- */

/* Half-open box of voxels: start <= index < end on axes x, y, z. May reach outside of a volume. */
typedef struct bmvp_nii_box {
    int64_t start[3], end[3];
} bmvp_nii_box;

/* An uncompressed image file held open. Only reading of `image` (header fields, data NULL) is for the caller. */
typedef struct bmvp_nii_file {
    bmvp_nii_image image;
    int fd;                                /* of the data; -1 when closed */
} bmvp_nii_file;

/* Opens for box reads. E_UNSUPPORTED: gzip (a box cannot be found in it without inflating all before it) or a type
   that does not convert to float32. E_FORMAT: file shorter than the header says. */
BMVP_API bmvp_status bmvp_nii_open(bmvp_nii_file *file, const char *path, const bmvp_nii_options *options,
                                   bmvp_error *err);

/* Reads box `box` (file orientation) of volume `t` as float32, slope and intercept applied, into dst:
   size[0] * size[1] * size[2] numbers with size = end - start, x fastest. Voxels outside of the volume are 0.
   Complex and RGB: default component. No allocation, no seek: any number of threads may read from one file. */
BMVP_API bmvp_status bmvp_nii_read_box(float *dst, const bmvp_nii_file *file, const bmvp_nii_box *box,
                                       int64_t t, bmvp_error *err);

BMVP_API void bmvp_nii_close(bmvp_nii_file *file);

/* >>affine -----------------------------------------------------------------------------------------------------
   An affine a is double[16], row-major. Voxel (i, j, k), counted from 0, lies at x = a[0] i + a[1] j + a[2] k + a[3],
   y = a[4] i + .. + a[7], z = a[8] i + .. + a[11], in mm; x grows to the right, y to the front, z up (RAS). */

/* qform matrix of an image: rotation from the quaternion (a >= 0; normalised when b^2+c^2+d^2 > 1), columns
   times pixdim[1], pixdim[2], qfac * pixdim[3], translation qoffset. */
BMVP_API void bmvp_nii_qform(double affine[16], const bmvp_nii_image *image);

/* sform matrix of an image: the rows as stored. */
BMVP_API void bmvp_nii_sform(double affine[16], const bmvp_nii_image *image);

/* The affine that images are loaded with: image->affine, except when both codes are > 0, the sform does not fit and the
   qform does: then the qform (through float32). A form fits when its column lengths are pixdim's (1e-5 relative; not
   asked of ndim 5 and more); a singular sform never does. Returns the source. Source: MONAI 1.4.0
   rectify_header_sform_qform, which also takes a qform of code 0, that is, one that nobody has given, and keeps a
   singular sform whose columns have the right length. */
BMVP_API bmvp_nii_affine_source bmvp_nii_rectify_affine(double affine[16], const bmvp_nii_image *image);

/* One sentence: which matrix was chosen and why. */
BMVP_API const char *bmvp_nii_affine_reason(int affine_source);

/* Orientation of an affine: input axis i runs along world axis axis[i] (0 x, 1 y, 2 z), flip[i] 1 when it runs
   to the left, back or down. Source: nibabel 5.2.1 io_orientation. E_ARG: not finite, or an axis has no
   direction. */
BMVP_API bmvp_status bmvp_nii_orientation(int axis[3], int flip[3], const double affine[16],
                                          bmvp_error *err);

/* Three letters and 0, for example "RAS"; "???" where bmvp_nii_orientation fails. */
BMVP_API void bmvp_nii_axcodes(char codes[4], const double affine[16]);

/* Lengths of the columns: voxel size in mm (0 reported as 1, as MONAI). */
BMVP_API void bmvp_nii_voxel_size(double mm[3], const double affine[16]);

/* Inverse; E_ARG when singular or not finite. */
BMVP_API bmvp_status bmvp_nii_affine_inverse(double inverse[16], const double affine[16], bmvp_error *err);

/* mm that one unit of length of the file is: 1000, 1 or 0.001 by xyzt_units; 1 where it does not say. */
BMVP_API double bmvp_nii_unit_mm(const bmvp_nii_image *image);

/* How far apart, in mm, a file's sform and qform place its voxels (bmvp_nii_grid_distance); 0: it has not both. */
BMVP_API double bmvp_nii_forms_apart(const bmvp_nii_image *image);

/* How far apart two grids lie: largest distance in mm between the same corner voxels (centres) of both; infinite when
   their dims differ. */
BMVP_API double bmvp_nii_grid_distance(const bmvp_nii_volume *a, const bmvp_nii_volume *b);

/* 1 when that is at most a twentieth of the smallest edge of a voxel of a: one grid, whose header was rounded
   differently. Give both one affine before resampling, so that they get one size. */
BMVP_API int bmvp_nii_one_grid(const bmvp_nii_volume *a, const bmvp_nii_volume *b);

/* 1 when dims are equal and affines agree within atol + rtol * |b| in each element (MONAI stacks a list of files
   with atol 1e-8, rtol 1e-5). */
BMVP_API int bmvp_nii_same_grid(const bmvp_nii_volume *a, const bmvp_nii_volume *b, double rtol, double atol);

/* >>transform --------------------------------------------------------------------------------------------------
   Numbers of MONAI 1.4.0, named above each function. */

/* Orientation: reorders and flips axes so that the volume's axes run as `axcodes` says. No resampling. */
BMVP_API bmvp_status bmvp_nii_orient(bmvp_nii_volume *volume, const char *axcodes, bmvp_error *err);

typedef enum bmvp_nii_interpolation {
    BMVP_NII_LINEAR = 0,                   /* trilinear (MONAI "bilinear") */
    BMVP_NII_NEAREST,                      /* labels */
    BMVP_NII_NEAREST_EXACT,                /* resize only */
    BMVP_NII_AREA,                         /* resize only: mean over the covered voxels */
    BMVP_NII_CUBIC                         /* bmvp_nii_resample_to only */
} bmvp_nii_interpolation;

/* Options of bmvp_nii_spacing. NULL or all zero = defaults. */
typedef struct bmvp_nii_resample {
    int mode;                              /* BMVP_NII_LINEAR or BMVP_NII_NEAREST */
    int diagonal;                          /* 1: new affine is diag(mm), orientation dropped (MONAI diagonal=True) */
    int64_t dim[3];                        /* forced output size; 0 = computed (MONAI's ensure_same_shape) */
} bmvp_nii_resample;

/* Spacing: resamples to voxel size mm[3] (<= 0: keep that axis). Border voxels are repeated, coordinates are
   voxel centres, shear is removed, no smoothing. Output size round-half-even((n - 1) * old / new + 1) per axis.
   Unchanged when the new grid equals the old one within 1e-3 + 1e-5 relative. NEAREST follows PyTorch's arithmetic
   at ties as far as it is defined. E_ARG: singular, the result would have 2^31 voxels on an axis, or shear alone
   (not diagonal) would make it 64 times as large. */
BMVP_API bmvp_status bmvp_nii_spacing(bmvp_nii_volume *volume, const double mm[3],
                                      const bmvp_nii_resample *how, bmvp_error *err);

/* Percentile q (0..100) of n floats, linear between order statistics: with numpy.percentile's arithmetic for more than
   1 000 000 numbers, torch.quantile's otherwise, as MONAI. NaN when any number is NaN. values[i] for q[i], n_q <= 8.
   `memory` NULL = malloc. */
BMVP_API bmvp_status bmvp_nii_percentiles(float *values, const double *q, int n_q, const float *data, int64_t n,
                                          const bmvp_allocator *memory, bmvp_error *err);

typedef struct bmvp_nii_scale {
    double lower, upper;                   /* percentiles, 0 <= lower <= upper <= 100 */
    double b_min, b_max;                   /* what they become */
    int clip;                              /* 1: clamp to [b_min, b_max] */
    int relative;                          /* 1: b range is cut by the percentiles as well (MONAI relative=True) */
    int sparse;                            /* 1: where a = b (an angiogram is nearly all zeros), a and b are the
                                              percentiles of the voxels that are not 0; where these coincide, too, the
                                              smallest and the largest value of all */
} bmvp_nii_scale;

/* ScaleIntensityRangePercentiles over all voxels: (v - a) / (b - a) * (b_max - b_min) + b_min with a, b the
   percentiles. When b = a: v - a + b_min, not clipped. ab (may be NULL) receives a and b. NaN in the
   volume makes all NaN. */
BMVP_API bmvp_status bmvp_nii_scale_percentiles(bmvp_nii_volume *volume, const bmvp_nii_scale *scale, float *ab,
                                                bmvp_error *err);

/* CropForeground's box of n volumes on one grid (channels): smallest box around voxels > 0 in any of them, grown by
   margin, clamped to the volume. No such voxel: an empty box, start = end = 0. */
BMVP_API bmvp_status bmvp_nii_foreground_box(bmvp_nii_box *box, const bmvp_nii_volume *volumes, int n,
                                             int64_t margin, bmvp_error *err);

/* The release's CenterCropForeground: the foreground box made symmetric about dim/2 on each axis. No foreground: the
   whole volume. */
BMVP_API bmvp_status bmvp_nii_center_foreground_box(bmvp_nii_box *box, const bmvp_nii_volume *volumes, int n,
                                                    bmvp_error *err);

/* That symmetric box, of a foreground box in a volume of dim; an empty box becomes the whole volume. */
BMVP_API void bmvp_nii_center_box(bmvp_nii_box *box, const int64_t dim[3]);

/* Smallest box around voxels that are not +0, empty when there is none. Cut out, it can be padded again with 0 to what
   it was: a way to hold many volumes of a head in a third of the memory. */
BMVP_API bmvp_status bmvp_nii_nonzero_box(bmvp_nii_box *box, const bmvp_nii_volume *volume,
                                          bmvp_error *err);

/* Affine of what bmvp_nii_crop cuts out of a volume with `affine`; out may be affine. */
BMVP_API void bmvp_nii_box_affine(double out[16], const double affine[16], const bmvp_nii_box *box);

/* Cuts `box` out; what lies outside of the volume becomes `fill` (CropForeground pads so). The affine's translation
   follows. A box of less than half of the voxels gets a block of its own, else the block stays as large as it was.
   E_ARG: end < start, or nothing left (an empty box). */
BMVP_API bmvp_status bmvp_nii_crop(bmvp_nii_volume *volume, const bmvp_nii_box *box, float fill,
                                   bmvp_error *err);

/* SpatialPad: the box that pads dim to at least size[3] (<= 0: not this axis); symmetric: low side gets width/2
   rounded down; at_end 1: all at the end. Give it to bmvp_nii_crop. */
BMVP_API void bmvp_nii_pad_box(bmvp_nii_box *box, const int64_t dim[3], const int64_t size[3], int at_end);

/* Draws an integer 0 <= i < n, all equally likely. */
typedef int64_t (*bmvp_nii_draw_fn)(int64_t n, void *user);

typedef struct bmvp_nii_random_crop {
    int64_t size[3];                       /* <= 0: whole axis */
    int64_t max_size[3];                   /* random_size: upper bound; <= 0: whole axis */
    int random_size;                       /* 1: size is drawn from size .. max_size */
    int fixed_center;                      /* 1: centre box (random_center=False) */
} bmvp_nii_random_crop;

/* RandSpatialCrop's box: size = min(size, dim), corner uniform, drawn for x, y, z in this order and only where dim >
   size. The box can be smaller than size; pad afterwards. */
BMVP_API bmvp_status bmvp_nii_random_box(bmvp_nii_box *box, const int64_t dim[3],
                                         const bmvp_nii_random_crop *how, bmvp_nii_draw_fn draw, void *user,
                                         bmvp_error *err);

/* Resize to size[3] voxels. AREA: adaptive average; LINEAR: half-pixel centres, or align_corners 1; NEAREST: floor(i *
   n / n'); NEAREST_EXACT: floor((i + 0.5) * n / n'). The affine follows (scale n/n', offset (n/n' - 1)/2). */
BMVP_API bmvp_status bmvp_nii_resize(bmvp_nii_volume *volume, const int64_t size[3], int mode,
                                     int align_corners, bmvp_error *err);

/* >>register ---------------------------------------------------------------------------------------------------
   Alignment of volumes. Matrices are double[16], row-major, and map mm of the FIXED volume to mm of the MOVING one
   (RAS): the direction in which one resamples, moving onto fixed. */

typedef enum bmvp_nii_dof {
    BMVP_NII_RIGID = 6, BMVP_NII_SIMILARITY = 7, BMVP_NII_SCALES = 9, BMVP_NII_AFFINE = 12
} bmvp_nii_dof;

/* How far a search goes. */
typedef enum bmvp_nii_search {
    BMVP_NII_SEARCH_SMALL = 0,             /* 20 degrees either way about header, centres of mass, centres of grids */
    BMVP_NII_SEARCH_ALL = 1,               /* times the 24 turns of a cube: for files whose header lies */
    BMVP_NII_SEARCH_NONE = -1              /* only from `start` */
} bmvp_nii_search;

/* All zero or NULL = defaults. */
typedef struct bmvp_nii_register_how {
    int dof;                               /* a bmvp_nii_dof; 0 = rigid */
    double level[4];                       /* mm, coarse to fine, 0 ends; all 0 = 8 4 2 */
    int bins, samples;                     /* of the joint histogram (8 .. 64), of a level; 0 = 32, 200000 */
    int search;                            /* a bmvp_nii_search */
    const double *start;                   /* matrix to start from; NULL = the headers */
    const bmvp_nii_volume *mask;           /* on the fixed grid: only where above 0. NULL: foreground grown by 10 mm */
    bmvp_parallel_fn parallel;             /* the caller's threads; NULL = none. The result is the same bits */
    void *parallel_user;
    /* As bmvp_config.progress: "poses", how many were looked at (asked at each pose of the search and each step of a
       climb), of 0: not known before. Nonzero: stop with E_CANCELLED, r is zeroed; no further pose is looked at, and
       the same call can be made again. Called by the thread that registers; NULL = none */
    int (*progress)(void *user, const char *what, int64_t done, int64_t of);
    void *progress_user;
} bmvp_nii_register_how;

typedef struct bmvp_nii_registration {
    double matrix[16];
    double nmi, overlap;                   /* at the result: 1 (independent) .. 2; share of samples inside of moving */
    double nmi_coarse, runner_up;          /* on the coarsest level: of the best pose, and of the best one more than
                                              10 mm from it (0: none). Near each other: doubtful */
    int evaluations;
} bmvp_nii_registration;

/* Maximises the normalised mutual information of the two over poses of dof degrees of freedom. Volumes may have any
   grid and contrast. E_ARG: fewer than 2 voxels on an axis, constant, NaN or infinite voxels, a singular affine, a mask
   of another grid, or no pose with a tenth of the samples inside of moving; r is zeroed then.
   The bits are the same for any number of threads, level of optimisation and instruction set where the compiler rounds
   each product (gcc -std=c99, or -ffp-contract=off); where it fuses products with sums, rigid results of phantoms were
   0.004 to 0.044 mm from those.
   Sources: Studholme et al. 1999 (NMI), Mattes et al. 2003 (Parzen windows, gradient). */
BMVP_API bmvp_status bmvp_nii_register(bmvp_nii_registration *r, const bmvp_nii_volume *fixed,
                                       const bmvp_nii_volume *moving, const bmvp_nii_register_how *how,
                                       bmvp_error *err);

/* One interpolation: out gets dim and affine of `grid` (whose data are not read), and at each voxel the value of volume
   at matrix * position (NULL = identity). LINEAR, NEAREST or CUBIC (Catmull-Rom, which can overshoot). Border voxels
   reach half a voxel beyond their centres; farther out is `fill`. out may not be volume. */
BMVP_API bmvp_status bmvp_nii_resample_to(bmvp_nii_volume *out, const bmvp_nii_volume *volume,
                                          const bmvp_nii_volume *grid, const double matrix[16], int interpolation,
                                          float fill, bmvp_error *err);

/* out = a b: first b, then a. Template -> reference, then reference -> t2: t2_of_reference * reference_of_template. out
   may be a or b. */
BMVP_API void bmvp_nii_matrix_multiply(double out[16], const double a[16], const double b[16]);

/* Mean distance in mm between a x and b x over the voxels of `mask` above 0 (data NULL: all of its grid): the error of
   a loop against the identity, of a result against the truth. 0 when there is no such voxel. */
BMVP_API double bmvp_nii_matrix_distance(const double a[16], const double b[16], const bmvp_nii_volume *mask);

/* A matrix as text: ITK's transform file (LPS) where the name ends in .tfm or .txt, else four rows of four numbers.
   Read by content: these, and of ITK's transforms AffineTransform, MatrixOffsetTransformBase, Euler3DTransform,
   VersorRigid3DTransform, TranslationTransform in double or float. Written beside and renamed. E_IO; E_FORMAT: not one
   of them, not finite, last row not 0 0 0 1. */
BMVP_API bmvp_status bmvp_nii_matrix_write(const char *path, const double matrix[16], bmvp_error *err);
BMVP_API bmvp_status bmvp_nii_matrix_read(double matrix[16], const char *path, bmvp_error *err);

/* Exact distance in mm from each voxel to the surface of the voxels above 0, negative inside: the distance between
   centres to the nearest voxel of the other kind less half a voxel's mean edge; +-1e6 where there is none of the kind.
   Source: Felzenszwalb and Huttenlocher 2012, one axis after the other; the affine's angles are taken as right. */
BMVP_API bmvp_status bmvp_nii_distance(bmvp_nii_volume *mm, const bmvp_nii_volume *mask, bmvp_error *err);

/* Keeps the largest component (neighbours share a face) of the voxels above 0, which become 1; others 0. */
BMVP_API bmvp_status bmvp_nii_largest_component(bmvp_nii_volume *mask, bmvp_error *err);

/* Gaussian of so many mm full width at half maximum on each axis (<= 0: not this one), cut at 3 sigma; at the border
   the weights inside are normalised. */
BMVP_API bmvp_status bmvp_nii_smooth(bmvp_nii_volume *volume, const double fwhm[3], bmvp_error *err);

/* >>brain ------------------------------------------------------------------------------------------------------ */

/* All zero or NULL = defaults. */
typedef struct bmvp_nii_brain_how {
    int no_deform;                         /* 1: the affine matrix alone */
    int no_refine;                         /* 1: the template's brain as it is carried over */
    double margin;                         /* mm added outside; negative: taken away */
    bmvp_parallel_fn parallel;             /* as in bmvp_nii_register_how */
    void *parallel_user;
    /* As in bmvp_nii_register_how: "poses" of two registrations, each from 0; "rounds" of the deformation and "masks"
       before the case's own values are asked, of 0. Nonzero: E_CANCELLED, mask and report are zeroed */
    int (*progress)(void *user, const char *what, int64_t done, int64_t of);
    void *progress_user;
} bmvp_nii_brain_how;

/* What tells a good mask from a doubtful one. */
typedef struct bmvp_nii_brain_report {
    double matrix[16];                     /* template mm -> case mm */
    double nmi;                            /* of the affine */
    double stretch[3];                     /* its singular values, largest first: outside of 0.75 .. 1.35 doubtful */
    double litres;                         /* outside of 0.9 .. 2.2 doubtful */
    double edge;                           /* share of the mask's surface (area) on the edge of the field of view: above
                                              0.05 doubtful, part of the brain was not imaged */
    double kept;                           /* Dice of the masks before and after refinement: below 0.9 doubtful */
    double against;                        /* share of the mask whose values are likelier outside: above 0.5 doubtful */
    int doubtful;                          /* how many of these are */
} bmvp_nii_brain_report;

/* Those that are doubtful, with their figures, as text ("2.4 litres, kept 0.81"), cut where size ends; how many. */
BMVP_API int bmvp_nii_brain_doubts(const bmvp_nii_brain_report *report, char *text, size_t size);

/* Mask (0, 1) of the brain on the grid of volumes[0], from n modalities of one case on one grid and a template head
   WITH skull and its brain (above 0) on one grid. Contrasts may differ. The template is carried over by an affine
   matrix and a coarse deformation, and the surface is then moved to where intensities change. Where the field of view
   ends, the brain goes on: its edge is no surface. E_ARG: as bmvp_nii_register, or grids that differ; mask and report
   are zeroed then. */
BMVP_API bmvp_status bmvp_nii_brain_mask(bmvp_nii_volume *mask, const bmvp_nii_volume *volumes, int n,
                                         const bmvp_nii_volume *tmpl, const bmvp_nii_volume *tmpl_brain,
                                         const bmvp_nii_brain_how *how, bmvp_nii_brain_report *report,
                                         bmvp_error *err);

/* 1 when the head was taken away already: more than 30 % of the voxels are exactly 0 and the others fill 0.6 to 2.2
   litres. */
BMVP_API int bmvp_nii_is_stripped(const bmvp_nii_volume *volume);

#ifdef __cplusplus
}
#endif

#endif /* BMVP_NIFTI_H_INCLUDED */

/* Stop here if you only use the library. ======================================================================== */

#ifdef BMVP_NIFTI_IMPLEMENTATION
#ifndef BMVP_NIFTI_IMPLEMENTATION_ONCE
#define BMVP_NIFTI_IMPLEMENTATION_ONCE
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math takes NaN, infinity and exact rounding from voxels: compile bmvp_nifti.h without it"
#endif

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* ---- system: the same text in bmvp_nn.h and bmvp_nifti.h: files of POSIX, and of Windows by UTF-8 names ---------- */
#ifndef BMVPI_SYSTEM_ONCE
#define BMVPI_SYSTEM_ONCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#if defined(_WIN32)
#include <io.h>
#include <process.h>
#include <wchar.h>
#else
#include <unistd.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { BMVPI_SYS_READ, BMVPI_SYS_NEW }; /* a file that is there; one that must not be there, for writing */

#if defined(_WIN32)
struct _OVERLAPPED;
/* From windows.h, whose macros take names from everybody: the same declarations. */
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned page, unsigned long how, const char *from, int bytes,
                                                        wchar_t *to, int room);
__declspec(dllimport) int __stdcall MoveFileExW(const wchar_t *from, const wchar_t *to, unsigned long how);
__declspec(dllimport) int __stdcall ReadFile(void *file, void *to, unsigned long n, unsigned long *got,
                                             struct _OVERLAPPED *place);
__declspec(dllimport) unsigned long __stdcall GetLastError(void);
enum { BMVPI_SYS_WIDE = 4096 };

/* The name for Windows; 0: it is not UTF-8, or too long, and errno says so. */
static int bmvpi_sys_wide(wchar_t to[BMVPI_SYS_WIDE], const char *path)
{
    const unsigned utf8 = 65001, refuse_others = 8;
    if (MultiByteToWideChar(utf8, refuse_others, path, -1, to, BMVPI_SYS_WIDE) > 0) return 1;
    errno = strlen(path) < BMVPI_SYS_WIDE ? EILSEQ : ENAMETOOLONG;
    return 0;
}
static int bmvpi_sys_open(const char *path, int how)
{
    wchar_t wide[BMVPI_SYS_WIDE];
    const int flags = _O_BINARY | _O_NOINHERIT | (how == BMVPI_SYS_NEW ? _O_WRONLY | _O_CREAT | _O_EXCL : _O_RDONLY);
    return bmvpi_sys_wide(wide, path) ? _wopen(wide, flags, _S_IREAD | _S_IWRITE) : -1;
}
static int64_t bmvpi_sys_size(int fd)
{
    struct _stati64 s;
    return _fstati64(fd, &s) == 0 && (s.st_mode & _S_IFMT) == _S_IFREG ? (int64_t)s.st_size : -1;
}
static int64_t bmvpi_sys_read(int fd, void *to, int64_t n, int64_t at)
{
    struct { size_t internal[2]; uint32_t low, high; void *event; } place; /* OVERLAPPED: of this call alone */
    unsigned long got = 0, most = (unsigned long)(n < (1 << 30) ? n : 1 << 30);
    memset(&place, 0, sizeof place);
    place.low = (uint32_t)((uint64_t)at & 0xffffffffu);
    place.high = (uint32_t)((uint64_t)at >> 32);
    if (ReadFile((void *)_get_osfhandle(fd), to, most, &got, (struct _OVERLAPPED *)(void *)&place))
        return (int64_t)got;
    if (GetLastError() == 38) return 0; /* the end of the file */
    errno = EIO;
    return -1;
}
static int64_t bmvpi_sys_write(int fd, const void *from, int64_t n, int64_t at)
{
    if (_lseeki64(fd, at, SEEK_SET) < 0) return -1;
    return _write(fd, from, (unsigned)(n < (1 << 30) ? n : 1 << 30));
}
static int bmvpi_sys_sync(int fd) { return _commit(fd); }
static int bmvpi_sys_close(int fd) { return _close(fd); }
static int bmvpi_sys_remove(const char *path)
{
    wchar_t wide[BMVPI_SYS_WIDE];
    return bmvpi_sys_wide(wide, path) ? _wunlink(wide) : -1;
}
static int bmvpi_sys_rename(const char *from, const char *to)
{
    wchar_t wide[2][BMVPI_SYS_WIDE];
    const unsigned long replace = 1, to_disk = 8;
    unsigned long why;
    if (!bmvpi_sys_wide(wide[0], from) || !bmvpi_sys_wide(wide[1], to)) return -1;
    if (MoveFileExW(wide[0], wide[1], replace | to_disk)) return 0;
    why = GetLastError();
    errno = why == 2 || why == 3 ? ENOENT : why == 112 ? ENOSPC : EACCES;
    return -1;
}
static long bmvpi_sys_process(void) { return (long)_getpid(); }
#else
#if defined(__GLIBC__) && !defined(__USE_MISC) && !defined(__cplusplus) && \
    (!defined(__USE_FILE_OFFSET64) || defined(__LP64__))
/* Strict C99, and another header was included before these: the C library hid what it has. */
extern ssize_t pread(int fd, void *buffer, size_t n, off_t offset);
extern ssize_t pwrite(int fd, const void *buffer, size_t n, off_t offset);
extern int fsync(int fd);
#endif
#ifndef O_CLOEXEC
#define O_CLOEXEC 0
#endif
static int bmvpi_sys_open(const char *path, int how) /* a FIFO must not block the open */
{
    const int flags = how == BMVPI_SYS_NEW ? O_WRONLY | O_CREAT | O_EXCL : O_RDONLY | O_NONBLOCK;
    return open(path, flags | O_CLOEXEC, 0666);
}
static int64_t bmvpi_sys_size(int fd) /* -1: not of a regular file */
{
    struct stat s;
    return fstat(fd, &s) == 0 && S_ISREG(s.st_mode) ? (int64_t)s.st_size : -1;
}
static int64_t bmvpi_sys_read(int fd, void *to, int64_t n, int64_t at)
{
    return (int64_t)pread(fd, to, n < (1 << 30) ? (size_t)n : (size_t)1 << 30, (off_t)at);
}
static int64_t bmvpi_sys_write(int fd, const void *from, int64_t n, int64_t at)
{
    return (int64_t)pwrite(fd, from, n < (1 << 30) ? (size_t)n : (size_t)1 << 30, (off_t)at);
}
static int bmvpi_sys_sync(int fd)
{
#ifdef F_FULLFSYNC
    if (fcntl(fd, F_FULLFSYNC) == 0) return 0; /* macOS: fsync leaves the bytes in the disk's cache */
#endif
    return fsync(fd);
}
static int bmvpi_sys_close(int fd) { return close(fd); }
static int bmvpi_sys_remove(const char *path) { return unlink(path); }
static int bmvpi_sys_rename(const char *from, const char *to) { return rename(from, to); }
static long bmvpi_sys_process(void) { return (long)getpid(); }
#endif

#ifdef __cplusplus
}
#endif
#endif
/* ---- end of the system part ------------------------------------------------------------------------------------ */

#if defined(BMVP_NIFTI_NO_GZIP)
#elif defined(BMVP_NIFTI_ZLIB)
#include <zlib.h>
#else
#include <libdeflate.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GLIBC__) && !defined(__USE_MISC) && !defined(__cplusplus)
extern int posix_memalign(void **block, size_t alignment, size_t n); /* hidden as those above */
#endif

/* >>base ------------------------------------------------------------------------------------------------------- */

/* What every IO function needs: hooks, limit, the name for messages, where the message goes. */
typedef struct bmvpi_nii_io {
    bmvp_allocator allocator;
    int64_t max_bytes;
    const char *name;
    bmvp_error *err;
} bmvpi_nii_io;

enum { BMVPI_NII_PATH = 4096, BMVPI_NII_HUGE = 1 << 20, BMVPI_NII_HUGE_PAGE = 2 << 20 };

static bmvp_status bmvpi_nii_fail(bmvp_error *err, bmvp_status status, const char *name, const char *format, ...)
    BMVP_PRINTF(4, 5);
static bmvp_status bmvpi_nii_fail(bmvp_error *err, bmvp_status status, const char *name, const char *format, ...)
{
    if (err) {
        size_t used = 0;
        va_list args;
        err->status = status;
        if (name) {
            size_t n = strlen(name);
            const char *cut = n > 200 ? "..." : "";         /* the end of a long path says more than its beginning */
            int w = snprintf(err->message, sizeof err->message, "%s%s: ", cut, n > 200 ? name + n - 200 : name);
            used = w > 0 ? (size_t)w : 0;
        }
        va_start(args, format);
        vsnprintf(err->message + used, sizeof err->message - used, format, args);
        va_end(args);
        for (used = 0; err->message[used]; ++used) /* names come from files: nothing that a terminal carries out */
            if ((err->message[used] > 0 && err->message[used] < ' ') || err->message[used] == 127)
                err->message[used] = '?';
    }
    return status;
}

static bmvpi_nii_io bmvpi_nii_io_make(const char *name, const bmvp_nii_options *options, bmvp_error *err)
{
    bmvpi_nii_io io;
    memset(&io, 0, sizeof io);
    if (options) {
        io.allocator = options->allocator;
        io.max_bytes = options->max_bytes;
    }
    if (io.max_bytes <= 0) io.max_bytes = (int64_t)64 << 30;
    io.name = name;
    io.err = err;
    return io;
}

/* What a block of n bytes holds: large ones are whole huge pages where the system has those. */
static size_t bmvpi_nii_rounded(size_t n)
{
#ifdef MADV_HUGEPAGE
    const size_t huge = (size_t)BMVPI_NII_HUGE_PAGE;
    if (n >= (size_t)BMVPI_NII_HUGE) return (n + huge - 1) / huge * huge;
#endif
    return n;
}

static void *bmvpi_nii_alloc(const bmvp_allocator *memory, int64_t bytes)
{
    size_t n = bytes > 0 ? (size_t)bytes : 1;
    if (bytes < 0 || (uint64_t)bytes > (uint64_t)(SIZE_MAX / 2)) return NULL;
    if (memory->alloc) return memory->alloc(n, memory->user);
#ifdef MADV_HUGEPAGE
    if (n >= (size_t)BMVPI_NII_HUGE) {
        void *block = NULL;
        n = bmvpi_nii_rounded(n);                           /* aligned: malloc's header, written before the advice, */
        if (posix_memalign(&block, (size_t)BMVPI_NII_HUGE_PAGE, n) != 0) return NULL;   /* would spoil the first page */
        (void)madvise(block, n, MADV_HUGEPAGE);             /* only advice: a system without huge pages says no */
        return block;
    }
#endif
    return malloc(n);
}

static void bmvpi_nii_free(const bmvp_allocator *memory, void *block)
{
    if (!block) return;
    if (!memory->alloc) free(block);
    else if (memory->free) memory->free(block, memory->user);
}

/* A kept block of at least n bytes and at most twice that, else a new one. */
static void *bmvpi_nii_pool_alloc(size_t n, void *user)
{
    bmvp_nii_pool *pool = (bmvp_nii_pool *)user;
    bmvp_allocator libc;
    int i, best = -1, empty = -1, spare = -1;
    memset(&libc, 0, sizeof libc);
    if (n < 65536) return malloc(n);
    for (i = 0; i < BMVP_NII_POOL_BLOCKS; ++i) {
        const int64_t bytes = pool->entry[i].bytes;
        if (!pool->entry[i].block) empty = i;
        else if (pool->entry[i].used) continue;
        else if ((uint64_t)bytes < n || (uint64_t)bytes / 2 > n) spare = i;
        else if (best < 0 || bytes < pool->entry[best].bytes) best = i;
    }
    if (best < 0) {
        void *block;
        if (empty < 0 && spare >= 0) {                      /* the table is full: one that does not fit makes room */
            bmvpi_nii_free(&libc, pool->entry[spare].block);
            empty = spare;
            pool->entry[empty].block = NULL;
        }
        block = bmvpi_nii_alloc(&libc, (int64_t)n);
        if (!block || empty < 0) return block;
        best = empty;
        pool->entry[best].block = block;
        pool->entry[best].bytes = (int64_t)bmvpi_nii_rounded(n);
    }
    pool->entry[best].used = 1;
    return pool->entry[best].block;
}

static void bmvpi_nii_pool_release(void *block, void *user)
{
    bmvp_nii_pool *pool = (bmvp_nii_pool *)user;
    int i;
    for (i = 0; i < BMVP_NII_POOL_BLOCKS; ++i)
        if (pool->entry[i].block == block) {
            pool->entry[i].used = 0;
            return;
        }
    free(block);
}

BMVP_API bmvp_allocator bmvp_nii_pool_allocator(bmvp_nii_pool *pool)
{
    bmvp_allocator allocator;
    allocator.alloc = bmvpi_nii_pool_alloc;
    allocator.free = bmvpi_nii_pool_release;
    allocator.user = pool;
    return allocator;
}

BMVP_API void bmvp_nii_pool_free(bmvp_nii_pool *pool)
{
    int i;
    for (i = 0; i < BMVP_NII_POOL_BLOCKS; ++i) free(pool->entry[i].block);
    memset(pool, 0, sizeof *pool);
}

static bmvp_status bmvpi_nii_out_of_memory(bmvp_error *err, const char *name, int64_t bytes)
{
    return bmvpi_nii_fail(err, BMVP_E_OOM, name, "out of memory (%lld bytes asked for)", (long long)bytes);
}

/* A block within the limit of the call. */
static bmvp_status bmvpi_nii_take(void **block, const bmvpi_nii_io *io, int64_t bytes)
{
    *block = NULL;
    if (bytes > io->max_bytes)
        return bmvpi_nii_fail(io->err, BMVP_E_OOM, io->name, "needs %lld bytes, the limit is %lld",
                              (long long)bytes, (long long)io->max_bytes);
    *block = bmvpi_nii_alloc(&io->allocator, bytes);
    return *block ? BMVP_OK : bmvpi_nii_out_of_memory(io->err, io->name, bytes);
}

/* product = a * b of numbers >= 0; 0 when it does not fit. */
static int bmvpi_nii_mul(int64_t *product, int64_t a, int64_t b)
{
    if (a != 0 && b > INT64_MAX / a) return 0;
    *product = a * b;
    return 1;
}

/* Voxels of a 3-D grid, each dim 0 .. 2^31 - 1; 0 when the float32 volume could not be addressed. */
static int bmvpi_nii_count(int64_t *n, const int64_t dim[3])
{
    int a;
    int64_t total = 1;
    for (a = 0; a < 3; ++a)
        if (dim[a] < 0 || dim[a] > INT32_MAX || !bmvpi_nii_mul(&total, total, dim[a])) return 0;
    if (total > INT64_MAX / 64) return 0;
    *n = total;
    return 1;
}

static int64_t bmvpi_nii_min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t bmvpi_nii_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* NaN and infinities have all exponent bits set; this test survives -ffast-math. */
static int bmvpi_nii_finite(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return (bits & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

static int bmvpi_nii_finite16(const double m[16])
{
    int i;
    for (i = 0; i < 16; ++i)
        if (!bmvpi_nii_finite(m[i])) return 0;
    return 1;
}

/* >>bytes ------------------------------------------------------------------------------------------------------ */

static int bmvpi_nii_type_info(int datatype, int *size, int *unit, const char **text)
{
    int s, u;
    const char *t;
    switch (datatype) {
#define BMVP_X(name, code, bytes, number, words) case code: s = bytes; u = number; t = words; break;
        BMVP_NII_DATATYPES(BMVP_X)
#undef BMVP_X
        default: s = 0; u = 1; t = "unknown"; break;
    }
    if (size) *size = s;
    if (unit) *unit = u;
    if (text) *text = t;
    return s != 0;
}

BMVP_API const char *bmvp_nii_datatype_text(int datatype)
{
    const char *text;
    bmvpi_nii_type_info(datatype, NULL, NULL, &text);
    return text;
}

BMVP_API int bmvp_nii_datatype_size(int datatype)
{
    int size;
    bmvpi_nii_type_info(datatype, &size, NULL, NULL);
    return size;
}

static void bmvpi_nii_swap_bytes(unsigned char *p, int unit)
{
    int i;
    for (i = 0; i < unit / 2; ++i) {
        unsigned char c = p[i];
        p[i] = p[unit - 1 - i];
        p[unit - 1 - i] = c;
    }
}

/* Swaps `bytes / unit` numbers in place. */
static void bmvpi_nii_swap(void *data, int64_t bytes, int unit)
{
    unsigned char *p = (unsigned char *)data;
    int64_t i;
    if (unit == 2) {
        for (i = 0; i + 2 <= bytes; i += 2) {
            uint16_t v;
            memcpy(&v, p + i, 2);
            v = (uint16_t)((v >> 8) | (v << 8));
            memcpy(p + i, &v, 2);
        }
    } else if (unit == 4) {
        for (i = 0; i + 4 <= bytes; i += 4) {
            uint32_t v;
            memcpy(&v, p + i, 4);
            v = (v >> 24) | ((v >> 8) & 0xff00u) | ((v << 8) & 0xff0000u) | (v << 24);
            memcpy(p + i, &v, 4);
        }
    } else if (unit > 1) {
        for (i = 0; i + unit <= bytes; i += unit) bmvpi_nii_swap_bytes(p + i, unit);
    }
}

/* A number of a header. Types: b uint8, h int16, i int32, q int64, f float, d double. */
static int bmvpi_nii_number_size(char type)
{
    switch (type) {
        case 'b': return 1;
        case 'h': return 2;
        case 'i': case 'f': return 4;
        default: return 8;
    }
}

static void bmvpi_nii_get(const unsigned char *p, char type, int swap, int64_t *whole, double *real)
{
    unsigned char b[8] = {0};
    int n = bmvpi_nii_number_size(type);
    int16_t h; int32_t i; int64_t q; float f; double d;
    memcpy(b, p, (size_t)n);
    if (swap) bmvpi_nii_swap_bytes(b, n);
    *whole = 0;
    *real = 0;
    switch (type) {
        case 'b': *whole = b[0]; break;
        case 'h': memcpy(&h, b, 2); *whole = h; break;
        case 'i': memcpy(&i, b, 4); *whole = i; break;
        case 'q': memcpy(&q, b, 8); *whole = q; break;
        case 'f': memcpy(&f, b, 4); *real = (double)f; break;
        default:  memcpy(&d, b, 8); *real = d; break;
    }
}

/* 0 when the number does not fit into its field. */
static int bmvpi_nii_put(unsigned char *p, char type, int64_t whole, double real)
{
    float f = (float)real;
    int16_t h = (int16_t)whole;
    int32_t i = (int32_t)whole;
    switch (type) {
        case 'b': p[0] = (unsigned char)whole; return whole >= 0 && whole <= 255;
        case 'h': memcpy(p, &h, 2); return (int64_t)h == whole;
        case 'i': memcpy(p, &i, 4); return (int64_t)i == whole;
        case 'q': memcpy(p, &whole, 8); return 1;
        case 'f': memcpy(p, &f, 4); return bmvpi_nii_finite((double)f) || !bmvpi_nii_finite(real);
        default:  memcpy(p, &real, 8); return 1;
    }
}

/* >>matrix ----------------------------------------------------------------------------------------------------- */

static void bmvpi_nii_identity(double m[16])
{
    int i;
    for (i = 0; i < 16; ++i) m[i] = i % 5 == 0 ? 1.0 : 0.0;
}

/* out = a b; out may be a or b. */
static void bmvpi_nii_matmul(double out[16], const double a[16], const double b[16])
{
    double c[16];
    int i, j, k;
    for (i = 0; i < 4; ++i)
        for (j = 0; j < 4; ++j) {
            double s = 0;
            for (k = 0; k < 4; ++k) s += a[4 * i + k] * b[4 * k + j];
            c[4 * i + j] = s;
        }
    memcpy(out, c, sizeof c);
}

/* x = a^-1 b by elimination with row pivots; 0 when a is singular. */
static int bmvpi_nii_solve(double x[16], const double a[16], const double b[16])
{
    double m[4][8];
    int i, j, k;
    for (i = 0; i < 4; ++i)
        for (j = 0; j < 4; ++j) {
            m[i][j] = a[4 * i + j];
            m[i][4 + j] = b[4 * i + j];
        }
    for (k = 0; k < 4; ++k) {
        int pivot = k;
        for (i = k + 1; i < 4; ++i)
            if (fabs(m[i][k]) > fabs(m[pivot][k])) pivot = i;
        if (!(fabs(m[pivot][k]) > 0) || !bmvpi_nii_finite(m[pivot][k])) return 0;
        for (j = 0; j < 8; ++j) {
            double t = m[k][j];
            m[k][j] = m[pivot][j];
            m[pivot][j] = t;
        }
        for (i = k + 1; i < 4; ++i) {
            double f = m[i][k] / m[k][k];
            for (j = k; j < 8; ++j) m[i][j] -= f * m[k][j];
        }
    }
    for (j = 0; j < 4; ++j)
        for (i = 3; i >= 0; --i) {
            double s = m[i][4 + j];
            for (k = i + 1; k < 4; ++k) s -= m[i][k] * x[4 * k + j];
            x[4 * i + j] = s / m[i][i];
        }
    return bmvpi_nii_finite16(x);
}

/* One turn of columns p and q of w (and the same turn of v) that makes them orthogonal in w. 0: they were. */
static int bmvpi_nii_turn(double w[9], double v[9], int p, int q)
{
    double a = 0, b = 0, g = 0, z, t, c, s;
    int i;
    for (i = 0; i < 9; i += 3) {
        a += w[i + p] * w[i + p];
        b += w[i + q] * w[i + q];
        g += w[i + p] * w[i + q];
    }
    if (!(fabs(g) > 1e-17 * sqrt(a * b))) return 0;
    z = (b - a) / (2 * g);
    t = (z >= 0 ? 1.0 : -1.0) / (fabs(z) + sqrt(1 + z * z));
    c = 1 / sqrt(1 + t * t);
    s = c * t;
    for (i = 0; i < 9; i += 3) {
        double x = w[i + p], y = w[i + q];
        w[i + p] = c * x - s * y;
        w[i + q] = s * x + c * y;
        x = v[i + p];
        y = v[i + q];
        v[i + p] = c * x - s * y;
        v[i + q] = s * x + c * y;
    }
    return 1;
}

/* Rotation factor U V' of the polar decomposition of m, without the directions whose singular value is 0 to rounding.
   Singular values by one-sided Jacobi turns: w = m V ends with orthogonal columns. */
static void bmvpi_nii_polar(double r[9], const double m[9])
{
    double w[9], v[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, s[3], largest = 0;
    int sweep, i, j, k;
    memcpy(w, m, sizeof w);
    for (sweep = 0; sweep < 40; ++sweep) {
        int turned = bmvpi_nii_turn(w, v, 0, 1);
        turned += bmvpi_nii_turn(w, v, 0, 2);
        turned += bmvpi_nii_turn(w, v, 1, 2);
        if (!turned) break;
    }
    for (j = 0; j < 3; ++j) {
        s[j] = sqrt(w[j] * w[j] + w[3 + j] * w[3 + j] + w[6 + j] * w[6 + j]);
        if (s[j] > largest) largest = s[j];
    }
    memset(r, 0, 9 * sizeof r[0]);
    for (j = 0; j < 3; ++j)
        if (s[j] > largest * 3 * DBL_EPSILON)
            for (i = 0; i < 3; ++i)
                for (k = 0; k < 3; ++k) r[3 * i + k] += w[3 * i + j] / s[j] * v[3 * k + j];
}

BMVP_API void bmvp_nii_voxel_size(double mm[3], const double affine[16])
{
    int j;
    for (j = 0; j < 3; ++j) {
        double x = affine[j], y = affine[4 + j], z = affine[8 + j], s = sqrt(x * x + y * y + z * z);
        mm[j] = s > 0 || !bmvpi_nii_finite(s) ? s : 1;
    }
}

/* Columns of the 3x3 part divided by their lengths (0 counts as 1). */
static void bmvpi_nii_directions(double m[9], double length[3], const double affine[16])
{
    int i, j;
    bmvp_nii_voxel_size(length, affine);
    for (i = 0; i < 3; ++i)
        for (j = 0; j < 3; ++j) m[3 * i + j] = affine[4 * i + j] / length[j];
}

/* Rotation matrix of a quaternion of any length; identity for length 0. */
static void bmvpi_nii_rotation(double r[9], double a, double b, double c, double d)
{
    double n = a * a + b * b + c * c + d * d, s = n > DBL_EPSILON ? 2 / n : 0;
    r[0] = 1 - s * (c * c + d * d); r[1] = s * (b * c - a * d);     r[2] = s * (b * d + a * c);
    r[3] = s * (b * c + a * d);     r[4] = 1 - s * (b * b + d * d); r[5] = s * (c * d - a * b);
    r[6] = s * (b * d - a * c);     r[7] = s * (c * d + a * b);     r[8] = 1 - s * (b * b + c * c);
}

/* b, c, d of the unit quaternion with a >= 0 of a rotation matrix. */
static void bmvpi_nii_quaternion(double bcd[3], const double r[9])
{
    double trace = r[0] + r[4] + r[8], a;
    if (trace > 0) {
        a = 0.5 * sqrt(1 + trace);
        bcd[0] = (r[7] - r[5]) / (4 * a);
        bcd[1] = (r[2] - r[6]) / (4 * a);
        bcd[2] = (r[3] - r[1]) / (4 * a);
    } else {                                                /* start from the largest of b, c, d: no cancellation */
        int i = r[0] >= r[4] && r[0] >= r[8] ? 0 : r[4] >= r[8] ? 1 : 2, j = (i + 1) % 3, k = (i + 2) % 3;
        double x = 0.5 * sqrt(fabs(1 + r[4 * i] - r[4 * j] - r[4 * k]));
        bcd[i] = x;
        bcd[j] = (r[3 * i + j] + r[3 * j + i]) / (4 * x);
        bcd[k] = (r[3 * i + k] + r[3 * k + i]) / (4 * x);
        a = (r[3 * k + j] - r[3 * j + k]) / (4 * x);
        for (i = 0; a < 0 && i < 3; ++i) bcd[i] = -bcd[i];
    }
}

BMVP_API bmvp_status bmvp_nii_affine_inverse(double inverse[16], const double affine[16], bmvp_error *err)
{
    double one[16], x[16];
    bmvpi_nii_identity(one);
    if (!bmvpi_nii_finite16(affine) || !bmvpi_nii_solve(x, affine, one))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "affine is singular or not finite");
    memcpy(inverse, x, sizeof x);
    return BMVP_OK;
}

BMVP_API void bmvp_nii_sform(double affine[16], const bmvp_nii_image *image)
{
    bmvpi_nii_identity(affine);
    memcpy(affine, image->srow, sizeof image->srow);
}

BMVP_API void bmvp_nii_qform(double affine[16], const bmvp_nii_image *image)
{
    const double *q = image->quatern;
    const double tiny = image->version == 2 ? 3 * DBL_EPSILON : 3 * (double)FLT_EPSILON;   /* nibabel's thresholds */
    double w = 1 - (q[0] * q[0] + q[1] * q[1] + q[2] * q[2]), r[9];
    int i;
    bmvpi_nii_rotation(r, w < tiny ? 0 : sqrt(w), q[0], q[1], q[2]);
    bmvpi_nii_identity(affine);
    for (i = 0; i < 3; ++i) {
        affine[4 * i] = r[3 * i] * image->pixdim[1];
        affine[4 * i + 1] = r[3 * i + 1] * image->pixdim[2];
        affine[4 * i + 2] = r[3 * i + 2] * image->pixdim[3] * image->pixdim[0];
        affine[4 * i + 3] = image->qoffset[i];
    }
}

/* nibabel's answer for files with no usable form: x runs to the left, the volume's centre is at 0. */
static void bmvpi_nii_fallback_affine(double affine[16], const bmvp_nii_image *image)
{
    int i;
    bmvpi_nii_identity(affine);
    for (i = 0; i < 3; ++i) {
        double step = i == 0 ? -image->pixdim[1] : image->pixdim[i + 1];
        affine[5 * i] = step;
        affine[4 * i + 3] = -step * (double)(image->dim[i] - 1) / 2;
    }
}

BMVP_API double bmvp_nii_unit_mm(const bmvp_nii_image *image)
{
    const int unit = image->version == 0 ? 0 : image->xyzt_units & 7;
    return unit == 1 ? 1000 : unit == 3 ? 0.001 : 1;
}

static void bmvpi_nii_to_mm(double affine[16], const bmvp_nii_image *image)
{
    const double unit = bmvp_nii_unit_mm(image);
    int i;
    for (i = 0; i < 12; ++i) affine[i] *= unit;
}

static void bmvpi_nii_choose_affine(bmvp_nii_image *image)
{
    if (image->sform_code > 0) {
        image->affine_source = BMVP_NII_AFFINE_SFORM;
        bmvp_nii_sform(image->affine, image);
    } else if (image->qform_code > 0) {
        image->affine_source = BMVP_NII_AFFINE_QFORM;
        bmvp_nii_qform(image->affine, image);
    } else {
        image->affine_source = BMVP_NII_AFFINE_FALLBACK;
        bmvpi_nii_fallback_affine(image->affine, image);
    }
    bmvpi_nii_to_mm(image->affine, image);
}

/* MONAI compares the lengths of the first ndim columns of the matrix cut to ndim x ndim, whatever ndim is. */
static int bmvpi_nii_fits_pixdim(const double affine[16], const bmvp_nii_image *image)
{
    int i, j, d = image->ndim;
    for (j = 0; j < d; ++j) {
        double s = 0;
        for (i = 0; i < d; ++i) s += affine[4 * i + j] * affine[4 * i + j];
        s = s > 0 ? sqrt(s) : 1;
        if (!(fabs(s - image->pixdim[j + 1]) <= 1e-8 + 1e-5 * fabs(image->pixdim[j + 1]))) return 0;
    }
    return 1;
}

/* 1: the columns lie in a plane, as far as single precision can tell. */
static int bmvpi_nii_singular(const double m[16])
{
    const double det = m[0] * (m[5] * m[10] - m[6] * m[9]) - m[1] * (m[4] * m[10] - m[6] * m[8]) +
                       m[2] * (m[4] * m[9] - m[5] * m[8]);
    double mm[3];
    bmvp_nii_voxel_size(mm, m);
    return fabs(det) <= 1e-6 * mm[0] * mm[1] * mm[2];
}

BMVP_API bmvp_nii_affine_source bmvp_nii_rectify_affine(double affine[16], const bmvp_nii_image *image)
{
    double q[16], sform[16];
    int i, singular;
    memcpy(affine, image->affine, sizeof image->affine);
    if (image->version == 0 || image->sform_code <= 0 || image->qform_code <= 0)
        return (bmvp_nii_affine_source)image->affine_source;
    bmvp_nii_sform(sform, image);
    bmvp_nii_qform(q, image);
    singular = bmvpi_nii_singular(sform);
    if (!singular && (image->ndim > 4 || bmvpi_nii_fits_pixdim(sform, image) || !bmvpi_nii_fits_pixdim(q, image)))
        return (bmvp_nii_affine_source)image->affine_source;
    for (i = 0; i < 12; ++i) affine[i] = image->version == 2 ? q[i] : (double)(float)q[i];
    bmvpi_nii_to_mm(affine, image);
    return BMVP_NII_AFFINE_RECTIFIED;
}

BMVP_API const char *bmvp_nii_affine_reason(int affine_source)
{
    switch (affine_source) {
        case BMVP_NII_AFFINE_SFORM: return "sform, because sform_code > 0";
        case BMVP_NII_AFFINE_QFORM: return "qform, because sform_code is 0 and qform_code > 0";
        case BMVP_NII_AFFINE_FALLBACK: return "voxel size, x to the left, centred, because both form codes are 0";
        case BMVP_NII_AFFINE_RECTIFIED:
            return "qform, because the sform is singular or does not fit the voxel size, and the qform does";
        default: return "none";
    }
}

/* >>gzip -------------------------------------------------------------------------------------------------------
   A gzip file is a row of members: header, deflate stream, CRC-32, length. Whole streams go through libdeflate or
   zlib. Two things they do not do are done by the small decoder below: inflating only a beginning (headers of large
   files, and streams that are longer than the header declares), and saying what is wrong with a damaged one. */

#ifndef BMVP_NIFTI_NO_GZIP

typedef enum bmvpi_nii_z {
    BMVPI_NII_Z_RUN, BMVPI_NII_Z_DONE, BMVPI_NII_Z_FULL, BMVPI_NII_Z_SHORT, BMVPI_NII_Z_BAD, BMVPI_NII_Z_MEMORY
} bmvpi_nii_z;

#ifdef BMVP_NIFTI_ZLIB

static uint32_t bmvpi_nii_codec_crc(const unsigned char *p, size_t n)
{
    uLong crc = crc32(0, NULL, 0);
    while (n > 0) {
        uInt part = n > (1u << 30) ? 1u << 30 : (uInt)n;
        crc = crc32(crc, p, part);
        p += part;
        n -= part;
    }
    return (uint32_t)crc;
}

/* zlib counts in unsigned int: hands it the next part of input and of room when it has used up the last. */
static void bmvpi_nii_codec_feed(z_stream *z, size_t *in_left, size_t *out_left)
{
    if (z->avail_in == 0) {
        z->avail_in = *in_left > (1u << 30) ? 1u << 30 : (uInt)*in_left;
        *in_left -= z->avail_in;
    }
    if (z->avail_out == 0) {
        z->avail_out = *out_left > (1u << 30) ? 1u << 30 : (uInt)*out_left;
        *out_left -= z->avail_out;
    }
}

static void bmvpi_nii_codec_start(z_stream *z, void *out, const unsigned char *in)
{
    memset(z, 0, sizeof *z);
    z->next_in = (Bytef *)(uintptr_t)in;                    /* zlib's field is not const unless ZLIB_CONST is set */
    z->next_out = (Bytef *)out;
}

/* One deflate stream: DONE, FULL (longer than the room), BAD (damaged or cut) or MEMORY. */
static bmvpi_nii_z bmvpi_nii_codec_inflate(void *out, size_t cap, const unsigned char *in, size_t n, size_t *used,
                                           size_t *made)
{
    z_stream z;
    size_t in_left = n, out_left = cap;
    int r = Z_OK;
    bmvpi_nii_codec_start(&z, out, in);
    if (inflateInit2(&z, -15) != Z_OK) return BMVPI_NII_Z_MEMORY;
    while (r == Z_OK) {
        bmvpi_nii_codec_feed(&z, &in_left, &out_left);
        r = inflate(&z, Z_NO_FLUSH);
    }
    *used = n - in_left - z.avail_in;
    *made = cap - out_left - z.avail_out;
    inflateEnd(&z);
    if (r == Z_STREAM_END) return BMVPI_NII_Z_DONE;
    if (r == Z_MEM_ERROR) return BMVPI_NII_Z_MEMORY;
    return r == Z_BUF_ERROR && *made == cap && *used < n ? BMVPI_NII_Z_FULL : BMVPI_NII_Z_BAD;
}

static size_t bmvpi_nii_codec_bound(size_t n) { return n + n / 500 + 4096; }

/* One gzip member; bytes written, 0 without memory. */
static size_t bmvpi_nii_codec_gzip(void *out, size_t cap, const unsigned char *in, size_t n, int level)
{
    z_stream z;
    size_t in_left = n, out_left = cap;
    int r = Z_OK;
    bmvpi_nii_codec_start(&z, out, in);
    if (deflateInit2(&z, level, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) return 0;
    while (r == Z_OK) {
        bmvpi_nii_codec_feed(&z, &in_left, &out_left);
        r = deflate(&z, in_left == 0 ? Z_FINISH : Z_NO_FLUSH);
    }
    deflateEnd(&z);
    return r == Z_STREAM_END ? cap - out_left - z.avail_out : 0;
}

#else

static uint32_t bmvpi_nii_codec_crc(const unsigned char *p, size_t n) { return libdeflate_crc32(0, p, n); }

/* One deflate stream: DONE, FULL (longer than the room), BAD (damaged or cut) or MEMORY. */
static bmvpi_nii_z bmvpi_nii_codec_inflate(void *out, size_t cap, const unsigned char *in, size_t n, size_t *used,
                                           size_t *made)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    enum libdeflate_result r;
    if (!d) return BMVPI_NII_Z_MEMORY;
    r = libdeflate_deflate_decompress_ex(d, in, n, out, cap, used, made);
    libdeflate_free_decompressor(d);
    if (r == LIBDEFLATE_SUCCESS) return BMVPI_NII_Z_DONE;
    return r == LIBDEFLATE_INSUFFICIENT_SPACE ? BMVPI_NII_Z_FULL : BMVPI_NII_Z_BAD;
}

static size_t bmvpi_nii_codec_bound(size_t n) { return libdeflate_gzip_compress_bound(NULL, n); }

/* One gzip member; bytes written, 0 without memory. */
static size_t bmvpi_nii_codec_gzip(void *out, size_t cap, const unsigned char *in, size_t n, int level)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(level);
    size_t made;
    if (!c) return 0;
    made = libdeflate_gzip_compress(c, in, n, out, cap);
    libdeflate_free_compressor(c);
    return made;
}

#endif

static uint32_t bmvpi_nii_le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

typedef struct bmvpi_nii_inflate {
    const unsigned char *in;
    size_t n, pos;                                          /* bytes of input, next one */
    uint32_t bits;                                          /* read but not used, lowest first */
    int n_bits;
    unsigned char *out;
    size_t cap, len, base;                                  /* room, made, start of the member (no match before) */
    unsigned char *ring;                                    /* not NULL: goes on beyond the room for the CRC's sake, */
    size_t limit;                                           /* up to limit bytes; the last ones are kept here */
    uint32_t crc;
    bmvpi_nii_z state;
} bmvpi_nii_inflate;

enum { BMVPI_NII_RING = 32768, BMVPI_NII_EXCESS = 16 << 20 };

typedef struct bmvpi_nii_huffman {
    int limit[16];                                          /* first code of a length that is too large for it */
    int offset[16];                                         /* code + offset = place in symbol */
    uint16_t symbol[288];
} bmvpi_nii_huffman;

static unsigned bmvpi_nii_z_bits(bmvpi_nii_inflate *z, int n)
{
    unsigned v;
    while (z->n_bits < n) {
        if (z->pos >= z->n) {
            z->state = BMVPI_NII_Z_SHORT;
            return 0;
        }
        z->bits |= (uint32_t)z->in[z->pos++] << z->n_bits;
        z->n_bits += 8;
    }
    v = z->bits & ((1u << n) - 1);
    z->bits >>= n;
    z->n_bits -= n;
    return v;
}

/* Canonical code from code lengths; 0 when there are more codes than the lengths leave room for. */
static int bmvpi_nii_z_table(bmvpi_nii_huffman *h, const unsigned char *lengths, int n)
{
    int count[16] = {0}, next[16], len, i, code = 0, index = 0;
    for (i = 0; i < n; ++i) count[lengths[i]]++;
    for (len = 1; len < 16; ++len) {
        code <<= 1;
        h->offset[len] = index - code;
        next[len] = index;
        code += count[len];
        index += count[len];
        if (code > 1 << len) return 0;
        h->limit[len] = code;
    }
    for (i = 0; i < n; ++i)
        if (lengths[i] != 0) h->symbol[next[lengths[i]]++] = (uint16_t)i;
    return 1;
}

static int bmvpi_nii_z_symbol(bmvpi_nii_inflate *z, const bmvpi_nii_huffman *h)
{
    int code = 0, len;
    for (len = 1; len < 16 && z->state == BMVPI_NII_Z_RUN; ++len) {
        code = code << 1 | (int)bmvpi_nii_z_bits(z, 1);
        if (code < h->limit[len]) return h->symbol[code + h->offset[len]];
    }
    if (z->state == BMVPI_NII_Z_RUN) z->state = BMVPI_NII_Z_BAD;
    return 0;
}

static void bmvpi_nii_z_byte(bmvpi_nii_inflate *z, unsigned char c)
{
    int k;
    if (z->len < z->cap) {
        z->out[z->len++] = c;
        return;
    }
    if (!z->ring || z->len >= z->limit) {
        z->state = BMVPI_NII_Z_FULL;
        return;
    }
    if (z->len == z->cap) z->crc = ~bmvpi_nii_codec_crc(z->out + z->base, z->cap - z->base);
    z->crc ^= c;
    for (k = 0; k < 8; ++k) z->crc = z->crc >> 1 ^ ((z->crc & 1) ? 0xedb88320u : 0);
    z->ring[z->len++ % BMVPI_NII_RING] = c;
}

static unsigned char bmvpi_nii_z_back(const bmvpi_nii_inflate *z, size_t distance)
{
    const size_t at = z->len - distance;
    return at < z->cap ? z->out[at] : z->ring[at % BMVPI_NII_RING];
}

static void bmvpi_nii_z_stored(bmvpi_nii_inflate *z)
{
    size_t n, check;
    z->bits = 0;                                            /* the rest of a byte is skipped; never more is held */
    z->n_bits = 0;
    n = bmvpi_nii_z_bits(z, 16);
    check = bmvpi_nii_z_bits(z, 16);
    if (z->state == BMVPI_NII_Z_RUN && n != (check ^ 0xffff)) z->state = BMVPI_NII_Z_BAD;
    while (z->state == BMVPI_NII_Z_RUN && n-- > 0) {
        unsigned char c = (unsigned char)bmvpi_nii_z_bits(z, 8);
        if (z->state == BMVPI_NII_Z_RUN) bmvpi_nii_z_byte(z, c);
    }
}

static void bmvpi_nii_z_match(bmvpi_nii_inflate *z, int symbol, const bmvpi_nii_huffman *distances)
{
    int extra = symbol < 265 || symbol == 285 ? 0 : (symbol - 261) / 4;
    int length = symbol < 265 ? symbol - 254 : symbol == 285 ? 258 : 3 + ((4 + (symbol - 265) % 4) << extra);
    size_t distance;
    length += (int)bmvpi_nii_z_bits(z, extra);
    symbol = bmvpi_nii_z_symbol(z, distances);
    extra = symbol < 4 ? 0 : symbol / 2 - 1;
    if (symbol > 29) {
        z->state = BMVPI_NII_Z_BAD;
        return;
    }
    distance = symbol < 4 ? (size_t)symbol + 1 : 1 + ((size_t)(2 + symbol % 2) << extra);
    distance += bmvpi_nii_z_bits(z, extra);
    if (z->state == BMVPI_NII_Z_RUN && distance > z->len - z->base) z->state = BMVPI_NII_Z_BAD;
    while (z->state == BMVPI_NII_Z_RUN && length-- > 0) bmvpi_nii_z_byte(z, bmvpi_nii_z_back(z, distance));
}

/* Code lengths of a block with its own codes (RFC 1951, 3.2.7). */
static int bmvpi_nii_z_lengths(bmvpi_nii_inflate *z, unsigned char lengths[320], int *n_literals, int *n_distances)
{
    static const unsigned char order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    bmvpi_nii_huffman h;
    unsigned char first[19] = {0};
    int n, total, i;
    *n_literals = 257 + (int)bmvpi_nii_z_bits(z, 5);
    *n_distances = 1 + (int)bmvpi_nii_z_bits(z, 5);
    n = 4 + (int)bmvpi_nii_z_bits(z, 4);
    total = *n_literals + *n_distances;
    for (i = 0; i < n; ++i) first[order[i]] = (unsigned char)bmvpi_nii_z_bits(z, 3);
    if (*n_literals > 286 || !bmvpi_nii_z_table(&h, first, 19)) return 0;
    for (i = 0; i < total && z->state == BMVPI_NII_Z_RUN;) {
        int symbol = bmvpi_nii_z_symbol(z, &h), repeat = 1;
        unsigned char value = (unsigned char)symbol;
        if (symbol == 16) {
            if (i == 0) return 0;
            value = lengths[i - 1];
            repeat = 3 + (int)bmvpi_nii_z_bits(z, 2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + (int)bmvpi_nii_z_bits(z, 3) : 11 + (int)bmvpi_nii_z_bits(z, 7);
        }
        if (repeat > total - i) return 0;
        while (repeat-- > 0) lengths[i++] = value;
    }
    return 1;
}

static void bmvpi_nii_z_block(bmvpi_nii_inflate *z, int type)
{
    bmvpi_nii_huffman literals, distances;
    unsigned char lengths[320];
    int n_literals = 288, n_distances = 30, i;
    if (type == 1) {
        for (i = 0; i < 288; ++i) lengths[i] = (unsigned char)(i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        for (; i < 318; ++i) lengths[i] = 5;
    } else if (!bmvpi_nii_z_lengths(z, lengths, &n_literals, &n_distances)) {
        if (z->state == BMVPI_NII_Z_RUN) z->state = BMVPI_NII_Z_BAD;
    }
    if (z->state != BMVPI_NII_Z_RUN) return;
    if (!bmvpi_nii_z_table(&literals, lengths, n_literals) ||
        !bmvpi_nii_z_table(&distances, lengths + n_literals, n_distances)) {
        z->state = BMVPI_NII_Z_BAD;
        return;
    }
    for (;;) {
        int symbol = bmvpi_nii_z_symbol(z, &literals);
        if (z->state != BMVPI_NII_Z_RUN || symbol == 256) return;
        if (symbol < 256) bmvpi_nii_z_byte(z, (unsigned char)symbol);
        else if (symbol < 286) bmvpi_nii_z_match(z, symbol, &distances);
        else z->state = BMVPI_NII_Z_BAD;
    }
}

/* Bytes of a gzip member's header at in; 0 when there is none, -1 when it is cut short. */
static int64_t bmvpi_nii_z_member(const unsigned char *in, size_t n)
{
    size_t pos = 10;
    int flag;
    if (n < 2) return n == 1 && in[0] != 0x1f ? 0 : -1;
    if (in[0] != 0x1f || in[1] != 0x8b) return 0;
    if (n < 10) return -1;
    if (in[2] != 8 || (in[3] & 0xe0) != 0) return 0;
    if (in[3] & 4) {
        if (n < 12) return -1;
        pos = 12 + (size_t)in[10] + ((size_t)in[11] << 8);
    }
    for (flag = 8; flag <= 16; flag *= 2)                   /* name, then comment: text ended by 0 */
        if (in[3] & flag) {
            while (pos < n && in[pos] != 0) ++pos;
            ++pos;
        }
    if (in[3] & 2) pos += 2;
    return pos <= n ? (int64_t)pos : -1;
}

static void bmvpi_nii_z_start(bmvpi_nii_inflate *z, unsigned char *out, size_t cap, const unsigned char *in, size_t n)
{
    memset(z, 0, sizeof *z);
    z->in = in;
    z->n = n;
    z->out = out;
    z->cap = cap;
}

/* Inflates members until the room is full (with a ring: also the rest of the member), the data end or are damaged. */
static void bmvpi_nii_z_run(bmvpi_nii_inflate *z)
{
    for (;;) {
        int last = 0;
        int64_t head = bmvpi_nii_z_member(z->in + z->pos, z->n - z->pos);
        if (head <= 0) {
            z->state = head == 0 || z->pos == z->n ? BMVPI_NII_Z_DONE : BMVPI_NII_Z_SHORT;
            return;
        }
        z->pos += (size_t)head;
        z->base = z->len;
        z->bits = 0;
        z->n_bits = 0;
        while (!last && z->state == BMVPI_NII_Z_RUN) {
            int type;
            last = (int)bmvpi_nii_z_bits(z, 1);
            type = (int)bmvpi_nii_z_bits(z, 2);
            if (z->state != BMVPI_NII_Z_RUN) break;
            if (type == 0) bmvpi_nii_z_stored(z);
            else if (type < 3) bmvpi_nii_z_block(z, type);
            else z->state = BMVPI_NII_Z_BAD;
        }
        if (z->state != BMVPI_NII_Z_RUN) return;
        if (z->n - z->pos < 8) {
            z->state = BMVPI_NII_Z_SHORT;
            return;
        }
        if (z->len > z->cap) {
            const unsigned char *tail = z->in + z->pos;
            const int same_crc = bmvpi_nii_le32(tail) == ~z->crc;
            const int same_length = bmvpi_nii_le32(tail + 4) == (uint32_t)(z->len - z->base);
            z->state = same_crc && same_length ? BMVPI_NII_Z_DONE : BMVPI_NII_Z_BAD;
            return;
        }
        z->pos += 8;
    }
}

/* The codec could not go on: the small decoder either fills the room (the stream is longer than declared; its CRC is
   still looked at, for damage can make a stream longer) or finds the place and the kind of the damage. */
static bmvp_status bmvpi_nii_gunzip_slowly(const bmvpi_nii_io *io, unsigned char *out, size_t total,
                                           const unsigned char *in, size_t n)
{
    unsigned char ring[BMVPI_NII_RING];
    bmvpi_nii_inflate z;
    bmvpi_nii_z_start(&z, out, total, in, n);
    z.ring = ring;
    z.limit = total + BMVPI_NII_EXCESS;
    bmvpi_nii_z_run(&z);
    if (z.state == BMVPI_NII_Z_DONE && z.len >= total) return BMVP_OK;
    if (z.state == BMVPI_NII_Z_FULL)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "gzip stream holds more than %d MiB beyond the %llu"
                              " bytes that the header declares", BMVPI_NII_EXCESS >> 20, (unsigned long long)total);
    if (z.state == BMVPI_NII_Z_SHORT)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name,
                              "gzip stream ends after %llu of %llu bytes: the file is cut short",
                              (unsigned long long)z.len, (unsigned long long)total);
    return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "gzip stream is damaged near byte %llu of %llu",
                          (unsigned long long)z.pos, (unsigned long long)n);
}

static bmvp_status bmvpi_nii_gunzip_check(const bmvpi_nii_io *io, const unsigned char *out, size_t made,
                                          const unsigned char *tail, size_t left, int member)
{
    uint32_t crc;
    if (left < 8)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name,
                              "gzip member %d has no CRC: the file is cut short", member);
    crc = bmvpi_nii_codec_crc(out, made);
    if (crc != bmvpi_nii_le32(tail))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "gzip CRC mismatch in member %d (stored %08x, data"
                              " give %08x): the file is damaged", member, (unsigned)bmvpi_nii_le32(tail),
                              (unsigned)crc);
    if ((uint32_t)(made & 0xffffffffu) != bmvpi_nii_le32(tail + 4))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "gzip length mismatch in member %d (stored %u, data"
                              " give %llu)", member, (unsigned)bmvpi_nii_le32(tail + 4), (unsigned long long)made);
    return BMVP_OK;
}

/* Inflates exactly the first `total` bytes of a gzip stream of n bytes. */
static bmvp_status bmvpi_nii_gunzip(const bmvpi_nii_io *io, unsigned char *out, size_t total,
                                    const unsigned char *in, size_t n)
{
    size_t pos = 0, len = 0, used = 0, made = 0;
    int member;
    for (member = 1; len < total; ++member) {
        int64_t head = bmvpi_nii_z_member(in + pos, n - pos);
        bmvpi_nii_z r;
        bmvp_status s;
        if (head <= 0)
            return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name,
                                  "gzip stream holds %llu bytes, the header declares %llu", (unsigned long long)len,
                                  (unsigned long long)total);
        pos += (size_t)head;
        r = bmvpi_nii_codec_inflate(out + len, total - len, in + pos, n - pos, &used, &made);
        if (r == BMVPI_NII_Z_MEMORY) return bmvpi_nii_out_of_memory(io->err, io->name, 65536);
        if (r != BMVPI_NII_Z_DONE) return bmvpi_nii_gunzip_slowly(io, out, total, in, n);
        pos += used;
        s = bmvpi_nii_gunzip_check(io, out + len, made, in + pos, n - pos, member);
        if (s != BMVP_OK) return s;
        pos += 8;
        len += made;
    }
    return BMVP_OK;
}

#endif /* BMVP_NIFTI_NO_GZIP */

/* >>source -----------------------------------------------------------------------------------------------------
   Where bytes come from: an open file or a buffer of the caller, plain or gzip. */

typedef struct bmvpi_nii_source {
    int fd;                                                 /* -1: a buffer */
    int is_gzip, eager;                                     /* eager: all of it will be needed */
    int64_t size;                                           /* bytes as stored */
    const unsigned char *bytes;                             /* the first `have` of them */
    int64_t have;
    void *block;                                            /* own memory behind bytes, or NULL */
} bmvpi_nii_source;

enum { BMVPI_NII_RATIO = 1040 };                            /* deflate never exceeds 1032 : 1 */

static void bmvpi_nii_source_close(const bmvpi_nii_io *io, bmvpi_nii_source *source)
{
    bmvpi_nii_free(&io->allocator, source->block);
    if (source->fd >= 0) bmvpi_sys_close(source->fd);
    source->block = NULL;
    source->fd = -1;
}

/* Reads n bytes at offset; the end of the file before that is an error. */
static bmvp_status bmvpi_nii_pread(bmvp_error *err, const char *name, int fd, void *to, int64_t n,
                                   int64_t offset)
{
    unsigned char *p = (unsigned char *)to;
    while (n > 0) {
        const int64_t got = bmvpi_sys_read(fd, p, n, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return bmvpi_nii_fail(err, BMVP_E_IO, name, "reading at byte %lld failed: %s", (long long)offset,
                                  strerror(errno));
        if (got == 0)
            return bmvpi_nii_fail(err, BMVP_E_FORMAT, name, "file ends at byte %lld, %lld more expected",
                                  (long long)offset, (long long)n);
        p += got;
        n -= got;
        offset += got;
    }
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_source_gzip(const bmvpi_nii_io *io, bmvpi_nii_source *source,
                                         const unsigned char *start)
{
    source->is_gzip = source->size >= 2 && start[0] == 0x1f && start[1] == 0x8b;
#ifdef BMVP_NIFTI_NO_GZIP
    if (source->is_gzip)
        return bmvpi_nii_fail(io->err, BMVP_E_UNSUPPORTED, io->name, "is gzip, and this program was built without"
                              " gzip (BMVP_NIFTI_NO_GZIP): decompress it first");
#else
    (void)io;
#endif
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_source_file(const bmvpi_nii_io *io, bmvpi_nii_source *source, const char *path)
{
    unsigned char start[2] = {0, 0};
    bmvp_status s = BMVP_OK;
    memset(source, 0, sizeof *source);
    source->fd = bmvpi_sys_open(path, BMVPI_SYS_READ);
    if (source->fd < 0)
        return bmvpi_nii_fail(io->err, BMVP_E_IO, path, "cannot be opened: %s", strerror(errno));
    source->size = bmvpi_sys_size(source->fd);
    if (source->size < 0) s = bmvpi_nii_fail(io->err, BMVP_E_IO, path, "is not a regular file");
    if (source->size >= 2) s = bmvpi_nii_pread(io->err, path, source->fd, start, 2, 0);
    if (s == BMVP_OK) s = bmvpi_nii_source_gzip(io, source, start);
    if (s != BMVP_OK) bmvpi_nii_source_close(io, source);
    return s;
}

static bmvp_status bmvpi_nii_source_memory(const bmvpi_nii_io *io, bmvpi_nii_source *source, const void *bytes,
                                           size_t n)
{
    memset(source, 0, sizeof *source);
    source->fd = -1;
    source->size = n > (size_t)INT64_MAX ? INT64_MAX : (int64_t)n;
    source->bytes = (const unsigned char *)bytes;
    source->have = source->size;
    return bmvpi_nii_source_gzip(io, source, source->bytes);
}

#ifndef BMVP_NIFTI_NO_GZIP

/* Makes the first `want` stored bytes available in source->bytes. */
static bmvp_status bmvpi_nii_source_need(const bmvpi_nii_io *io, bmvpi_nii_source *source, int64_t want)
{
    void *block;
    bmvp_status s;
    if (source->eager || want > source->size) want = source->size;
    if (source->have >= want) return BMVP_OK;
    s = bmvpi_nii_take(&block, io, want);
    if (s != BMVP_OK) return s;
    s = bmvpi_nii_pread(io->err, io->name, source->fd, block, want, 0);
    bmvpi_nii_free(&io->allocator, source->block);
    source->block = block;
    source->bytes = (const unsigned char *)block;
    source->have = want;
    return s;
}

static bmvp_status bmvpi_nii_peek_gzip(const bmvpi_nii_io *io, bmvpi_nii_source *source, unsigned char *out,
                                       int64_t cap, int64_t *got)
{
    int64_t want = cap + 4096;
    for (;;) {
        bmvpi_nii_inflate z;
        bmvp_status s = bmvpi_nii_source_need(io, source, want);
        if (s != BMVP_OK) return s;
        bmvpi_nii_z_start(&z, out, (size_t)cap, source->bytes, (size_t)source->have);
        bmvpi_nii_z_run(&z);
        *got = (int64_t)z.len;
        if (z.state == BMVPI_NII_Z_BAD && z.len < (size_t)cap)
            return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "gzip stream is damaged near byte %llu",
                                  (unsigned long long)z.pos);
        if (z.len == (size_t)cap || source->have == source->size) return BMVP_OK;
        want = source->have > source->size / 4 ? source->size : source->have * 4;
    }
}

#endif

/* The first cap bytes of the content (inflated), fewer when it is shorter. */
static bmvp_status bmvpi_nii_peek(const bmvpi_nii_io *io, bmvpi_nii_source *source, unsigned char *out,
                                  int64_t cap, int64_t *got)
{
    *got = 0;
#ifndef BMVP_NIFTI_NO_GZIP
    if (source->is_gzip) return bmvpi_nii_peek_gzip(io, source, out, cap, got);
#endif
    *got = bmvpi_nii_min(cap, source->size);
    if (source->fd >= 0) return bmvpi_nii_pread(io->err, io->name, source->fd, out, *got, 0);
    memcpy(out, source->bytes, (size_t)*got);
    return BMVP_OK;
}

/* n bytes at offset of the content into a new block. *data points into it, aligned to 16 bytes. */
static bmvp_status bmvpi_nii_fetch(const bmvpi_nii_io *io, bmvpi_nii_source *source, int64_t offset, int64_t n,
                                   void **block, void **data)
{
    const int64_t total = offset + n;                       /* both are checked: below 2^62 */
    bmvp_status s;
    *block = NULL;
    *data = NULL;
    if (source->is_gzip ? total / BMVPI_NII_RATIO > source->size : total > source->size)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "header declares %lld bytes of data at byte"
                              " %lld, the file has only %lld%s", (long long)n, (long long)offset,
                              (long long)source->size, source->is_gzip ? " (compressed)" : "");
#ifndef BMVP_NIFTI_NO_GZIP
    if (source->is_gzip) {
        unsigned char *p;
        s = bmvpi_nii_source_need(io, source, source->size);
        if (s != BMVP_OK || (s = bmvpi_nii_take(block, io, total)) != BMVP_OK) return s;
        p = (unsigned char *)*block;
        s = bmvpi_nii_gunzip(io, p, (size_t)total, source->bytes, (size_t)source->size);
        if (s == BMVP_OK && offset % 16 != 0) memmove(p, p + offset, (size_t)n);
        *data = offset % 16 != 0 ? p : p + offset;
    } else
#endif
    {
        if ((s = bmvpi_nii_take(block, io, n)) != BMVP_OK) return s;
        *data = *block;
        if (source->fd >= 0) s = bmvpi_nii_pread(io->err, io->name, source->fd, *block, n, offset);
        else memcpy(*block, source->bytes + offset, (size_t)n);
    }
    if (s != BMVP_OK) {
        bmvpi_nii_free(&io->allocator, *block);
        *block = NULL;
        *data = NULL;
    }
    return s;
}

/* >>header ----------------------------------------------------------------------------------------------------- */

/* One row per field, used for decoding and for encoding: X(member, kind, count, NIfTI-1 place and type, NIfTI-2 place
   and type). Kinds: i int, l int64_t, d double, s text (count bytes). */
#define BMVPI_NII_FIELDS(X)                                     \
    X(dim_info,       'i',  1,  39, 'b', 524, 'b')              \
    X(ndim,           'i',  1,  40, 'h',  16, 'q')              \
    X(dim,            'l',  7,  42, 'h',  24, 'q')              \
    X(intent_p,       'd',  3,  56, 'f',  80, 'd')              \
    X(intent_code,    'i',  1,  68, 'h', 504, 'i')              \
    X(datatype,       'i',  1,  70, 'h',  12, 'h')              \
    X(slice_start,    'l',  1,  74, 'h', 224, 'q')              \
    X(pixdim,         'd',  8,  76, 'f', 104, 'd')              \
    X(scl_slope,      'd',  1, 112, 'f', 176, 'd')              \
    X(scl_inter,      'd',  1, 116, 'f', 184, 'd')              \
    X(slice_end,      'l',  1, 120, 'h', 232, 'q')              \
    X(slice_code,     'i',  1, 122, 'b', 496, 'i')              \
    X(xyzt_units,     'i',  1, 123, 'b', 500, 'i')              \
    X(cal_max,        'd',  1, 124, 'f', 192, 'd')              \
    X(cal_min,        'd',  1, 128, 'f', 200, 'd')              \
    X(slice_duration, 'd',  1, 132, 'f', 208, 'd')              \
    X(toffset,        'd',  1, 136, 'f', 216, 'd')              \
    X(descrip,        's', 80, 148, 's', 240, 's')              \
    X(aux_file,       's', 24, 228, 's', 320, 's')              \
    X(qform_code,     'i',  1, 252, 'h', 344, 'i')              \
    X(sform_code,     'i',  1, 254, 'h', 348, 'i')              \
    X(quatern,        'd',  3, 256, 'f', 352, 'd')              \
    X(qoffset,        'd',  3, 268, 'f', 376, 'd')              \
    X(srow,           'd', 12, 280, 'f', 400, 'd')              \
    X(intent_name,    's', 16, 328, 's', 508, 's')

typedef struct bmvpi_nii_field {
    const char *name;
    size_t member;
    char kind;
    int count, at1;
    char type1;
    int at2;
    char type2;
} bmvpi_nii_field;

static const bmvpi_nii_field bmvpi_nii_fields[] = {
#define BMVP_NII_FIELD(member, kind, count, at1, type1, at2, type2) \
    {#member, offsetof(bmvp_nii_image, member), kind, count, at1, type1, at2, type2},
    BMVPI_NII_FIELDS(BMVP_NII_FIELD)
#undef BMVP_NII_FIELD
};

enum {
    BMVPI_NII_N_FIELDS = (int)(sizeof bmvpi_nii_fields / sizeof bmvpi_nii_fields[0]),
    BMVPI_NII_HEAD = 544                                    /* bytes that hold any header and its extension flag */
};

static int bmvpi_nii_head_size(int version) { return version == 2 ? 540 : 348; }

static void bmvpi_nii_get_field(bmvp_nii_image *image, const bmvpi_nii_field *f, const unsigned char *head, int swap)
{
    char type = image->version == 2 ? f->type2 : f->type1;
    const unsigned char *p = head + (image->version == 2 ? f->at2 : f->at1);
    char *to = (char *)image + f->member;
    int k;
    if (f->kind == 's') {
        memcpy(to, p, (size_t)f->count);                    /* the byte after it is 0 since the image was cleared */
        return;
    }
    for (k = 0; k < f->count; ++k) {
        int64_t whole;
        double real;
        int small;
        bmvpi_nii_get(p + k * bmvpi_nii_number_size(type), type, swap, &whole, &real);
        small = whole > INT_MAX ? INT_MAX : whole < INT_MIN ? INT_MIN : (int)whole;
        if (f->kind == 'd') memcpy(to + (size_t)k * sizeof real, &real, sizeof real);
        else if (f->kind == 'l') memcpy(to + (size_t)k * sizeof whole, &whole, sizeof whole);
        else memcpy(to + (size_t)k * sizeof small, &small, sizeof small);
    }
}

/* Version and byte order from sizeof_hdr; when that is damaged, from the magic and dim[0]. 0: no header. */
static int bmvpi_nii_recognise(bmvp_nii_image *image, const unsigned char *head, int64_t got)
{
    int64_t size, swapped_size, dim0, swapped_dim0;
    double unused;
    int is_nifti1;
    if (got < 348) return 0;
    bmvpi_nii_get(head, 'i', 0, &size, &unused);
    bmvpi_nii_get(head, 'i', 1, &swapped_size, &unused);
    bmvpi_nii_get(head + 40, 'h', 0, &dim0, &unused);
    bmvpi_nii_get(head + 40, 'h', 1, &swapped_dim0, &unused);
    is_nifti1 = memcmp(head + 344, "n+1", 4) == 0 || memcmp(head + 344, "ni1", 4) == 0;
    if (size == 540 || swapped_size == 540) {
        if (got < 540 || (memcmp(head + 4, "n+2", 4) != 0 && memcmp(head + 4, "ni2", 4) != 0)) return 0;
        image->version = 2;
        image->is_swapped = size != 540;
        image->is_pair = head[5] == 'i';
        return 1;
    }
    image->version = is_nifti1 ? 1 : 0;
    image->is_pair = !(is_nifti1 && head[345] == '+');      /* ANALYZE is always a pair */
    if (size == 348 || swapped_size == 348) image->is_swapped = size != 348;
    else if (is_nifti1 && dim0 >= 1 && dim0 <= 7) image->is_swapped = 0;
    else if (is_nifti1 && swapped_dim0 >= 1 && swapped_dim0 <= 7) image->is_swapped = 1;
    else return 0;
    return 1;
}

/* FreeSurfer has two ways to write more than 32767 points into dim; here they become plain sizes. */
static void bmvpi_nii_freesurfer_dims(bmvp_nii_image *image, const unsigned char *head)
{
    int64_t *d = image->dim, glmin;
    double unused;
    if (image->version != 1 || image->ndim < 3) return;
    if (d[0] == -1 && d[1] == 1 && d[2] == 1) {
        bmvpi_nii_get(head + 144, 'i', image->is_swapped, &glmin, &unused);
        d[0] = glmin;
    } else if (d[0] == 27307 && d[1] == 1 && d[2] == 6) {
        d[0] = 163842;
        d[2] = 1;
    }
}

/* dim and datatype: 0 counts as 1 beyond the first, then all must be positive and the products must fit. */
static bmvp_status bmvpi_nii_check_dims(const bmvpi_nii_io *io, bmvp_nii_image *image)
{
    int64_t *d = image->dim;
    int i, size;
    const char *text;
    image->n_voxels = 1;
    for (i = 0; i < 7; ++i) {
        if (i >= image->ndim || (i > 0 && d[i] == 0)) d[i] = 1;
        if (d[i] < 1)
            return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim[%d] is %lld, must be positive", i + 1,
                                  (long long)d[i]);
        if (!bmvpi_nii_mul(&image->n_voxels, image->n_voxels, d[i]))
            return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim: the number of voxels does not fit into"
                                  " 63 bits (dim[%d] is %lld)", i + 1, (long long)d[i]);
    }
    if (!bmvpi_nii_type_info(image->datatype, &size, NULL, &text))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "datatype is %d%s", image->datatype,
                              image->datatype == 1 ? " (1 bit per voxel), which is not supported"
                                                   : ", which is no type of the NIfTI standard");
    if (!bmvpi_nii_mul(&image->data_bytes, image->n_voxels, size) || image->data_bytes > INT64_MAX / 4)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim: %lld voxels of type %s are too many bytes",
                              (long long)image->n_voxels, text);
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_check_offset(const bmvpi_nii_io *io, bmvp_nii_image *image,
                                          const unsigned char *head)
{
    int64_t whole, lowest = image->is_pair ? 0 : bmvpi_nii_head_size(image->version) + 4;
    double real;
    const int two = image->version == 2;
    if (image->version == 0) return BMVP_OK;            /* ANALYZE means another thing by it */
    bmvpi_nii_get(head + (two ? 168 : 108), two ? 'q' : 'f', image->is_swapped, &whole, &real);
    if (two) real = (double)whole;
    if (!(real >= 0 && real < 1e18))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "vox_offset is %g, must be a place in the file",
                              real);
    image->vox_offset = two ? whole : (int64_t)real;
    if (image->vox_offset < lowest) image->vox_offset = lowest;   /* by the standard: right after the header */
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_check_scaling(const bmvpi_nii_io *io, bmvp_nii_image *image)
{
    if (image->version == 0 || !bmvpi_nii_finite(image->scl_slope) || !(fabs(image->scl_slope) > 0)) {
        image->scl_slope = 0;
        if (image->version == 0 || !bmvpi_nii_finite(image->scl_inter)) image->scl_inter = 0;
    } else if (!bmvpi_nii_finite(image->scl_inter)) {
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "scl_inter is %g with scl_slope %g: voxel values"
                              " are not defined", image->scl_inter, image->scl_slope);
    }
    return BMVP_OK;
}

static void bmvpi_nii_repair(bmvp_nii_image *image)
{
    int i;
    if (image->version == 0) {                              /* ANALYZE keeps other things in these places */
        image->qform_code = image->sform_code = image->intent_code = 0;
        image->pixdim[0] = 1;
        memset(image->intent_p, 0, sizeof image->intent_p);
        memset(image->quatern, 0, sizeof image->quatern);
        memset(image->qoffset, 0, sizeof image->qoffset);
        memset(image->srow, 0, sizeof image->srow);
        memset(image->intent_name, 0, sizeof image->intent_name);
    }
    if (image->qform_code < 0 || image->qform_code > 5) image->qform_code = 0;
    if (image->sform_code < 0 || image->sform_code > 5) image->sform_code = 0;
    image->pixdim[0] = fabs(image->pixdim[0] + 1) <= 0 ? -1 : 1;
    for (i = 1; i < 8; ++i) {
        double p = image->pixdim[i];
        if (!bmvpi_nii_finite(p) || (i < 4 && !(fabs(p) > 0))) p = 1;
        image->pixdim[i] = i < 4 ? fabs(p) : p;
    }
}

static bmvp_status bmvpi_nii_not_nifti(const bmvpi_nii_io *io, const unsigned char *head, int64_t got)
{
    if (got < 348)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "has only %lld bytes, a NIfTI header has 348",
                              (long long)got);
    return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name,
                          "is no NIfTI file: sizeof_hdr is %02x %02x %02x %02x, magic at 344 is %02x %02x %02x",
                          head[0], head[1], head[2], head[3], head[344], head[345], head[346]);
}

/* Fills all fields of a cleared image from the first `got` bytes of a header. */
static bmvp_status bmvpi_nii_decode(const bmvpi_nii_io *io, bmvp_nii_image *image, const unsigned char *head,
                                    int64_t got)
{
    bmvp_status s;
    int i;
    if (!bmvpi_nii_recognise(image, head, got)) return bmvpi_nii_not_nifti(io, head, got);
    for (i = 0; i < BMVPI_NII_N_FIELDS; ++i)
        bmvpi_nii_get_field(image, &bmvpi_nii_fields[i], head, image->is_swapped);
    if (image->version == 2 && memcmp(head + 8, "\r\n\032\n", 4) != 0 && memcmp(head + 8, "\0\0\0\0", 4) != 0)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "magic ends with %02x %02x %02x %02x instead of"
                              " 0d 0a 1a 0a: the file was copied as text", head[8], head[9], head[10], head[11]);
    if (image->ndim < 1 || image->ndim > 7)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim[0] is %d, must be 1 to 7", image->ndim);
    bmvpi_nii_freesurfer_dims(image, head);
    if ((s = bmvpi_nii_check_dims(io, image)) != BMVP_OK) return s;
    if ((s = bmvpi_nii_check_offset(io, image, head)) != BMVP_OK) return s;
    if ((s = bmvpi_nii_check_scaling(io, image)) != BMVP_OK) return s;
    bmvpi_nii_repair(image);
    bmvpi_nii_choose_affine(image);
    return BMVP_OK;
}

/* >>extension -------------------------------------------------------------------------------------------------- */

BMVP_API bmvp_status bmvp_nii_add_extension(bmvp_nii_image *image, int32_t code, const void *data,
                                            int64_t size, bmvp_error *err)
{
    bmvp_nii_extension *list, *e;
    int n;
    if (!image || size < 0 || size > INT32_MAX - 32 || (!data && size > 0))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "extension of %lld bytes", (long long)size);
    n = image->n_extensions;
    if (n >= BMVP_NII_MAX_EXTENSIONS)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "more than %d extensions", (int)BMVP_NII_MAX_EXTENSIONS);
    if ((n & (n - 1)) == 0) {                               /* the list holds the next power of two */
        int64_t bytes = (int64_t)sizeof *list * (n == 0 ? 1 : 2 * n);
        list = (bmvp_nii_extension *)bmvpi_nii_alloc(&image->allocator, bytes);
        if (!list) return bmvpi_nii_out_of_memory(err, NULL, bytes);
        if (n > 0) memcpy(list, image->extensions, (size_t)n * sizeof *list);
        bmvpi_nii_free(&image->allocator, image->extensions);
        image->extensions = list;
    }
    e = &image->extensions[n];
    e->code = code;
    e->size = size;
    e->data = (unsigned char *)bmvpi_nii_alloc(&image->allocator, size);
    if (!e->data) return bmvpi_nii_out_of_memory(err, NULL, size);
    if (size > 0) memcpy(e->data, data, (size_t)size);
    image->n_extensions = n + 1;
    return BMVP_OK;
}

/* The section between header and data. As the standard says, one entry that does not fit makes all of it unknown:
   then no extension is kept. Zeros after the last entry are padding. */
static bmvp_status bmvpi_nii_parse_extensions(const bmvpi_nii_io *io, bmvp_nii_image *image,
                                              const unsigned char *p, int64_t n)
{
    int pass;
    for (pass = 0; pass < 2; ++pass) {                      /* first look at all sizes, then copy */
        int64_t at = 0;
        int found = 0;
        while (n - at >= 8) {
            int64_t size, code;
            double unused;
            bmvp_status s;
            bmvpi_nii_get(p + at, 'i', image->is_swapped, &size, &unused);
            bmvpi_nii_get(p + at + 4, 'i', image->is_swapped, &code, &unused);
            if (size == 0 && code == 0) break;
            if (size < 8 || size > n - at || ++found > BMVP_NII_MAX_EXTENSIONS) return BMVP_OK;
            if (pass == 1) {
                s = bmvp_nii_add_extension(image, (int32_t)code, p + at + 8, size - 8, io->err);
                if (s != BMVP_OK) return s;
            }
            at += size;
        }
    }
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_read_extensions(const bmvpi_nii_io *io, bmvp_nii_image *image,
                                             bmvpi_nii_source *source)
{
    int64_t start = bmvpi_nii_head_size(image->version) + 4, end = image->vox_offset, got = 0;
    int64_t most = source->is_gzip ? bmvpi_nii_min(source->size, 1 << 30) * BMVPI_NII_RATIO : source->size;
    void *block;
    bmvp_status s;
    if (image->is_pair) end = bmvpi_nii_min(most, 1 << 26);
    if (end < start + 16 || end > most) return BMVP_OK; /* a false vox_offset is reported when data are fetched */
    if ((s = bmvpi_nii_take(&block, io, end)) != BMVP_OK) return s;
    s = bmvpi_nii_peek(io, source, (unsigned char *)block, end, &got);
    if (s == BMVP_OK && got > start && (image->is_pair || got == end))
        s = bmvpi_nii_parse_extensions(io, image, (const unsigned char *)block + start, got - start);
    bmvpi_nii_free(&io->allocator, block);
    return s;
}

/* >>read ------------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_nii_image_free(bmvp_nii_image *image)
{
    int i;
    if (!image) return;
    for (i = 0; i < image->n_extensions; ++i) bmvpi_nii_free(&image->allocator, image->extensions[i].data);
    bmvpi_nii_free(&image->allocator, image->extensions);
    bmvpi_nii_free(&image->allocator, image->block);
    memset(image, 0, sizeof *image);
}

/* Header and extensions of a source; the image must be cleared. */
static bmvp_status bmvpi_nii_read_head(const bmvpi_nii_io *io, bmvp_nii_image *image, bmvpi_nii_source *source)
{
    unsigned char head[BMVPI_NII_HEAD] = {0};
    int64_t got = 0;
    bmvp_status s = bmvpi_nii_peek(io, source, head, BMVPI_NII_HEAD, &got);
    if (s != BMVP_OK) return s;
    image->allocator = io->allocator;
    s = bmvpi_nii_decode(io, image, head, got);
    if (s != BMVP_OK) return s;
    image->is_gzip = source->is_gzip;
    if (image->version == 0 || head[bmvpi_nii_head_size(image->version)] == 0) return BMVP_OK;
    return bmvpi_nii_read_extensions(io, image, source);
}

static bmvp_status bmvpi_nii_read_body(const bmvpi_nii_io *io, bmvp_nii_image *image, bmvpi_nii_source *source)
{
    int unit = 1;
    bmvp_status s = bmvpi_nii_fetch(io, source, image->vox_offset, image->data_bytes, &image->block, &image->data);
    if (s != BMVP_OK) return s;
    bmvpi_nii_type_info(image->datatype, NULL, &unit, NULL);
    if (image->is_swapped) bmvpi_nii_swap(image->data, image->data_bytes, unit);
    return s;
}

/* 1 when the first n characters of path end so, in any case. */
static int bmvpi_nii_ends(const char *path, size_t n, const char *ending)
{
    size_t i, k = strlen(ending);
    if (n < k) return 0;
    for (i = 0; i < k; ++i)
        if ((path[n - k + i] | 32) != (ending[i] | 32)) return 0;
    return 1;
}

/* The other name of a pair: path with its .hdr or .img replaced by `ending`. 0 when path has neither. */
static int bmvpi_nii_sibling(char out[BMVPI_NII_PATH], const char *path, const char *ending)
{
    size_t n = strlen(path);
    int i;
    if (bmvpi_nii_ends(path, n, ".gz")) n -= 3;
    if (n + 8 > BMVPI_NII_PATH || (!bmvpi_nii_ends(path, n, ".hdr") && !bmvpi_nii_ends(path, n, ".img"))) return 0;
    memcpy(out, path, n - 3);
    strcpy(out + n - 3, ending);
    if (path[n - 1] < 'a')                                  /* an upper-case name has an upper-case partner */
        for (i = 0; i < 3; ++i) out[n - 3 + (size_t)i] = (char)(out[n - 3 + (size_t)i] & ~32);
    return 1;
}

/* Name of the other file of a pair, plain or gzip; the plain one when neither exists. 0: path is not of a pair. */
static int bmvpi_nii_find_sibling(char out[BMVPI_NII_PATH], const char *path, const char *plain, const char *gzip)
{
    if (bmvpi_nii_sibling(out, path, plain) && access(out, F_OK) == 0) return 1;
    if (bmvpi_nii_sibling(out, path, gzip) && access(out, F_OK) == 0) return 1;
    return bmvpi_nii_sibling(out, path, plain);
}

/* Reads the header of `path` and leaves open the source that holds the data. name: room for io->name. */
static bmvp_status bmvpi_nii_open_image(bmvpi_nii_io *io, bmvp_nii_image *image, bmvpi_nii_source *source,
                                        char name[BMVPI_NII_PATH], const char *path, int want_data)
{
    size_t n = strlen(path);
    bmvp_status s;
    if (n >= BMVPI_NII_PATH) return bmvpi_nii_fail(io->err, BMVP_E_ARG, path, "name is too long");
    if (bmvpi_nii_ends(path, n, ".gz")) n -= 3;
    strcpy(name, path);
    if (bmvpi_nii_ends(path, n, ".img") && bmvpi_nii_find_sibling(name, path, "hdr", "hdr.gz") &&
        access(name, F_OK) != 0) strcpy(name, path);        /* named .img, but nothing says that it is half of a pair */
    io->name = name;
    s = bmvpi_nii_source_file(io, source, name);
    if (s != BMVP_OK) return s;
    source->eager = want_data;
    s = bmvpi_nii_read_head(io, image, source);
    if (s == BMVP_OK && want_data && image->is_pair) {
        bmvpi_nii_source_close(io, source);
        if (!bmvpi_nii_find_sibling(name, path, "img", "img.gz"))
            return bmvpi_nii_fail(io->err, BMVP_E_IO, path, "is one file of a pair, but its name ends neither in"
                                  " .hdr nor in .img: the other one cannot be found");
        s = bmvpi_nii_source_file(io, source, name);
        if (s == BMVP_OK) source->eager = 1;
    }
    if (s != BMVP_OK) bmvpi_nii_source_close(io, source);
    return s;
}

static bmvp_status bmvpi_nii_read_path(bmvp_nii_image *image, const char *path, int want_data,
                                       const bmvp_nii_options *options, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(path, options, err);
    bmvpi_nii_source source;
    char name[BMVPI_NII_PATH];
    bmvp_status s;
    if (image) memset(image, 0, sizeof *image);
    if (!image || !path) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "image or path is NULL");
    image->allocator = io.allocator;
    s = bmvpi_nii_open_image(&io, image, &source, name, path, want_data);
    if (s == BMVP_OK) {
        if (want_data) s = bmvpi_nii_read_body(&io, image, &source);
        bmvpi_nii_source_close(&io, &source);
    }
    if (s != BMVP_OK) bmvp_nii_image_free(image);
    return s;
}

BMVP_API bmvp_status bmvp_nii_read_header(bmvp_nii_image *image, const char *path,
                                          const bmvp_nii_options *options, bmvp_error *err)
{
    return bmvpi_nii_read_path(image, path, 0, options, err);
}

BMVP_API bmvp_status bmvp_nii_read(bmvp_nii_image *image, const char *path, const bmvp_nii_options *options,
                                   bmvp_error *err)
{
    return bmvpi_nii_read_path(image, path, 1, options, err);
}

BMVP_API bmvp_status bmvp_nii_read_memory(bmvp_nii_image *image, const void *bytes, size_t n_bytes,
                                          const void *pair_bytes, size_t n_pair_bytes,
                                          const bmvp_nii_options *options, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make("memory", options, err);
    bmvpi_nii_source source;
    bmvp_status s;
    if (image) memset(image, 0, sizeof *image);
    if (!image || !bytes) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "image or bytes is NULL");
    image->allocator = io.allocator;
    s = bmvpi_nii_source_memory(&io, &source, bytes, n_bytes);
    if (s == BMVP_OK) s = bmvpi_nii_read_head(&io, image, &source);
    if (s == BMVP_OK && image->is_pair) {
        if (!pair_bytes)
            s = bmvpi_nii_fail(err, BMVP_E_ARG, io.name, "is the header of a pair, and no data were given");
        else
            s = bmvpi_nii_source_memory(&io, &source, pair_bytes, n_pair_bytes);
    }
    if (s == BMVP_OK) s = bmvpi_nii_read_body(&io, image, &source);
    if (s != BMVP_OK) bmvp_nii_image_free(image);
    return s;
}

/* >>encode ----------------------------------------------------------------------------------------------------- */

BMVP_API bmvp_status bmvp_nii_set_affine(bmvp_nii_image *image, const double affine[16], int code,
                                         bmvp_error *err)
{
    double m[9], r[9], length[3], det;
    int i, j;
    const double unit = image ? bmvp_nii_unit_mm(image) : 1;
    if (!image || !affine || code < 1 || code > 5)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "form code is %d, must be 1 to 5", code);
    bmvpi_nii_directions(m, length, affine);
    for (j = 0; j < 3; ++j)
        if (!bmvpi_nii_finite16(affine) || !(fabs(m[j]) + fabs(m[3 + j]) + fabs(m[6 + j]) > 0))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "column %d of the affine is zero or not finite", j);
    det = m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) + m[2] * (m[3] * m[7] - m[4] * m[6]);
    image->pixdim[0] = det < 0 ? -1 : 1;
    if (det < 0)
        for (i = 0; i < 3; ++i) m[3 * i + 2] = -m[3 * i + 2];
    bmvpi_nii_polar(r, m);
    bmvpi_nii_quaternion(image->quatern, r);
    for (i = 0; i < 3; ++i) {
        image->pixdim[i + 1] = length[i] / unit;
        image->qoffset[i] = affine[4 * i + 3] / unit;
    }
    for (i = 0; i < 12; ++i) image->srow[i] = affine[i] / unit;
    image->qform_code = image->sform_code = code;
    bmvpi_nii_choose_affine(image);
    return BMVP_OK;
}

/* A new image whose data are not set; partly filled when it fails. */
static bmvp_status bmvpi_nii_new_image(bmvp_nii_image *image, int datatype, int ndim, const int64_t *dim,
                                       const double affine[16], const bmvpi_nii_io *io)
{
    bmvp_status s;
    int i;
    memset(image, 0, sizeof *image);
    image->allocator = io->allocator;
    image->version = 1;
    image->datatype = datatype;
    image->ndim = ndim;
    image->xyzt_units = 2 | 8;
    if (ndim < 1 || ndim > 7) return bmvpi_nii_fail(io->err, BMVP_E_ARG, NULL, "ndim is %d", ndim);
    for (i = 0; i < 8; ++i) image->pixdim[i] = 1;
    for (i = 0; i < ndim; ++i) {
        if (dim[i] < 1)
            return bmvpi_nii_fail(io->err, BMVP_E_ARG, NULL, "dim[%d] is %lld", i + 1, (long long)dim[i]);
        image->dim[i] = dim[i];
        if (dim[i] > 32767) image->version = 2;
    }
    if ((s = bmvpi_nii_check_dims(io, image)) != BMVP_OK) return s;
    if (affine) s = bmvp_nii_set_affine(image, affine, 1, io->err);
    else bmvpi_nii_choose_affine(image);
    if (s == BMVP_OK) s = bmvpi_nii_take(&image->block, io, image->data_bytes);
    image->data = image->block;
    return s;
}

BMVP_API bmvp_status bmvp_nii_create(bmvp_nii_image *image, int datatype, int ndim, const int64_t *dim,
                                     const double affine[16], const bmvp_nii_options *options,
                                     bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, options, err);
    bmvp_status s;
    if (image) memset(image, 0, sizeof *image);
    if (!image || !dim) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "image or dim is NULL");
    s = bmvpi_nii_new_image(image, datatype, ndim, dim, affine, &io);
    if (s == BMVP_OK) memset(image->data, 0, (size_t)image->data_bytes);
    else bmvp_nii_image_free(image);
    return s;
}

/* Bytes before the data of a single file, or of the header file of a pair. */
static bmvp_status bmvpi_nii_head_bytes(int64_t *n, const bmvp_nii_image *image, int version, bmvp_error *err)
{
    int64_t total = bmvpi_nii_head_size(version) + 4;
    int i;
    for (i = 0; i < image->n_extensions; ++i) {
        int64_t size = image->extensions[i].size;
        if (size < 0 || size > INT32_MAX - 32)
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "extension %d has %lld bytes", i, (long long)size);
        total += (size + 8 + 15) / 16 * 16;
    }
    *n = total;
    return BMVP_OK;
}

static int bmvpi_nii_pick_version(const bmvp_nii_image *image, int wanted, int64_t offset)
{
    int i;
    if (wanted == 1 || wanted == 2) return wanted;
    for (i = 0; i < image->ndim && i < 7; ++i)
        if (image->dim[i] > 32767) return 2;
    return image->version == 2 || offset > 1 << 27 ? 2 : 1; /* float32 holds multiples of 16 up to 2^28 */
}

static bmvp_status bmvpi_nii_put_fields(unsigned char *head, const bmvp_nii_image *image, int version,
                                        bmvp_error *err)
{
    int i, k;
    for (i = 0; i < BMVPI_NII_N_FIELDS; ++i) {
        const bmvpi_nii_field *f = &bmvpi_nii_fields[i];
        char type = version == 2 ? f->type2 : f->type1;
        unsigned char *p = head + (version == 2 ? f->at2 : f->at1);
        const char *from = (const char *)image + f->member;
        if (f->kind == 's') {
            memcpy(p, from, (size_t)f->count);
            continue;
        }
        for (k = 0; k < f->count; ++k) {
            double real = 0;
            int64_t whole = 0;
            int small = 0;
            if (f->kind == 'd') memcpy(&real, from + (size_t)k * sizeof real, sizeof real);
            else if (f->kind == 'l') memcpy(&whole, from + (size_t)k * sizeof whole, sizeof whole);
            else memcpy(&small, from + (size_t)k * sizeof small, sizeof small);
            if (!bmvpi_nii_put(p + k * bmvpi_nii_number_size(type), type, f->kind == 'i' ? small : whole, real))
                return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s[%d] does not fit into a NIfTI-%d header",
                                      f->name, k, version);
        }
    }
    return BMVP_OK;
}

/* Header, flag and extensions into head (n bytes, cleared). */
static bmvp_status bmvpi_nii_encode(unsigned char *head, int64_t n, const bmvp_nii_image *image, int version,
                                    int pair, bmvp_error *err)
{
    int64_t at = bmvpi_nii_head_size(version);
    int size = 0, i;
    bmvp_status s = bmvpi_nii_put_fields(head, image, version, err);
    if (s != BMVP_OK) return s;
    bmvpi_nii_type_info(image->datatype, &size, NULL, NULL);
    bmvpi_nii_put(head, 'i', at, 0);
    bmvpi_nii_put(head + (version == 2 ? 14 : 72), 'h', size * 8, 0);
    if (version == 2) {
        memcpy(head + 4, pair ? "ni2\0\r\n\032\n" : "n+2\0\r\n\032\n", 8);
        bmvpi_nii_put(head + 168, 'q', pair ? 0 : n, 0);
    } else {
        memcpy(head + 344, pair ? "ni1" : "n+1", 4);
        head[38] = 'r';                                     /* "regular", which ANALYZE readers look for */
        bmvpi_nii_put(head + 108, 'f', 0, pair ? 0 : (double)n);
    }
    head[at] = image->n_extensions > 0;
    at += 4;
    for (i = 0; i < image->n_extensions; ++i) {
        const bmvp_nii_extension *e = &image->extensions[i];
        int64_t esize = (e->size + 8 + 15) / 16 * 16;
        bmvpi_nii_put(head + at, 'i', esize, 0);
        bmvpi_nii_put(head + at + 4, 'i', e->code, 0);
        if (e->size > 0) memcpy(head + at + 8, e->data, (size_t)e->size);
        at += esize;
    }
    return BMVP_OK;
}

/* >>write ------------------------------------------------------------------------------------------------------ */

/* Up to two pieces that become one file; packed is their gzip form once it was made. */
typedef struct bmvpi_nii_out {
    const void *part[2];
    int64_t n[2];
    void *packed;
} bmvpi_nii_out;

static bmvp_status bmvpi_nii_write_all(const bmvpi_nii_io *io, int fd, const void *from, int64_t n, int64_t at)
{
    const unsigned char *p = (const unsigned char *)from;
    while (n > 0) {
        const int64_t put = bmvpi_sys_write(fd, p, n, at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return bmvpi_nii_fail(io->err, BMVP_E_IO, io->name, "writing failed: %s",
                                  put < 0 ? strerror(errno) : "nothing was written");
        p += put;
        at += put;
        n -= put;
    }
    return BMVP_OK;
}

/* A new file beside `path`, of a name that did not exist. */
static bmvp_status bmvpi_nii_temporary(const bmvpi_nii_io *io, int *fd, char name[BMVPI_NII_PATH],
                                       const char *path)
{
    int i, n;
    for (i = 0; i < 1000; ++i) {
        n = snprintf(name, BMVPI_NII_PATH, "%s.tmp%ld.%d", path, bmvpi_sys_process(), i);
        if (n < 0 || n >= BMVPI_NII_PATH)
            return bmvpi_nii_fail(io->err, BMVP_E_ARG, path, "name is too long");
        *fd = bmvpi_sys_open(name, BMVPI_SYS_NEW);
        if (*fd >= 0) return BMVP_OK;
        if (errno != EEXIST) break;
    }
    return bmvpi_nii_fail(io->err, BMVP_E_IO, path, "cannot be created: %s", strerror(errno));
}

/* Leaves a finished temporary file, or none and an empty name. */
static bmvp_status bmvpi_nii_write_temporary(const bmvpi_nii_io *io, char name[BMVPI_NII_PATH], const char *path,
                                             const bmvpi_nii_out *out, int sync)
{
    int64_t at = 0;
    int fd = -1, i;
    bmvp_status s = bmvpi_nii_temporary(io, &fd, name, path);
    if (s != BMVP_OK) {
        name[0] = 0;
        return s;
    }
    for (i = 0; i < 2 && s == BMVP_OK; at += out->n[i++])
        s = bmvpi_nii_write_all(io, fd, out->part[i], out->n[i], at);
    if (s == BMVP_OK && sync && bmvpi_sys_sync(fd) != 0)
        s = bmvpi_nii_fail(io->err, BMVP_E_IO, path, "syncing failed: %s", strerror(errno));
    if (bmvpi_sys_close(fd) != 0 && s == BMVP_OK)
        s = bmvpi_nii_fail(io->err, BMVP_E_IO, path, "closing failed: %s", strerror(errno));
    if (s != BMVP_OK) {
        bmvpi_sys_remove(name);
        name[0] = 0;
    }
    return s;
}

/* Writes one file, or both of a pair (image_out not NULL); names change only after everything is on disk. */
static bmvp_status bmvpi_nii_write_files(const bmvpi_nii_io *io, const char *path, const bmvpi_nii_out *out,
                                         const char *image_path, const bmvpi_nii_out *image_out, int sync)
{
    char name[BMVPI_NII_PATH], image_name[BMVPI_NII_PATH];
    bmvp_status s;
    name[0] = image_name[0] = 0;
    s = bmvpi_nii_write_temporary(io, name, path, out, sync);
    if (s == BMVP_OK && image_out)
        s = bmvpi_nii_write_temporary(io, image_name, image_path, image_out, sync);
    if (s == BMVP_OK && image_out && bmvpi_sys_rename(image_name, image_path) != 0)
        s = bmvpi_nii_fail(io->err, BMVP_E_IO, image_path, "cannot be replaced: %s", strerror(errno));
    if (s == BMVP_OK && bmvpi_sys_rename(name, path) != 0)
        s = bmvpi_nii_fail(io->err, BMVP_E_IO, path, "cannot be replaced: %s", strerror(errno));
    if (s != BMVP_OK) {
        if (name[0] != 0) bmvpi_sys_remove(name);
        if (image_name[0] != 0) bmvpi_sys_remove(image_name);
    }
    return s;
}

/* Replaces the two parts by one gzip member when asked to. */
static bmvp_status bmvpi_nii_pack(const bmvpi_nii_io *io, bmvpi_nii_out *out, int gzip, int level)
{
#ifdef BMVP_NIFTI_NO_GZIP
    (void)out;
    (void)level;
    if (!gzip) return BMVP_OK;
    return bmvpi_nii_fail(io->err, BMVP_E_UNSUPPORTED, io->name, "this program was built without gzip"
                          " (BMVP_NIFTI_NO_GZIP)");
#else
    const int64_t n = out->n[0] + out->n[1];
    size_t cap, made;
    void *both;
    bmvp_status s;
    if (!gzip) return BMVP_OK;
    cap = bmvpi_nii_codec_bound((size_t)n);
    if ((s = bmvpi_nii_take(&both, io, n)) != BMVP_OK) return s;
    if (out->n[0] > 0) memcpy(both, out->part[0], (size_t)out->n[0]);
    if (out->n[1] > 0) memcpy((char *)both + out->n[0], out->part[1], (size_t)out->n[1]);
    s = bmvpi_nii_take(&out->packed, io, (int64_t)cap);
    if (s == BMVP_OK) {
        made = bmvpi_nii_codec_gzip(out->packed, cap, (const unsigned char *)both, (size_t)n, level > 0 ? level : 6);
        if (made == 0) s = bmvpi_nii_out_of_memory(io->err, io->name, 1 << 20);
        out->part[0] = out->packed;
        out->n[0] = (int64_t)made;
        out->part[1] = NULL;
        out->n[1] = 0;
    }
    bmvpi_nii_free(&io->allocator, both);
    return s;
#endif
}

static bmvp_status bmvpi_nii_writable(const bmvp_nii_image *image, const bmvp_nii_write_options *how,
                                      bmvp_error *err)
{
    int64_t n = 1;
    int i, size = 0;
    if (!image || !image->data)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "image has no data");
    if (how && (how->version < 0 || how->version > 2 || how->level < 0 || how->level > 9))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "version must be 0 to 2 and level 0 to 9, they are %d and"
                              " %d", how->version, how->level);
    bmvpi_nii_type_info(image->datatype, &size, NULL, NULL);
    if (size == 0 || image->ndim < 1 || image->ndim > 7)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "datatype %d or ndim %d is not valid", image->datatype,
                              image->ndim);
    for (i = 0; i < 7; ++i)
        if (image->dim[i] < 1 || (i >= image->ndim && image->dim[i] != 1) || !bmvpi_nii_mul(&n, n, image->dim[i]))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "dim[%d] is %lld", i + 1, (long long)image->dim[i]);
    if (n != image->n_voxels || !bmvpi_nii_mul(&n, n, size) || n != image->data_bytes)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "n_voxels or data_bytes do not fit dim and datatype");
    return BMVP_OK;
}

/* Encoded header in a new block. */
static bmvp_status bmvpi_nii_make_head(const bmvpi_nii_io *io, void **head, int64_t *n,
                                       const bmvp_nii_image *image, int wanted, int pair)
{
    int version = bmvpi_nii_pick_version(image, wanted, 0);
    bmvp_status s = bmvpi_nii_head_bytes(n, image, version, io->err);
    if (s != BMVP_OK) return s;
    if (bmvpi_nii_pick_version(image, wanted, *n) != version) {
        version = 2;
        s = bmvpi_nii_head_bytes(n, image, version, io->err);
        if (s != BMVP_OK) return s;
    }
    if ((s = bmvpi_nii_take(head, io, *n)) != BMVP_OK) return s;
    memset(*head, 0, (size_t)*n);
    return bmvpi_nii_encode((unsigned char *)*head, *n, image, version, pair, io->err);
}

/* Header and data as what will be in the files, compressed when asked. out[1] is used by pairs only. */
static bmvp_status bmvpi_nii_build(const bmvpi_nii_io *io, bmvpi_nii_out out[2], void **head,
                                   const bmvp_nii_image *image, const bmvp_nii_write_options *how, int pair,
                                   int gzip)
{
    bmvpi_nii_out *with_data = pair ? &out[1] : &out[0];
    const int level = how ? how->level : 0;
    bmvp_status s;
    memset(out, 0, 2 * sizeof *out);
    *head = NULL;
    s = bmvpi_nii_make_head(io, head, &out[0].n[0], image, how ? how->version : 0, pair);
    if (s != BMVP_OK) return s;
    out[0].part[0] = *head;
    with_data->part[1] = image->data;
    with_data->n[1] = image->data_bytes;
    s = bmvpi_nii_pack(io, &out[0], gzip, level);
    if (s == BMVP_OK && pair) s = bmvpi_nii_pack(io, &out[1], gzip, level);
    return s;
}

BMVP_API bmvp_status bmvp_nii_write(const char *path, const bmvp_nii_image *image,
                                    const bmvp_nii_write_options *how, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(path, NULL, err);
    bmvpi_nii_out out[2];
    char head_path[BMVPI_NII_PATH], image_path[BMVPI_NII_PATH];
    void *head;
    int gzip, pair;
    size_t n = path ? strlen(path) : 0;
    bmvp_status s = bmvpi_nii_writable(image, how, err);
    if (s != BMVP_OK) return s;
    gzip = bmvpi_nii_ends(path, n, ".gz");
    if (gzip) n -= 3;
    pair = bmvpi_nii_ends(path, n, ".hdr") || bmvpi_nii_ends(path, n, ".img");
    if (!pair && !bmvpi_nii_ends(path, n, ".nii"))
        return bmvpi_nii_fail(err, BMVP_E_ARG, path, "name must end in .nii, .hdr or .img, or these with .gz");
    if (pair && (!bmvpi_nii_sibling(head_path, path, gzip ? "hdr.gz" : "hdr") ||
                 !bmvpi_nii_sibling(image_path, path, gzip ? "img.gz" : "img")))
        return bmvpi_nii_fail(err, BMVP_E_ARG, path, "name is too long");
    io.allocator = image->allocator;
    s = bmvpi_nii_build(&io, out, &head, image, how, pair, gzip);
    if (s == BMVP_OK)
        s = bmvpi_nii_write_files(&io, pair ? head_path : path, &out[0], image_path, pair ? &out[1] : NULL,
                                  !how || !how->no_sync);
    bmvpi_nii_free(&io.allocator, head);
    bmvpi_nii_free(&io.allocator, out[0].packed);
    bmvpi_nii_free(&io.allocator, out[1].packed);
    return s;
}

BMVP_API bmvp_status bmvp_nii_write_memory(void **bytes, size_t *n_bytes, const bmvp_nii_image *image,
                                           const bmvp_nii_write_options *how, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, NULL, err);
    bmvpi_nii_out out[2];
    void *head;
    bmvp_status s;
    *bytes = NULL;
    *n_bytes = 0;
    if ((s = bmvpi_nii_writable(image, how, err)) != BMVP_OK) return s;
    io.allocator = image->allocator;
    s = bmvpi_nii_build(&io, out, &head, image, how, 0, how && how->store == BMVP_NII_STORE_NII_GZ);
    if (s == BMVP_OK && !out[0].packed) {
        s = bmvpi_nii_take(&out[0].packed, &io, out[0].n[0] + out[0].n[1]);
        if (s == BMVP_OK) {
            memcpy(out[0].packed, out[0].part[0], (size_t)out[0].n[0]);
            memcpy((char *)out[0].packed + out[0].n[0], out[0].part[1], (size_t)out[0].n[1]);
            out[0].n[0] += out[0].n[1];
        }
    }
    bmvpi_nii_free(&io.allocator, head);
    if (s != BMVP_OK) {
        bmvpi_nii_free(&io.allocator, out[0].packed);
        return s;
    }
    *bytes = out[0].packed;
    *n_bytes = (size_t)out[0].n[0];
    return BMVP_OK;
}

BMVP_API void bmvp_nii_bytes_free(void *bytes, const bmvp_allocator *memory)
{
    bmvp_allocator libc;
    memset(&libc, 0, sizeof libc);
    bmvpi_nii_free(memory ? memory : &libc, bytes);
}

/* >>convert ----------------------------------------------------------------------------------------------------
   Rows of raw voxels become rows of float32. The loops have an inner part of fixed length: compilers then vectorise
   them at -O2 as well. */

typedef struct bmvpi_nii_conv bmvpi_nii_conv;
typedef void (*bmvpi_nii_row_fn)(float *BMVP_RESTRICT to, const void *BMVP_RESTRICT from, int64_t n,
                                 const bmvpi_nii_conv *conv);

struct bmvpi_nii_conv {
    bmvpi_nii_row_fn row;
    int size, unit;                                         /* bytes per voxel, per number */
    int scaled, component, is_float;
    double slope, inter;
    int replace;
    float replacement;
};

enum { BMVPI_NII_LANES = 16 };

/* Two voxels at once. */
static uint64_t bmvpi_nii_pair(const float *x)
{
    uint64_t pair;
    memcpy(&pair, x, sizeof pair);
    return pair;
}

/* 1 when all bits of a block are 0: what most blocks around a brain are. */
static int bmvpi_nii_zero_block(const float *x)
{
    const uint64_t a = bmvpi_nii_pair(x) | bmvpi_nii_pair(x + 2) | bmvpi_nii_pair(x + 4) | bmvpi_nii_pair(x + 6);
    const uint64_t b = bmvpi_nii_pair(x + 8) | bmvpi_nii_pair(x + 10) | bmvpi_nii_pair(x + 12) | bmvpi_nii_pair(x + 14);
    return (a | b) == 0;
}

static int bmvpi_nii_zero_blocks(const float *x, int64_t n_blocks)
{
    int64_t i = 0;
    while (i < n_blocks && bmvpi_nii_zero_block(x + i * BMVPI_NII_LANES)) ++i;
    return i == n_blocks;
}

#define BMVPI_NII_ROW(name, type)                                                                                   \
    static void bmvpi_nii_row_##name(float *BMVP_RESTRICT to, const void *BMVP_RESTRICT from, int64_t n,             \
                                     const bmvpi_nii_conv *conv) {                                                   \
        const type *BMVP_RESTRICT x = (const type *)from;                                                            \
        const double slope = conv->slope, inter = conv->inter;                                                       \
        int64_t i = 0;                                                                                               \
        int k;                                                                                                       \
        if (conv->scaled) {                                                                                          \
            for (; i + BMVPI_NII_LANES <= n; i += BMVPI_NII_LANES)                                                   \
                for (k = 0; k < BMVPI_NII_LANES; ++k) to[i + k] = (float)((double)x[i + k] * slope + inter);         \
            for (; i < n; ++i) to[i] = (float)((double)x[i] * slope + inter);                                        \
        } else {                                                                                                     \
            for (; i + BMVPI_NII_LANES <= n; i += BMVPI_NII_LANES)                                                   \
                for (k = 0; k < BMVPI_NII_LANES; ++k) to[i + k] = (float)x[i + k];                                   \
            for (; i < n; ++i) to[i] = (float)x[i];                                                                  \
        }                                                                                                            \
    }

BMVPI_NII_ROW(uint8, uint8_t)
BMVPI_NII_ROW(int8, int8_t)
BMVPI_NII_ROW(int16, int16_t)
BMVPI_NII_ROW(uint16, uint16_t)
BMVPI_NII_ROW(int32, int32_t)
BMVPI_NII_ROW(uint32, uint32_t)
BMVPI_NII_ROW(int64, int64_t)
BMVPI_NII_ROW(uint64, uint64_t)
BMVPI_NII_ROW(float32, float)
BMVPI_NII_ROW(float64, double)
#undef BMVPI_NII_ROW

static double bmvpi_nii_complex_part(double re, double im, const bmvpi_nii_conv *conv)
{
    if (conv->scaled) {
        re = re * conv->slope + conv->inter;
        im = im * conv->slope + conv->inter;
    }
    switch (conv->component) {
        case BMVP_NII_IMAGINARY: return im;
        case BMVP_NII_MAGNITUDE: return sqrt(re * re + im * im);
        case BMVP_NII_PHASE: return atan2(im, re);
        default: return re;
    }
}

static void bmvpi_nii_row_complex64(float *BMVP_RESTRICT to, const void *BMVP_RESTRICT from, int64_t n,
                                    const bmvpi_nii_conv *conv)
{
    const float *x = (const float *)from;
    int64_t i;
    for (i = 0; i < n; ++i) to[i] = (float)bmvpi_nii_complex_part((double)x[2 * i], (double)x[2 * i + 1], conv);
}

static void bmvpi_nii_row_complex128(float *BMVP_RESTRICT to, const void *BMVP_RESTRICT from, int64_t n,
                                     const bmvpi_nii_conv *conv)
{
    const double *x = (const double *)from;
    int64_t i;
    for (i = 0; i < n; ++i) to[i] = (float)bmvpi_nii_complex_part(x[2 * i], x[2 * i + 1], conv);
}

static void bmvpi_nii_row_rgb(float *BMVP_RESTRICT to, const void *BMVP_RESTRICT from, int64_t n,
                              const bmvpi_nii_conv *conv)
{
    const unsigned char *x = (const unsigned char *)from;
    int64_t i;
    int channel = conv->component - BMVP_NII_RED;
    for (i = 0; i < n; ++i, x += conv->size)
        to[i] = channel >= 0 ? (float)x[channel]
                             : (float)(0.299 * (double)x[0] + 0.587 * (double)x[1] + 0.114 * (double)x[2]);
}

static bmvpi_nii_row_fn bmvpi_nii_row_of(int datatype)
{
    switch (datatype) {
        case BMVP_NII_UINT8:      return bmvpi_nii_row_uint8;
        case BMVP_NII_INT8:       return bmvpi_nii_row_int8;
        case BMVP_NII_INT16:      return bmvpi_nii_row_int16;
        case BMVP_NII_UINT16:     return bmvpi_nii_row_uint16;
        case BMVP_NII_INT32:      return bmvpi_nii_row_int32;
        case BMVP_NII_UINT32:     return bmvpi_nii_row_uint32;
        case BMVP_NII_INT64:      return bmvpi_nii_row_int64;
        case BMVP_NII_UINT64:     return bmvpi_nii_row_uint64;
        case BMVP_NII_FLOAT32:    return bmvpi_nii_row_float32;
        case BMVP_NII_FLOAT64:    return bmvpi_nii_row_float64;
        case BMVP_NII_COMPLEX64:  return bmvpi_nii_row_complex64;
        case BMVP_NII_COMPLEX128: return bmvpi_nii_row_complex128;
        case BMVP_NII_RGB24: case BMVP_NII_RGBA32: return bmvpi_nii_row_rgb;
        default: return NULL;
    }
}

static bmvp_status bmvpi_nii_make_conv(bmvpi_nii_conv *conv, const bmvp_nii_image *image, const bmvp_nii_load *how,
                                       const char *name, bmvp_error *err)
{
    int type = image->datatype, rgb = type == BMVP_NII_RGB24 || type == BMVP_NII_RGBA32;
    int is_complex = type == BMVP_NII_COMPLEX64 || type == BMVP_NII_COMPLEX128;
    memset(conv, 0, sizeof *conv);
    conv->row = bmvpi_nii_row_of(type);
    if (!conv->row)
        return bmvpi_nii_fail(err, BMVP_E_UNSUPPORTED, name, "voxels of type %s are not converted to float32",
                              bmvp_nii_datatype_text(type));
    bmvpi_nii_type_info(type, &conv->size, &conv->unit, NULL);
    conv->is_float = is_complex || type == BMVP_NII_FLOAT32 || type == BMVP_NII_FLOAT64;
    conv->component = how ? how->component : 0;
    if (conv->component < 0 || conv->component > BMVP_NII_ALPHA ||
        (conv->component != 0 && (conv->component <= BMVP_NII_PHASE ? !is_complex : !rgb)) ||
        (conv->component == BMVP_NII_ALPHA && type == BMVP_NII_RGB24))
        return bmvpi_nii_fail(err, BMVP_E_ARG, name, "component %d does not exist in voxels of type %s",
                              conv->component, bmvp_nii_datatype_text(type));
    conv->slope = image->scl_slope;
    conv->inter = image->scl_inter;
    conv->scaled = !rgb && fabs(conv->slope) > 0 && !(how && how->raw_values) &&
                   (fabs(conv->slope - 1) > 0 || fabs(conv->inter) > 0);
    conv->is_float |= conv->scaled;                         /* a large slope can make infinities of integers */
    if (how) {
        conv->replace = how->replace_nonfinite;
        conv->replacement = how->replacement;
    }
    return BMVP_OK;
}

/* Counts NaN and infinities of a row and replaces them when asked. */
static void bmvpi_nii_check_row(float *row, int64_t n, const bmvpi_nii_conv *conv, int64_t *n_nan, int64_t *n_inf)
{
    int64_t i = 0;
    int k;
    while (i < n) {
        uint32_t any = 0, bits[BMVPI_NII_LANES];
        int m = n - i < BMVPI_NII_LANES ? (int)(n - i) : (int)BMVPI_NII_LANES;
        if (m == BMVPI_NII_LANES) {
            memcpy(bits, row + i, sizeof bits);
            for (k = 0; k < BMVPI_NII_LANES; ++k) any |= ((bits[k] & 0x7f800000u) + 0x00800000u) & 0x80000000u;
        } else {
            memcpy(bits, row + i, (size_t)m * 4);
            for (k = 0; k < m; ++k) any |= ((bits[k] & 0x7f800000u) + 0x00800000u) & 0x80000000u;
        }
        if (any)
            for (k = 0; k < m; ++k) {
                if ((bits[k] & 0x7f800000u) != 0x7f800000u) continue;
                if ((bits[k] & 0x007fffffu) != 0) ++*n_nan;
                else ++*n_inf;
                if (conv->replace) row[i + k] = conv->replacement;
            }
        i += m;
    }
}

/* A view of source voxels in output order: output voxel (x, y, z) is source voxel start + x s[0] + y s[1] + z s[2]. */
typedef struct bmvpi_nii_view {
    const unsigned char *from;
    int64_t start, dim[3], step[3];
    int fast;                                               /* output axis that runs along the source's rows */
} bmvpi_nii_view;

static void bmvpi_nii_reverse(float *row, int64_t n)
{
    int64_t i;
    for (i = 0; i < n / 2; ++i) {
        float t = row[i];
        row[i] = row[n - 1 - i];
        row[n - 1 - i] = t;
    }
}

/* Source rows become output rows. */
static void bmvpi_nii_gather_rows(float *to, const bmvpi_nii_view *v, const bmvpi_nii_conv *conv, int64_t *n_nan,
                                  int64_t *n_inf)
{
    int64_t y, z, n = v->dim[0], back = v->step[0] < 0 ? n - 1 : 0;
    for (z = 0; z < v->dim[2]; ++z)
        for (y = 0; y < v->dim[1]; ++y, to += n) {
            int64_t first = v->start + y * v->step[1] + z * v->step[2] - back;
            conv->row(to, v->from + first * conv->size, n, conv);
            if (back) bmvpi_nii_reverse(to, n);
            if (conv->is_float) bmvpi_nii_check_row(to, n, conv, n_nan, n_inf);
        }
}

enum { BMVPI_NII_TILE = 64 };

/* Source rows run along output axis y or z: square tiles are converted row by row and written transposed, so that both
   sides touch whole cache lines. */
static void bmvpi_nii_gather_tiles(float *to, const bmvpi_nii_view *v, const bmvpi_nii_conv *conv, int64_t *n_nan,
                                   int64_t *n_inf)
{
    float tile[BMVPI_NII_TILE * BMVPI_NII_TILE];
    const int f = v->fast, o = 3 - f;                       /* fast and other axis, of y and z */
    const int64_t out_step[3] = {1, v->dim[0], v->dim[0] * v->dim[1]};
    int64_t a, b, x0, x, i;
    for (a = 0; a < v->dim[o]; ++a)
        for (b = 0; b < v->dim[f]; b += BMVPI_NII_TILE)
            for (x0 = 0; x0 < v->dim[0]; x0 += BMVPI_NII_TILE) {
                const int64_t n = bmvpi_nii_min(BMVPI_NII_TILE, v->dim[f] - b);
                const int64_t m = bmvpi_nii_min(BMVPI_NII_TILE, v->dim[0] - x0);
                for (x = 0; x < m; ++x) {
                    float *row = tile + x * BMVPI_NII_TILE;
                    int64_t first = v->start + a * v->step[o] + b * v->step[f] + (x0 + x) * v->step[0];
                    if (v->step[f] < 0) first -= n - 1;
                    conv->row(row, v->from + first * conv->size, n, conv);
                    if (v->step[f] < 0) bmvpi_nii_reverse(row, n);
                    if (conv->is_float) bmvpi_nii_check_row(row, n, conv, n_nan, n_inf);
                }
                for (i = 0; i < n; ++i) {
                    float *line = to + a * out_step[o] + (b + i) * out_step[f] + x0;
                    for (x = 0; x < m; ++x) line[x] = tile[x * BMVPI_NII_TILE + i];
                }
            }
}

static void bmvpi_nii_gather(float *to, const bmvpi_nii_view *v, const bmvpi_nii_conv *conv, int64_t *n_nan,
                             int64_t *n_inf)
{
    if (v->fast == 0) bmvpi_nii_gather_rows(to, v, conv, n_nan, n_inf);
    else bmvpi_nii_gather_tiles(to, v, conv, n_nan, n_inf);
}

/* Takes an orientation apart: which input axis each output axis is and whether it runs backwards. NULL = as it is. */
static bmvp_status bmvpi_nii_reorder(int from[3], int flip[3], const double affine[16], const char *axcodes,
                                     bmvp_error *err)
{
    static const char letters[3][3] = {"LR", "PA", "IS"};
    int axis[3], backwards[3], i, k, a, seen = 0;
    bmvp_status s;
    for (i = 0; i < 3; ++i) {
        from[i] = i;
        flip[i] = 0;
    }
    if (!axcodes) return BMVP_OK;
    if (strlen(axcodes) != 3) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "axcodes \"%.16s\" are not three"
                                                    " letters", axcodes);
    if ((s = bmvp_nii_orientation(axis, backwards, affine, err)) != BMVP_OK) return s;
    for (i = 0; i < 3; ++i) {
        for (a = 0; a < 3; ++a)
            if (axcodes[i] == letters[a][0] || axcodes[i] == letters[a][1]) break;
        if (a == 3 || (seen & 1 << a) != 0)
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "axcodes \"%s\" are not one letter each of LR, PA"
                                  " and IS", axcodes);
        seen |= 1 << a;
        for (k = 0; k < 3; ++k)
            if (axis[k] == a) {
                from[i] = k;
                flip[i] = backwards[k] != (axcodes[i] == letters[a][0]);
            }
    }
    return BMVP_OK;
}

/* View and affine of a reordered 3-D grid. */
static void bmvpi_nii_view_make(bmvpi_nii_view *v, double out_affine[16], const int64_t dim[3], const double affine[16],
                                const int from[3], const int flip[3])
{
    const int64_t step[3] = {1, dim[0], dim[0] * dim[1]};
    double turn[16] = {0};
    int i;
    v->start = 0;
    turn[15] = 1;
    for (i = 0; i < 3; ++i) {
        int k = from[i];
        v->dim[i] = dim[k];
        v->step[i] = flip[i] ? -step[k] : step[k];
        if (flip[i]) v->start += (dim[k] - 1) * step[k];
        if (k == 0) v->fast = i;
        turn[4 * k + i] = flip[i] ? -1 : 1;
        turn[4 * k + 3] = flip[i] ? (double)(dim[k] - 1) : 0;
    }
    bmvpi_nii_matmul(out_affine, affine, turn);
}

BMVP_API void bmvp_nii_volume_free(bmvp_nii_volume *volume)
{
    if (!volume) return;
    bmvpi_nii_free(&volume->allocator, volume->block);
    memset(volume, 0, sizeof *volume);
}

/* A volume whose voxels are not set. */
static bmvp_status bmvpi_nii_new_volume(bmvp_nii_volume *volume, const int64_t dim[3], const double affine[16],
                                        const bmvpi_nii_io *io)
{
    bmvp_status s;
    int64_t n;
    memset(volume, 0, sizeof *volume);
    if (!bmvpi_nii_count(&n, dim))
        return bmvpi_nii_fail(io->err, BMVP_E_OOM, io->name, "a volume of %lld x %lld x %lld voxels is too large",
                              (long long)dim[0], (long long)dim[1], (long long)dim[2]);
    if ((s = bmvpi_nii_take(&volume->block, io, n * 4)) != BMVP_OK) return s;
    volume->allocator = io->allocator;
    volume->data = (float *)volume->block;
    memcpy(volume->dim, dim, sizeof volume->dim);
    memcpy(volume->affine, affine, sizeof volume->affine);
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_volume_create(bmvp_nii_volume *volume, const int64_t dim[3],
                                            const double affine[16], const bmvp_nii_options *options,
                                            bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, options, err);
    double one[16];
    bmvp_status s;
    bmvpi_nii_identity(one);
    if (volume) memset(volume, 0, sizeof *volume);
    if (!volume || !dim) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume or dim is NULL");
    s = bmvpi_nii_new_volume(volume, dim, affine ? affine : one, &io);
    if (s == BMVP_OK) memset(volume->data, 0, (size_t)(dim[0] * dim[1] * dim[2]) * sizeof(float));
    return s;
}

static bmvpi_nii_io bmvpi_nii_io_of(const bmvp_nii_volume *volume, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, NULL, err);
    io.allocator = volume->allocator;
    io.max_bytes = INT64_MAX;
    return io;
}

BMVP_API bmvp_status bmvp_nii_volume_copy(bmvp_nii_volume *copy, const bmvp_nii_volume *volume,
                                          bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_of(volume, err);
    bmvp_status s = bmvpi_nii_new_volume(copy, volume->dim, volume->affine, &io);
    if (s != BMVP_OK) return s;
    memcpy(copy->data, volume->data, (size_t)(volume->dim[0] * volume->dim[1] * volume->dim[2]) * sizeof(float));
    copy->n_nan = volume->n_nan;
    copy->n_inf = volume->n_inf;
    return s;
}

/* What to_volume and read_volume decide before they touch voxels. */
typedef struct bmvpi_nii_plan {
    bmvpi_nii_conv conv;
    bmvpi_nii_view view;
    double affine[16];
    int64_t t;
    int by_qform;
    double forms_apart;
} bmvpi_nii_plan;

/* A volume holds one number a voxel: an image of several must be told which. */
static bmvp_status bmvpi_nii_one_number(const bmvp_nii_image *image, const bmvp_nii_load *how, int64_t n_t,
                                        const bmvpi_nii_io *io)
{
    char dims[160];
    size_t used = 0;
    int i;
    const int type = image->datatype, vector = image->intent_code >= 1004 && image->intent_code <= 1009;
    const int parts = type == BMVP_NII_RGB24 || type == BMVP_NII_RGBA32 || type == BMVP_NII_COMPLEX64 ||
                      type == BMVP_NII_COMPLEX128;
    if (how && how->first) return BMVP_OK;
    if ((n_t == 1 || (how && how->t != 0)) && (!parts || (how && how->component != 0))) return BMVP_OK;
    for (i = 0; i < image->ndim; ++i)
        used += (size_t)snprintf(dims + used, sizeof dims - used, i > 0 ? " x %lld" : "%lld", (long long)image->dim[i]);
    if (n_t > 1)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim is %s: %lld %s, not one number a voxel; split the"
                              " file, or say which one to take", dims, (long long)n_t,
                              vector ? "components of vectors" : "volumes");
    return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "dim is %s, datatype %s: not one number a voxel; split the"
                          " file, or say which one to take", dims, bmvp_nii_datatype_text(type));
}

/* Units that were written wrongly show in the size of voxels: 1 mm read as a metre or a micron is 1000 or 0.001 mm. */
static bmvp_status bmvpi_nii_check_units(const double affine[16], const bmvp_nii_image *image, const bmvpi_nii_io *io)
{
    double mm[3];
    int a;
    if (!bmvpi_nii_finite16(affine) || fabs(bmvp_nii_unit_mm(image) - 1) <= 0) return BMVP_OK;
    bmvp_nii_voxel_size(mm, affine);
    for (a = 0; a < 3; ++a)
        if (!(mm[a] >= 0.01 && mm[a] <= 100))
            return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "xyzt_units is %d (%s) and pixdim[%d] %g: voxels of"
                                  " %g mm; set xyzt_units to what the lengths are in (2: mm)", image->xyzt_units & 7,
                                  (image->xyzt_units & 7) == 1 ? "metre" : "micron", a + 1, image->pixdim[a + 1],
                                  mm[a]);
    return BMVP_OK;
}

/* bmvpi_nii_reorder of an image's axes; what is wrong with its affine is said with the file and the field. */
static bmvp_status bmvpi_nii_order_axes(int from[3], int flip[3], const double affine[16], const bmvp_nii_image *image,
                                        const bmvp_nii_load *how, const bmvpi_nii_io *io)
{
    const int by_sform = image->affine_source == BMVP_NII_AFFINE_SFORM;
    bmvp_error e;
    bmvp_status s;
    if (!bmvpi_nii_finite16(affine))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "%s %d: %s not finite; repair the header",
                              by_sform ? "sform_code is" : "qform_code is",
                              by_sform ? image->sform_code : image->qform_code,
                              by_sform ? "srow_x, srow_y or srow_z is" : "quatern, qoffset or pixdim is");
    if (how && how->axcodes && bmvpi_nii_singular(affine))
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "%s: it is singular: axes that lie in one plane%s",
                              bmvp_nii_affine_reason(image->affine_source),
                              by_sform ? ", and no qform (qform_code > 0) stands for it; repair the header" : "");
    s = bmvpi_nii_reorder(from, flip, affine, how ? how->axcodes : NULL, &e);
    return s == BMVP_OK ? s : bmvpi_nii_fail(io->err, s, io->name, "%s", e.message);
}

/* The affine to load with. 1: it is the qform, and the sform says another place. apart: forms_apart of the volume. */
static int bmvpi_nii_load_affine(double affine[16], double *apart, const bmvp_nii_image *image, int keep)
{
    bmvp_nii_volume q, sform;
    bmvp_nii_affine_source from;
    double mm[3];
    *apart = 0;
    memcpy(affine, image->affine, sizeof image->affine);
    if (keep) return 0;
    from = bmvp_nii_rectify_affine(affine, image);
    bmvp_nii_voxel_size(mm, affine);
    if (from == BMVP_NII_AFFINE_SFORM) *apart = bmvp_nii_forms_apart(image);
    if (!(*apart > fmax(fmax(mm[0], mm[1]), mm[2]))) *apart = 0;
    if (from != BMVP_NII_AFFINE_RECTIFIED) return 0;
    memset(&q, 0, sizeof q);
    memcpy(q.dim, image->dim, sizeof q.dim);
    memcpy(q.affine, affine, sizeof q.affine);
    sform = q;
    memcpy(sform.affine, image->affine, sizeof sform.affine);
    return !bmvp_nii_one_grid(&q, &sform);
}

static bmvp_status bmvpi_nii_make_plan(bmvpi_nii_plan *plan, const bmvp_nii_image *image, const bmvp_nii_load *how,
                                       const bmvpi_nii_io *io)
{
    double affine[16];
    int from[3], flip[3];
    int64_t n, n_t = image->dim[3] * image->dim[4] * image->dim[5] * image->dim[6];
    bmvp_status s = bmvpi_nii_make_conv(&plan->conv, image, how, io->name, io->err);
    if (s != BMVP_OK) return s;
    plan->t = how ? how->t : 0;
    if (plan->t < 0 || plan->t >= n_t)
        return bmvpi_nii_fail(io->err, BMVP_E_ARG, io->name, "volume t = %lld, the image has %lld",
                              (long long)plan->t, (long long)n_t);
    if (how && how->of > 0 && how->of != n_t)
        return bmvpi_nii_fail(io->err, BMVP_E_FORMAT, io->name, "the image has %lld volumes, not the %lld that are"
                              " said", (long long)n_t, (long long)how->of);
    if ((s = bmvpi_nii_one_number(image, how, n_t, io)) != BMVP_OK) return s;
    plan->by_qform = bmvpi_nii_load_affine(affine, &plan->forms_apart, image, how && how->keep_affine);
    if ((s = bmvpi_nii_check_units(affine, image, io)) != BMVP_OK) return s;
    s = bmvpi_nii_order_axes(from, flip, affine, image, how, io);
    if (s != BMVP_OK) return s;
    if (!bmvpi_nii_count(&n, image->dim))
        return bmvpi_nii_fail(io->err, BMVP_E_OOM, io->name, "dim: one volume of %lld x %lld x %lld is too large",
                              (long long)image->dim[0], (long long)image->dim[1], (long long)image->dim[2]);
    bmvpi_nii_view_make(&plan->view, plan->affine, image->dim, affine, from, flip);
    plan->view.from = (const unsigned char *)image->data;
    plan->view.start += plan->t * n;
    return s;
}

static bmvp_status bmvpi_nii_convert(bmvp_nii_volume *volume, const bmvp_nii_image *image, const bmvp_nii_load *how,
                                     const bmvpi_nii_io *io)
{
    bmvpi_nii_plan plan;
    bmvp_status s = bmvpi_nii_make_plan(&plan, image, how, io);
    if (s == BMVP_OK) s = bmvpi_nii_new_volume(volume, plan.view.dim, plan.affine, io);
    if (s != BMVP_OK) return s;
    volume->by_qform = plan.by_qform;
    volume->forms_apart = plan.forms_apart;
    bmvpi_nii_gather(volume->data, &plan.view, &plan.conv, &volume->n_nan, &volume->n_inf);
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_to_volume(bmvp_nii_volume *volume, const bmvp_nii_image *image,
                                        const bmvp_nii_load *how, const bmvp_nii_options *options,
                                        bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, options, err);
    if (volume) memset(volume, 0, sizeof *volume);
    if (!volume || !image || !image->data)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume is NULL or image has no data");
    return bmvpi_nii_convert(volume, image, how, &io);
}

/* An image whose data are the wanted float32 voxels already gives its block to the volume. 1 when it did. */
static int bmvpi_nii_hand_over(bmvp_nii_volume *volume, bmvp_nii_image *image, const bmvp_nii_load *how,
                               const bmvpi_nii_io *io, bmvp_status *s)
{
    bmvpi_nii_plan plan;
    int64_t n;
    *s = bmvpi_nii_make_plan(&plan, image, how, io);
    if (*s != BMVP_OK) return 1;
    n = plan.view.dim[0] * plan.view.dim[1] * plan.view.dim[2];
    if (image->datatype != BMVP_NII_FLOAT32 || plan.conv.scaled || n != image->n_voxels || plan.view.start != 0 ||
        plan.view.step[0] != 1 || plan.view.step[1] != image->dim[0]) return 0;
    volume->block = image->block;
    volume->data = (float *)image->data;
    volume->allocator = image->allocator;
    memcpy(volume->dim, plan.view.dim, sizeof volume->dim);
    memcpy(volume->affine, plan.affine, sizeof volume->affine);
    volume->by_qform = plan.by_qform;
    volume->forms_apart = plan.forms_apart;
    image->block = NULL;
    bmvpi_nii_check_row(volume->data, n, &plan.conv, &volume->n_nan, &volume->n_inf);
    return 1;
}

BMVP_API bmvp_status bmvp_nii_read_volume(bmvp_nii_volume *volume, const char *path, const bmvp_nii_load *how,
                                          const bmvp_nii_options *options, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(path, options, err);
    bmvp_nii_image image;
    bmvp_status s;
    if (!volume) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume is NULL");
    memset(volume, 0, sizeof *volume);
    s = bmvp_nii_read(&image, path, options, err);
    if (s == BMVP_OK && !bmvpi_nii_hand_over(volume, &image, how, &io, &s))
        s = bmvpi_nii_convert(volume, &image, how, &io);
    bmvp_nii_image_free(&image);
    return s;
}

/* Range of an integer type that from_volume writes; 0 for float types, -1 for others. */
static int bmvpi_nii_type_range(int datatype, double *low, double *high)
{
    switch (datatype) {
        case BMVP_NII_UINT8:  *low = 0; *high = 255; return 1;
        case BMVP_NII_INT8:   *low = -128; *high = 127; return 1;
        case BMVP_NII_UINT16: *low = 0; *high = 65535; return 1;
        case BMVP_NII_INT16:  *low = -32768; *high = 32767; return 1;
        case BMVP_NII_INT32:  *low = -2147483648.0; *high = 2147483647; return 1;
        case BMVP_NII_FLOAT32: case BMVP_NII_FLOAT64: *low = *high = 0; return 0;
        default: *low = *high = 0; return -1;
    }
}

/* Slope and intercept that bring all finite values into [low, high]. */
static void bmvpi_nii_choose_scaling(double *slope, double *inter, const float *x, int64_t n, double low, double high)
{
    double least = 0, most = 0;
    int64_t i;
    int whole = 1, any = 0;
    for (i = 0; i < n; ++i) {
        double v = (double)x[i];
        if (!bmvpi_nii_finite(v)) continue;
        if (!any || v < least) least = v;
        if (!any || v > most) most = v;
        any = 1;
        if (whole && fabs(v - floor(v)) > 0) whole = 0;
    }
    *slope = 1;
    *inter = 0;
    if (whole && least >= low && most <= high) return;
    if (most > least) *slope = (double)(float)((most - least) / (high - low));
    if (!(*slope > 0)) *slope = 1;
    *inter = (double)(float)(least - *slope * low);
}

static double bmvpi_nii_quantise(double v, double low, double high, int64_t *clamped)
{
    const double round_half_even = 6755399441055744.0;      /* 1.5 x 2^52: its last bit is worth 1 */
    double kept = v >= low ? v : low;
    if (kept > high) kept = high;
    kept = kept + round_half_even - round_half_even;
    if (!(v >= low - 0.5 && v <= high + 0.5)) {
        *clamped += 1;
        if (!(v == v)) kept = low > 0 ? low : 0;            /* NaN */
    }
    return kept;
}

/* Rounds a block by multiplication, four times as fast as by division. 0 when one of its numbers lies so near to a half
   or to the end of the range that only the division can tell, or is not finite. */
static int bmvpi_nii_round_block(int32_t *to, const float *x, double factor, double inter, double low, double high)
{
    const double round_half_even = 6755399441055744.0, half = 0.49999;
    uint64_t any = 0, to_sign;
    int k;
    memcpy(&to_sign, &half, 8);
    to_sign = 0x8000000000000000u - to_sign;                /* brings the bits of a number >= half to the sign bit */
    for (k = 0; k < BMVPI_NII_LANES; ++k) {
        const double q = ((double)x[k] - inter) * factor, sum = q + round_half_even, whole = sum - round_half_even;
        const double off = fabs(q - whole), over = whole - low, under = high - whole;
        uint64_t bits, off_bits, over_bits, under_bits;
        memcpy(&bits, &sum, 8);
        memcpy(&off_bits, &off, 8);
        memcpy(&over_bits, &over, 8);
        memcpy(&under_bits, &under, 8);
        any |= (off_bits + to_sign) | over_bits | under_bits;
        to[k] = (int32_t)(uint32_t)bits;                    /* the last bits of the sum are the whole number */
    }
    return any >> 63 == 0;
}

#define BMVPI_NII_STORE(type)                                                                                       \
    do {                                                                                                             \
        type *to = (type *)image->data;                                                                              \
        for (i = 0; i < n; i += m) {                                                                                 \
            m = bmvpi_nii_min(n - i, BMVPI_NII_LANES);                                                               \
            if (m == BMVPI_NII_LANES && keeps_zero && bmvpi_nii_zero_block(x + i))                                   \
                memset(to + i, 0, BMVPI_NII_LANES * sizeof to[0]);                                                   \
            else if (m == BMVPI_NII_LANES && bmvpi_nii_round_block(whole, x + i, 1 / slope, inter, low, high))       \
                for (k = 0; k < BMVPI_NII_LANES; ++k) to[i + k] = (type)whole[k];                                    \
            else                                                                                                     \
                for (k = 0; k < m; ++k)                                                                              \
                    to[i + k] = (type)bmvpi_nii_quantise(((double)x[i + k] - inter) / slope, low, high, &clamped);   \
        }                                                                                                            \
    } while (0)

static int64_t bmvpi_nii_store_voxels(bmvp_nii_image *image, const float *x, double slope, double inter)
{
    const int keeps_zero = !(fabs(inter) > 0);
    int64_t i, k, m, n = image->n_voxels, clamped = 0;
    int32_t whole[BMVPI_NII_LANES];
    double low, high;
    bmvpi_nii_type_range(image->datatype, &low, &high);
    switch (image->datatype) {
        case BMVP_NII_UINT8:  BMVPI_NII_STORE(uint8_t); break;
        case BMVP_NII_INT8:   BMVPI_NII_STORE(int8_t); break;
        case BMVP_NII_UINT16: BMVPI_NII_STORE(uint16_t); break;
        case BMVP_NII_INT16:  BMVPI_NII_STORE(int16_t); break;
        case BMVP_NII_INT32:  BMVPI_NII_STORE(int32_t); break;
        case BMVP_NII_FLOAT32:
            for (i = 0; i < n; ++i) ((float *)image->data)[i] = (float)(((double)x[i] - inter) / slope);
            break;
        default:
            for (i = 0; i < n; ++i) ((double *)image->data)[i] = ((double)x[i] - inter) / slope;
            break;
    }
    return clamped;
}
#undef BMVPI_NII_STORE

BMVP_API bmvp_status bmvp_nii_from_volume(bmvp_nii_image *image, const bmvp_nii_volume *volume, int datatype,
                                          double slope, double inter, int64_t *n_clamped,
                                          const bmvp_nii_options *options, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, options, err);
    bmvp_status s;
    double low, high;
    int64_t clamped;
    int kind = bmvpi_nii_type_range(datatype, &low, &high);
    if (image) memset(image, 0, sizeof *image);
    if (!image || !volume || !volume->data || kind < 0)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume is empty, or type %s cannot be written from"
                              " float32", bmvp_nii_datatype_text(datatype));
    slope = (double)(float)slope;
    inter = (double)(float)inter;
    if (!bmvpi_nii_finite(slope) || !bmvpi_nii_finite(inter))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "slope %g and intercept %g must be finite", slope, inter);
    s = bmvpi_nii_new_image(image, datatype, 3, volume->dim, volume->affine, &io);
    if (s != BMVP_OK) {
        bmvp_nii_image_free(image);
        return s;
    }
    if (!(fabs(slope) > 0)) {
        slope = 1;
        inter = 0;
        if (kind == 1) bmvpi_nii_choose_scaling(&slope, &inter, volume->data, image->n_voxels, low, high);
    }
    image->scl_slope = slope;
    image->scl_inter = inter;
    clamped = bmvpi_nii_store_voxels(image, volume->data, slope, inter);
    if (n_clamped) *n_clamped = clamped;
    return s;
}

BMVP_API bmvp_status bmvp_nii_write_volume(const char *path, const bmvp_nii_volume *volume, int datatype,
                                           double slope, double inter, int64_t *n_clamped,
                                           const bmvp_nii_write_options *how, bmvp_error *err)
{
    bmvp_nii_options options;
    bmvp_nii_image image;
    bmvp_status s;
    memset(&options, 0, sizeof options);
    if (volume) options.allocator = volume->allocator;
    s = bmvp_nii_from_volume(&image, volume, datatype, slope, inter, n_clamped, &options, err);
    if (s != BMVP_OK) return s;
    s = bmvp_nii_write(path, &image, how, err);
    bmvp_nii_image_free(&image);
    return s;
}

/* >>crop file -------------------------------------------------------------------------------------------------- */

BMVP_API void bmvp_nii_close(bmvp_nii_file *file)
{
    if (!file) return;
    if (file->fd >= 0 && file->image.ndim > 0) bmvpi_sys_close(file->fd); /* a zeroed struct owns no descriptor */
    bmvp_nii_image_free(&file->image);
    file->fd = -1;
}

BMVP_API bmvp_status bmvp_nii_open(bmvp_nii_file *file, const char *path, const bmvp_nii_options *options,
                                   bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(path, options, err);
    bmvpi_nii_source source;
    bmvpi_nii_conv conv;
    char name[BMVPI_NII_PATH];
    bmvp_status s;
    if (!file) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "file is NULL");
    memset(file, 0, sizeof *file);
    file->fd = -1;
    if (!path) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "path is NULL");
    file->image.allocator = io.allocator;
    s = bmvpi_nii_open_image(&io, &file->image, &source, name, path, 1);
    if (s == BMVP_OK) {
        if (source.is_gzip)
            s = bmvpi_nii_fail(err, BMVP_E_UNSUPPORTED, io.name, "is gzip: boxes can only be read from uncompressed"
                               " files");
        else if (file->image.vox_offset + file->image.data_bytes > source.size)
            s = bmvpi_nii_fail(err, BMVP_E_FORMAT, io.name, "header declares %lld bytes of data at byte %lld,"
                               " the file has only %lld", (long long)file->image.data_bytes,
                               (long long)file->image.vox_offset, (long long)source.size);
        else
            s = bmvpi_nii_make_conv(&conv, &file->image, NULL, io.name, err);
        if (s == BMVP_OK) {
            file->fd = source.fd;
            source.fd = -1;
        }
        bmvpi_nii_source_close(&io, &source);
    }
    if (s != BMVP_OK) bmvp_nii_close(file);
    return s;
}

enum { BMVPI_NII_CHUNK = 32768 };

/* Rows [y0, y1) of one plane, columns [x0, x1) all inside of the volume, into dst rows of `pitch` numbers. Several
   rows are read at once with what lies between them, unless that is much more than the rows. */
static bmvp_status bmvpi_nii_read_rows(float *dst, int64_t pitch, const bmvp_nii_file *file,
                                       const bmvpi_nii_conv *conv, int64_t plane, const int64_t x[2],
                                       const int64_t y[2], bmvp_error *err)
{
    union { double align; unsigned char bytes[BMVPI_NII_CHUNK]; } chunk;
    const bmvp_nii_image *image = &file->image;
    const int64_t row = image->dim[0] * conv->size, want = (x[1] - x[0]) * conv->size;
    const int64_t at_once = want > BMVPI_NII_CHUNK || row > 8 * want ? 1 : 1 + (BMVPI_NII_CHUNK - want) / row;
    const int64_t piece = BMVPI_NII_CHUNK / conv->size;
    int64_t at, j, k, m, first = image->vox_offset + (plane * image->dim[1] * image->dim[0] + x[0]) * conv->size;
    bmvp_status s;
    for (at = y[0]; at < y[1]; at += m) {
        m = bmvpi_nii_min(at_once, y[1] - at);
        for (k = 0; k < x[1] - x[0]; k += piece) {          /* more than one piece only for very long rows (m is 1) */
            int64_t n = bmvpi_nii_min(piece, x[1] - x[0] - k), bytes = (m - 1) * row + n * conv->size;
            s = bmvpi_nii_pread(err, NULL, file->fd, chunk.bytes, bytes, first + at * row + k * conv->size);
            if (s != BMVP_OK) return s;
            for (j = 0; j < m; ++j) {
                unsigned char *p = chunk.bytes + j * row;
                if (image->is_swapped) bmvpi_nii_swap(p, n * conv->size, conv->unit);
                conv->row(dst + (at - y[0] + j) * pitch + k, p, n, conv);
            }
        }
    }
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_read_box(float *dst, const bmvp_nii_file *file, const bmvp_nii_box *box,
                                       int64_t t, bmvp_error *err)
{
    const bmvp_nii_image *image = &file->image;
    bmvpi_nii_conv conv;
    int64_t size[3], low[3], high[3], z, n, n_t = image->dim[3] * image->dim[4] * image->dim[5] * image->dim[6];
    int i;
    bmvp_status s;
    if (file->fd < 0 || t < 0 || t >= n_t)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "file is not open, or volume t = %lld does not exist",
                              (long long)t);
    if ((s = bmvpi_nii_make_conv(&conv, image, NULL, NULL, err)) != BMVP_OK) return s;
    for (i = 0; i < 3; ++i) {
        size[i] = box->end[i] - box->start[i];
        low[i] = bmvpi_nii_max(box->start[i], 0);
        high[i] = bmvpi_nii_max(bmvpi_nii_min(box->end[i], image->dim[i]), low[i]);
        if (size[i] < 0 || box->start[i] < -INT32_MAX || box->end[i] > (int64_t)INT32_MAX * 2)
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "box axis %d from %lld to %lld is not valid", i,
                                  (long long)box->start[i], (long long)box->end[i]);
    }
    if (!bmvpi_nii_count(&n, size)) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "box is too large");
    if (high[0] - low[0] < size[0] || high[1] - low[1] < size[1] || high[2] - low[2] < size[2])
        memset(dst, 0, (size_t)n * sizeof *dst);
    for (z = low[2]; z < high[2]; ++z) {
        const int64_t x[2] = {low[0], high[0]}, y[2] = {low[1], high[1]};
        float *to = dst + ((z - box->start[2]) * size[1] + (low[1] - box->start[1])) * size[0] + low[0] - box->start[0];
        if (x[1] == x[0] || y[1] == y[0]) break;
        s = bmvpi_nii_read_rows(to, size[0], file, &conv, t * image->dim[2] + z, x, y, err);
        if (s != BMVP_OK) return s;
    }
    return BMVP_OK;
}

/* >>orient ----------------------------------------------------------------------------------------------------- */

BMVP_API bmvp_status bmvp_nii_orientation(int axis[3], int flip[3], const double affine[16],
                                          bmvp_error *err)
{
    double m[9], r[9], length[3];
    int i, k;
    if (!bmvpi_nii_finite16(affine)) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "affine is not finite");
    bmvpi_nii_directions(m, length, affine);
    bmvpi_nii_polar(r, m);
    for (i = 0; i < 3; ++i) {
        int best = 0;
        for (k = 1; k < 3; ++k)
            if (fabs(r[3 * k + i]) > fabs(r[3 * best + i])) best = k;
        if (!(fabs(r[3 * best + i]) > 1e-8))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "axis %d has no direction in the affine", i);
        axis[i] = best;
        flip[i] = r[3 * best + i] < 0;
        for (k = 0; k < 3; ++k) r[3 * best + k] = 0;        /* a world axis is given away once */
    }
    return BMVP_OK;
}

BMVP_API void bmvp_nii_axcodes(char codes[4], const double affine[16])
{
    static const char letters[3][3] = {"RL", "AP", "SI"};
    int axis[3], flip[3], i;
    strcpy(codes, "???");
    if (bmvp_nii_orientation(axis, flip, affine, NULL) != BMVP_OK) return;
    for (i = 0; i < 3; ++i) codes[i] = letters[axis[i]][flip[i]];
}

BMVP_API double bmvp_nii_grid_distance(const bmvp_nii_volume *a, const bmvp_nii_volume *b)
{
    double most = 0;
    int corner, i, j;
    for (i = 0; i < 3; ++i)
        if (a->dim[i] != b->dim[i]) return HUGE_VAL;
    for (corner = 0; corner < 8; ++corner) {
        double sum = 0;
        for (i = 0; i < 3; ++i) {
            double d = a->affine[4 * i + 3] - b->affine[4 * i + 3];
            for (j = 0; j < 3; ++j)
                if (corner >> j & 1) d += (a->affine[4 * i + j] - b->affine[4 * i + j]) * (double)(a->dim[j] - 1);
            sum += d * d;
        }
        if (!(sum <= most)) most = sum;
    }
    return bmvpi_nii_finite(most) ? sqrt(most) : HUGE_VAL;
}

BMVP_API double bmvp_nii_forms_apart(const bmvp_nii_image *image)
{
    bmvp_nii_volume q, sform; /* grids alone */
    if (!(image->qform_code > 0 && image->sform_code > 0)) return 0;
    memset(&q, 0, sizeof q);
    memcpy(q.dim, image->dim, sizeof q.dim);
    sform = q;
    bmvp_nii_qform(q.affine, image);
    bmvp_nii_sform(sform.affine, image);
    return bmvp_nii_unit_mm(image) * bmvp_nii_grid_distance(&q, &sform);
}

BMVP_API int bmvp_nii_one_grid(const bmvp_nii_volume *a, const bmvp_nii_volume *b)
{
    double mm[3];
    bmvp_nii_voxel_size(mm, a->affine);
    return bmvp_nii_grid_distance(a, b) <= 0.05 * fmin(fmin(mm[0], mm[1]), mm[2]);
}

BMVP_API int bmvp_nii_same_grid(const bmvp_nii_volume *a, const bmvp_nii_volume *b, double rtol, double atol)
{
    int i;
    for (i = 0; i < 3; ++i)
        if (a->dim[i] != b->dim[i]) return 0;
    for (i = 0; i < 16; ++i)
        if (!(fabs(a->affine[i] - b->affine[i]) <= atol + rtol * fabs(b->affine[i]))) return 0;
    return 1;
}

/* Puts a finished volume in the place of the old one. */
static void bmvpi_nii_replace(bmvp_nii_volume *volume, bmvp_nii_volume *with)
{
    with->n_nan = volume->n_nan;
    with->n_inf = volume->n_inf;
    bmvpi_nii_free(&volume->allocator, volume->block);
    *volume = *with;
}

static bmvp_status bmvpi_nii_has_voxels(const bmvp_nii_volume *volume, bmvp_error *err)
{
    if (!volume || !volume->data || volume->dim[0] < 1 || volume->dim[1] < 1 || volume->dim[2] < 1)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume is NULL or empty");
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_orient(bmvp_nii_volume *volume, const char *axcodes, bmvp_error *err)
{
    bmvpi_nii_io io;
    bmvpi_nii_conv conv;
    bmvpi_nii_view view;
    bmvp_nii_volume out;
    double affine[16];
    int from[3], flip[3];
    int64_t unused = 0;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (s != BMVP_OK) return s;
    io = bmvpi_nii_io_of(volume, err);
    if ((s = bmvpi_nii_reorder(from, flip, volume->affine, axcodes, err)) != BMVP_OK) return s;
    bmvpi_nii_view_make(&view, affine, volume->dim, volume->affine, from, flip);
    if (view.start == 0 && view.fast == 0 && view.step[1] == volume->dim[0] && view.step[0] > 0) return BMVP_OK;
    if ((s = bmvpi_nii_new_volume(&out, view.dim, affine, &io)) != BMVP_OK) return s;
    memset(&conv, 0, sizeof conv);
    conv.row = bmvpi_nii_row_float32;
    conv.size = 4;
    view.from = (const unsigned char *)volume->data;
    bmvpi_nii_gather(out.data, &view, &conv, &unused, &unused);
    bmvpi_nii_replace(volume, &out);
    return BMVP_OK;
}

/* >>spacing ----------------------------------------------------------------------------------------------------
   MONAI decides the new grid (affine, size, whether anything changes) in float64; so does this section, in the same
   order of operations, because sizes are rounded at exact halves. Almost every volume is free of shear: then the
   old coordinates of a new voxel depend on one index per axis and three one-dimensional passes do the work. With shear
   the matrix from new to old voxels is still upper triangular, unless diag(mm) was asked for as the new affine. */

typedef struct bmvpi_nii_axis {                             /* new index -> two old ones, weight of the second */
    int64_t n;
    int32_t *i0, *i1;
    float *w;
} bmvpi_nii_axis;

/* Rotation-and-zoom part with columns of length mm: MONAI's zoom_affine. 0: not positive definite. */
static int bmvpi_nii_zoom(double out[16], const double affine[16], const double mm[3], int diagonal)
{
    double g[3][3], l[3][3] = {{0}}, z[3][3] = {{0}};
    int i, j, k;
    bmvpi_nii_identity(out);
    if (diagonal) {
        for (i = 0; i < 3; ++i) out[5 * i] = mm[i];
        return 1;
    }
    for (i = 0; i < 3; ++i)
        for (j = 0; j < 3; ++j)
            g[i][j] = affine[i] * affine[j] + affine[4 + i] * affine[4 + j] + affine[8 + i] * affine[8 + j];
    for (j = 0; j < 3; ++j) {                               /* g = l l' */
        double d = g[j][j];
        for (k = 0; k < j; ++k) d -= l[j][k] * l[j][k];
        if (!(d > 0)) return 0;
        l[j][j] = sqrt(d);
        for (i = j + 1; i < 3; ++i) {
            double s = g[i][j];
            for (k = 0; k < j; ++k) s -= l[i][k] * l[j][k];
            l[i][j] = s / l[j][j];
        }
    }
    for (j = 0; j < 3; ++j) {                               /* z = inverse of l', an upper triangle */
        z[j][j] = 1 / l[j][j];
        for (i = j - 1; i >= 0; --i) {
            double s = 0;
            for (k = i + 1; k <= j; ++k) s += l[k][i] * z[k][j];
            z[i][j] = -s / l[i][i];
        }
    }
    for (i = 0; i < 3; ++i)
        for (j = 0; j < 3; ++j) {
            double s = 0;
            for (k = 0; k <= j; ++k) s += affine[4 * i + k] * z[k][j];
            out[4 * i + j] = s * mm[j];
        }
    return 1;
}

/* m applied to the 8 corner voxels of a grid, the last axis fastest. */
static void bmvpi_nii_corners(double out[8][3], const double m[16], const int64_t dim[3])
{
    int c, i;
    for (c = 0; c < 8; ++c) {
        double x = c & 4 ? (double)(dim[0] - 1) : 0, y = c & 2 ? (double)(dim[1] - 1) : 0;
        double z = c & 1 ? (double)(dim[2] - 1) : 0;
        for (i = 0; i < 3; ++i) out[c][i] = m[4 * i] * x + m[4 * i + 1] * y + m[4 * i + 2] * z + m[4 * i + 3];
    }
}

/* Size of the new grid and its translation: MONAI's compute_shape_offset. */
static int bmvpi_nii_shape_offset(int64_t size[3], double target[16], const double affine[16], const int64_t dim[3])
{
    double m[16], mapped[8][3], world[8][3], low[3], high[3];
    int c, i, j;
    if (!bmvpi_nii_solve(m, target, affine)) return 0;
    bmvpi_nii_corners(mapped, m, dim);
    bmvpi_nii_corners(world, affine, dim);
    for (i = 0; i < 3; ++i) {
        low[i] = high[i] = mapped[0][i];
        for (c = 1; c < 8; ++c) {
            if (mapped[c][i] < low[i]) low[i] = mapped[c][i];
            if (mapped[c][i] > high[i]) high[i] = mapped[c][i];
        }
        if (!(high[i] - low[i] < 2147483646.0)) return 0;
        size[i] = (int64_t)rint(high[i] - low[i] + 1);
    }
    for (c = 0; c < 8; ++c) {
        for (i = 0; i < 3 && fabs(low[i] - mapped[c][i]) <= 1e-8; ++i) {}
        if (i < 3) continue;
        for (i = 0; i < 3; ++i) target[4 * i + 3] = world[c][i];
        return 1;
    }
    for (i = 0; i < 3; ++i) {                               /* shear: no corner is lowest on all axes: centres meet */
        double s = affine[4 * i + 3];
        for (j = 0; j < 3; ++j)
            s += affine[4 * i + j] * ((double)dim[j] / 2) - target[4 * i + j] * ((double)size[j] / 2);
        target[4 * i + 3] = s;
    }
    return 1;
}

static int bmvpi_nii_close(const double a[16], const double b[16])
{
    int i;
    for (i = 0; i < 16; ++i)
        if (!(fabs(a[i] - b[i]) <= 1e-3 + 1e-5 * fabs(b[i]))) return 0;
    return 1;
}

/* The new grid: size, xform (new voxel -> old voxel). *same: nothing to do. */
static bmvp_status bmvpi_nii_target(int64_t size[3], double xform[16], int *same, const bmvp_nii_volume *v,
                                    const double mm[3], const bmvp_nii_resample *how, bmvp_error *err)
{
    double length[3], step[3], target[16], one[16], box = 1, upright = 1;
    int i;
    if (!bmvpi_nii_finite16(v->affine)) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "affine is not finite");
    bmvp_nii_voxel_size(length, v->affine);
    for (i = 0; i < 3; ++i) {
        if (!bmvpi_nii_finite(mm[i]))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "voxel size %d is not finite", i);
        /* MONAI keeps a voxel size that is the wanted one to 1e-3 */
        step[i] = mm[i] > 0 && !(mm[i] - 1e-3 <= length[i] && length[i] <= mm[i] + 1e-3) ? mm[i] : length[i];
    }
    if (!bmvpi_nii_zoom(target, v->affine, step, how && how->diagonal) ||
        !bmvpi_nii_shape_offset(size, target, v->affine, v->dim) || !bmvpi_nii_solve(xform, v->affine, target))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "affine is singular, or voxels of %g x %g x %g mm make the"
                              " volume too large", step[0], step[1], step[2]);
    for (i = 0; i < 3; ++i) {
        if (how && how->dim[i] > 0) {
            size[i] = how->dim[i];
            continue;
        }
        box *= (double)size[i];
        upright *= (double)(v->dim[i] - 1) * length[i] / step[i] + 1;
    }
    if (!(box <= 64 * upright) && !(how && how->diagonal))  /* gantry tilt: not twice as many */
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "affine is sheared so far that the box about the volume has %.3g"
                              " voxels, %.3g without shear: is the file's sform or qform right?", box, upright);
    bmvpi_nii_identity(one);
    *same = size[0] == v->dim[0] && size[1] == v->dim[1] && size[2] == v->dim[2] &&
            (bmvpi_nii_close(v->affine, target) || bmvpi_nii_close(xform, one));
    return BMVP_OK;
}

static double bmvpi_nii_clamp(double q, int64_t n)
{
    return q > 0 ? (q < (double)(n - 1) ? q : (double)(n - 1)) : 0;
}

/* Old coordinate of new voxel i as PyTorch's affine_grid and grid_sample compute it, by way of [-1, 1]: at exact halves
   its rounding errors decide which voxel is nearest, so they are repeated here. */
static double bmvpi_nii_torch_coordinate(int64_t i, int64_t n_new, int64_t n_old, double scale, double shift)
{
    double in = (double)n_old, out = (double)n_new, step = 2 / (out - 1), base = 0, grow, theta, tau;
    if (n_new > 1) {
        base = i < n_new / 2 ? -1 + step * (double)i : 1 - step * (double)(n_new - 1 - i);
        base = base * (out - 1) / out;
    }
    grow = 1 / (2 / out);
    theta = 2 / in * scale;
    tau = theta * (-(1 / out - 1) * grow) + (2 / in * shift + (1 / in - 1));
    return ((base * (theta * grow) + tau + 1) * in - 1) / 2;
}

static void bmvpi_nii_axis_spacing(bmvpi_nii_axis *axis, int64_t n_old, double scale, double shift, int nearest)
{
    int64_t i;
    for (i = 0; i < axis->n; ++i) {
        double q = nearest ? rint(bmvpi_nii_clamp(bmvpi_nii_torch_coordinate(i, axis->n, n_old, scale, shift), n_old))
                           : bmvpi_nii_clamp(scale * (double)i + shift, n_old);
        double f = floor(q);
        axis->i0[i] = (int32_t)f;
        axis->i1[i] = nearest || f + 1 > (double)(n_old - 1) ? axis->i0[i] : axis->i0[i] + 1;
        axis->w[i] = (float)(q - f);
    }
}

/* Tables of three axes and `extra` floats behind them in one block. */
static bmvp_status bmvpi_nii_axes_make(bmvpi_nii_axis axis[3], void **block, float **floats, const int64_t size[3],
                                       int64_t extra, const bmvpi_nii_io *io)
{
    int64_t total = size[0] + size[1] + size[2];
    char *p;
    int a;
    bmvp_status s = bmvpi_nii_take(block, io, total * 12 + extra * 4);
    if (s != BMVP_OK) return s;
    p = (char *)*block;
    for (a = 0; a < 3; ++a) {
        axis[a].n = size[a];
        axis[a].i0 = (int32_t *)(void *)p;
        axis[a].i1 = axis[a].i0 + size[a];
        axis[a].w = (float *)(void *)(axis[a].i1 + size[a]);
        p += size[a] * 12;
    }
    *floats = (float *)(void *)p;
    return s;
}

/* to = a + w (b - a) */
static void bmvpi_nii_lerp(float *BMVP_RESTRICT to, const float *BMVP_RESTRICT a, const float *BMVP_RESTRICT b, float w,
                           int64_t n)
{
    int64_t i = 0;
    int k;
    for (; i + BMVPI_NII_LANES <= n; i += BMVPI_NII_LANES)
        for (k = 0; k < BMVPI_NII_LANES; ++k) to[i + k] = a[i + k] + w * (b[i + k] - a[i + k]);
    for (; i < n; ++i) to[i] = a[i] + w * (b[i] - a[i]);
}

static void bmvpi_nii_lerp_row(float *BMVP_RESTRICT to, const float *BMVP_RESTRICT row, const bmvpi_nii_axis *x)
{
    int64_t i;
    for (i = 0; i < x->n; ++i) {
        float a = row[x->i0[i]];
        to[i] = a + x->w[i] * (row[x->i1[i]] - a);
    }
}

/* One old plane at the new x and y. rows: two lines of work space. */
static void bmvpi_nii_lerp_plane(float *to, const float *plane, int64_t width, const bmvpi_nii_axis *x,
                                 const bmvpi_nii_axis *y, float *rows)
{
    int64_t j, held[2] = {-1, -1};
    int k;
    for (j = 0; j < y->n; ++j) {
        const int32_t need[2] = {y->i0[j], y->i1[j]};
        for (k = 0; k < 2; ++k)                             /* neighbours differ in parity: both are kept */
            if (held[need[k] & 1] != need[k]) {
                bmvpi_nii_lerp_row(rows + (need[k] & 1) * x->n, plane + need[k] * width, x);
                held[need[k] & 1] = need[k];
            }
        bmvpi_nii_lerp(to + j * x->n, rows + (need[0] & 1) * x->n, rows + (need[1] & 1) * x->n, y->w[j], x->n);
    }
}

/* Linear interpolation along three axes. work: 2 planes and 2 rows of the new size. */
static void bmvpi_nii_lerp_volume(float *to, const float *from, const int64_t dim[3], const bmvpi_nii_axis axis[3],
                                  float *work)
{
    const int64_t plane = axis[0].n * axis[1].n;
    int64_t z, held[2] = {-1, -1};
    int k;
    for (z = 0; z < axis[2].n; ++z) {
        const int32_t need[2] = {axis[2].i0[z], axis[2].i1[z]};
        for (k = 0; k < 2; ++k)
            if (held[need[k] & 1] != need[k]) {
                bmvpi_nii_lerp_plane(work + (need[k] & 1) * plane, from + need[k] * dim[0] * dim[1], dim[0], &axis[0],
                                     &axis[1], work + 2 * plane);
                held[need[k] & 1] = need[k];
            }
        bmvpi_nii_lerp(to + z * plane, work + (need[0] & 1) * plane, work + (need[1] & 1) * plane, axis[2].w[z], plane);
    }
}

static void bmvpi_nii_pick_volume(float *to, const float *from, const int64_t dim[3], const bmvpi_nii_axis axis[3])
{
    int64_t x, y, z;
    for (z = 0; z < axis[2].n; ++z)
        for (y = 0; y < axis[1].n; ++y, to += axis[0].n) {
            const float *row = from + (axis[2].i0[z] * dim[1] + axis[1].i0[y]) * dim[0];
            for (x = 0; x < axis[0].n; ++x) to[x] = row[axis[0].i0[x]];
        }
}

static float bmvpi_nii_sample(const float *from, const int64_t dim[3], double qx, double qy, double qz, int nearest)
{
    double q[3], c = 0, w[3][2];
    int64_t at[3][2];
    int a, i, j, k;
    q[0] = qx; q[1] = qy; q[2] = qz;
    for (a = 0; a < 3; ++a) {
        double v = bmvpi_nii_clamp(q[a], dim[a]), f = nearest ? rint(v) : floor(v);
        at[a][0] = (int64_t)f;
        at[a][1] = bmvpi_nii_min(at[a][0] + 1, dim[a] - 1);
        w[a][1] = v - f;
        w[a][0] = 1 - w[a][1];
    }
    if (nearest) return from[(at[2][0] * dim[1] + at[1][0]) * dim[0] + at[0][0]];
    for (k = 0; k < 2; ++k)
        for (j = 0; j < 2; ++j)
            for (i = 0; i < 2; ++i)
                c += w[2][k] * w[1][j] * w[0][i] * (double)from[(at[2][k] * dim[1] + at[1][j]) * dim[0] + at[0][i]];
    return (float)c;
}

/* Any xform, voxel by voxel. */
static void bmvpi_nii_sample_volume(bmvp_nii_volume *out, const bmvp_nii_volume *v, const double m[16], int nearest)
{
    float *to = out->data;
    int64_t x, y, z;
    for (z = 0; z < out->dim[2]; ++z)
        for (y = 0; y < out->dim[1]; ++y)
            for (x = 0; x < out->dim[0]; ++x) {
                double i = (double)x, j = (double)y, k = (double)z;
                *to++ = bmvpi_nii_sample(v->data, v->dim, m[0] * i + m[1] * j + m[2] * k + m[3],
                                         m[4] * i + m[5] * j + m[6] * k + m[7], m[8] * i + m[9] * j + m[10] * k + m[11],
                                         nearest);
            }
}

/* An upper triangular xform: what float32 rounding of an oblique sform leaves of shear. y and z are the same along a
   new row, so four old rows are mixed first, then read at steps of x. work: three old rows. */
static void bmvpi_nii_sample_rows(bmvp_nii_volume *out, const bmvp_nii_volume *v, const double m[16], int nearest,
                                  float *work)
{
    const double round_half_even = 4503599627370496.0;      /* 2^52: a sum with it has no fraction left */
    const int64_t n = v->dim[0];
    float *to = out->data, *t0 = work, *t1 = work + n, *mixed = work + 2 * n;
    int64_t x, y, z;
    for (z = 0; z < out->dim[2]; ++z)
        for (y = 0; y < out->dim[1]; ++y, to += out->dim[0]) {
            const double qz = bmvpi_nii_clamp(m[10] * (double)z + m[11], v->dim[2]);
            const double qy = bmvpi_nii_clamp(m[5] * (double)y + m[6] * (double)z + m[7], v->dim[1]);
            const double base = m[1] * (double)y + m[2] * (double)z + m[3];
            const int64_t z0 = (int64_t)qz, z1 = bmvpi_nii_min(z0 + 1, v->dim[2] - 1);
            const int64_t y0 = (int64_t)qy, y1 = bmvpi_nii_min(y0 + 1, v->dim[1] - 1);
            const float *row = v->data + ((int64_t)rint(qz) * v->dim[1] + (int64_t)rint(qy)) * n;
            if (nearest) {
                for (x = 0; x < out->dim[0]; ++x)
                    to[x] = row[(int64_t)(bmvpi_nii_clamp(m[0] * (double)x + base, n) + round_half_even -
                                          round_half_even)];
                continue;
            }
            row = v->data + z0 * v->dim[1] * n;
            bmvpi_nii_lerp(t0, row + y0 * n, row + y1 * n, (float)(qy - (double)y0), n);
            row = v->data + z1 * v->dim[1] * n;
            bmvpi_nii_lerp(t1, row + y0 * n, row + y1 * n, (float)(qy - (double)y0), n);
            bmvpi_nii_lerp(mixed, t0, t1, (float)(qz - (double)z0), n);
            for (x = 0; x < out->dim[0]; ++x) {
                const double q = bmvpi_nii_clamp(m[0] * (double)x + base, n);
                const int64_t i0 = (int64_t)q, i1 = i0 + (i0 < n - 1);
                to[x] = mixed[i0] + (float)(q - (double)i0) * (mixed[i1] - mixed[i0]);
            }
        }
}

/* Largest shift, in old voxels, that the elements of xform named by the bits of `which` make across the new grid. */
static double bmvpi_nii_influence(const double m[16], const int64_t size[3], int which)
{
    double most = 0;
    int i, j;
    for (i = 0; i < 3; ++i)
        for (j = 0; j < 3; ++j)
            if (which >> (3 * i + j) & 1) most = fmax(most, fabs(m[4 * i + j]) * (double)size[j]);
    return most;
}

/* Chooses the fastest way that is exact: axes one after another, rows, or voxel by voxel. */
static bmvp_status bmvpi_nii_resample_volume(bmvp_nii_volume *out, const bmvp_nii_volume *v, const double m[16],
                                             int nearest, const bmvpi_nii_io *io)
{
    const int off_diagonal = 0xee, below_diagonal = 0xc8;   /* bit 3 i + j is element (i, j) */
    bmvpi_nii_axis axis[3];
    void *block;
    float *work;
    int a;
    bmvp_status s = bmvpi_nii_axes_make(axis, &block, &work, out->dim,
                                        3 * v->dim[0] + 2 * out->dim[0] * (out->dim[1] + 1), io);
    if (s != BMVP_OK) return s;
    for (a = 0; a < 3; ++a) bmvpi_nii_axis_spacing(&axis[a], v->dim[a], m[5 * a], m[4 * a + 3], nearest);
    if (!(bmvpi_nii_influence(m, out->dim, below_diagonal) < 1e-6)) bmvpi_nii_sample_volume(out, v, m, nearest);
    else if (!(bmvpi_nii_influence(m, out->dim, off_diagonal) < 1e-6)) bmvpi_nii_sample_rows(out, v, m, nearest, work);
    else if (nearest) bmvpi_nii_pick_volume(out->data, v->data, v->dim, axis);
    else bmvpi_nii_lerp_volume(out->data, v->data, v->dim, axis, work);
    bmvpi_nii_free(&io->allocator, block);
    return s;
}

BMVP_API bmvp_status bmvp_nii_spacing(bmvp_nii_volume *volume, const double mm[3], const bmvp_nii_resample *how,
                                      bmvp_error *err)
{
    bmvpi_nii_io io;
    bmvp_nii_volume out;
    double xform[16], affine[16];
    int64_t size[3];
    int same = 0, mode = how ? how->mode : BMVP_NII_LINEAR;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (s != BMVP_OK) return s;
    if (mode != BMVP_NII_LINEAR && mode != BMVP_NII_NEAREST)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "spacing knows LINEAR and NEAREST, mode is %d", mode);
    s = bmvpi_nii_target(size, xform, &same, volume, mm, how, err);
    if (s != BMVP_OK || same) return s;
    bmvpi_nii_matmul(affine, volume->affine, xform);
    io = bmvpi_nii_io_of(volume, err);
    if ((s = bmvpi_nii_new_volume(&out, size, affine, &io)) != BMVP_OK) return s;
    s = bmvpi_nii_resample_volume(&out, volume, xform, mode == BMVP_NII_NEAREST, &io);
    if (s == BMVP_OK) bmvpi_nii_replace(volume, &out);
    else bmvp_nii_volume_free(&out);
    return s;
}

/* >>intensity --------------------------------------------------------------------------------------------------
   Order statistics without sorting: floats are mapped to integers of the same order and counted by their upper 16
   bits, then the few bins that hold wanted ranks by their lower 16. Two passes, exact, for any data. Of many numbers
   only those between two numbers of a sample go through this, the others are counted by comparing; when the sample
   misled, all do. */

enum { BMVPI_NII_MAX_Q = 8, BMVPI_NII_BINS = 65536, BMVPI_NII_SAMPLE = 4096, BMVPI_NII_KEYS = 512 };

static uint32_t bmvpi_nii_key(uint32_t bits) { return bits ^ ((bits & 0x80000000u) ? 0xffffffffu : 0x80000000u); }

static float bmvpi_nii_unkey(uint32_t key)
{
    uint32_t bits = key & 0x80000000u ? key ^ 0x80000000u : ~key;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Counts keys by their upper half. Equal neighbours (background) are added up before they are counted: otherwise each
   waits for the one before. 1 when a NaN was met. */
static int bmvpi_nii_count_upper(int64_t *bins, const float *data, int64_t n)
{
    int64_t i, run = 0;
    uint32_t held = 0, nan = 0;
    for (i = 0; i < n; ++i) {
        uint32_t bits, bin;
        memcpy(&bits, data + i, 4);
        nan |= (bits & 0x7fffffffu) > 0x7f800000u;
        bin = bmvpi_nii_key(bits) >> 16;
        if (bin == held) {
            ++run;
        } else {
            bins[held] += run;
            held = bin;
            run = 1;
        }
    }
    bins[held] += run;
    return nan != 0;
}

/* Counts the lower halves of keys whose upper half has a place (1 and up) in `places`. */
static void bmvpi_nii_count_lower(int64_t *bins, const unsigned char *places, const float *data, int64_t n)
{
    int64_t i, run = 0;
    uint32_t held = 0;
    int64_t *held_bin = bins;
    for (i = 0; i < n; ++i) {
        uint32_t bits, key, place;
        memcpy(&bits, data + i, 4);
        key = bmvpi_nii_key(bits);
        place = places[key >> 16];
        if (place == 0) continue;
        if (key == held) {
            ++run;
        } else {
            *held_bin += run;
            held = key;
            held_bin = bins + (int64_t)(place - 1) * BMVPI_NII_BINS + (key & 0xffffu);
            run = 1;
        }
    }
    *held_bin += run;
}

/* Bin of a rank, which becomes the rank within the bin. */
static uint32_t bmvpi_nii_find_bin(const int64_t *bins, int64_t *rank)
{
    uint32_t b = 0;
    while (b < BMVPI_NII_BINS - 1 && *rank >= bins[b]) *rank -= bins[b++];
    return b;
}

/* values[i] = number of rank ranks[i] (0 = smallest); *has_nan instead when there is a NaN. */
static bmvp_status bmvpi_nii_count_ranks(float *values, int64_t *ranks, int n_ranks, int *has_nan,
                                         const float *data, int64_t n, const bmvpi_nii_io *io)
{
    uint32_t upper[2 * BMVPI_NII_MAX_Q];
    unsigned char *places;
    int64_t *bins, *lower;
    void *block, *more = NULL;
    int i, used = 0;
    bmvp_status s = bmvpi_nii_take(&block, io, BMVPI_NII_BINS * 9);
    if (s != BMVP_OK) return s;
    memset(block, 0, BMVPI_NII_BINS * 9);
    bins = (int64_t *)block;
    places = (unsigned char *)(bins + BMVPI_NII_BINS);
    *has_nan = bmvpi_nii_count_upper(bins, data, n);
    if (!*has_nan) {
        for (i = 0; i < n_ranks; ++i) {
            upper[i] = bmvpi_nii_find_bin(bins, &ranks[i]);
            if (places[upper[i]] == 0) places[upper[i]] = (unsigned char)++used;
        }
        s = bmvpi_nii_take(&more, io, (int64_t)used * BMVPI_NII_BINS * 8);
        if (s == BMVP_OK) {
            lower = (int64_t *)more;
            memset(lower, 0, (size_t)used * BMVPI_NII_BINS * 8);
            bmvpi_nii_count_lower(lower, places, data, n);
            for (i = 0; i < n_ranks; ++i) {
                const int64_t *own = lower + (int64_t)(places[upper[i]] - 1) * BMVPI_NII_BINS;
                values[i] = bmvpi_nii_unkey(upper[i] << 16 | bmvpi_nii_find_bin(own, &ranks[i]));
            }
        }
        bmvpi_nii_free(&io->allocator, more);
    }
    bmvpi_nii_free(&io->allocator, block);
    return s;
}

/* Two numbers, as signed keys, between which the ranks of a percentile most likely lie, and what was counted. */
typedef struct bmvpi_nii_bracket {
    int32_t low, high;
    int64_t below, up_to_low, up_to_high;                   /* numbers < low, <= low, <= high */
    float *inner;                                           /* those in between */
    int64_t n_inner, room;                                  /* room reached: too many, the bracket is of no use */
} bmvpi_nii_bracket;

static int32_t bmvpi_nii_signed_key(uint32_t bits) { return (int32_t)(bmvpi_nii_key(bits) ^ 0x80000000u); }

/* Brackets of n_q pairs of ranks: their places in a sample, four standard deviations to either side. */
static bmvp_status bmvpi_nii_make_brackets(bmvpi_nii_bracket *b, const int64_t *ranks, int n_q, int *has_nan,
                                           const float *data, int64_t n, const bmvpi_nii_io *io)
{
    const int64_t last = BMVPI_NII_SAMPLE - 1, step = n / BMVPI_NII_SAMPLE, rest = n % BMVPI_NII_SAMPLE;
    float sample[BMVPI_NII_SAMPLE], value[2 * BMVPI_NII_MAX_Q] = {0};
    int64_t place[2 * BMVPI_NII_MAX_Q], i;
    int j;
    bmvp_status s;
    memset(b, 0, (size_t)n_q * sizeof *b);
    for (i = 0; i <= last; ++i) sample[i] = data[i * step + i * rest / BMVPI_NII_SAMPLE];
    for (j = 0; j < n_q; ++j) {
        const double share = (double)ranks[2 * j] / (double)n, middle = share * (double)BMVPI_NII_SAMPLE;
        const double reach = 4 * sqrt(middle * (1 - share)) + 4;
        b[j].low = middle < reach ? INT32_MIN : 0;          /* open ends, else set below */
        b[j].high = middle + reach > (double)last ? INT32_MAX : 0;
        place[2 * j] = bmvpi_nii_max((int64_t)(middle - reach), 0);
        place[2 * j + 1] = bmvpi_nii_min((int64_t)(middle + reach), last);
    }
    s = bmvpi_nii_count_ranks(value, place, 2 * n_q, has_nan, sample, BMVPI_NII_SAMPLE, io);
    for (j = 0; j < n_q; ++j) {
        uint32_t bits[2];
        memcpy(bits, value + 2 * j, sizeof bits);
        if (b[j].low == 0) b[j].low = bmvpi_nii_signed_key(bits[0]);
        if (b[j].high == 0) b[j].high = bmvpi_nii_signed_key(bits[1]);
    }
    return s;
}

/* Signed keys of up to a chunk of numbers, the rest filled with infinity. 1 when a NaN was met. */
static int bmvpi_nii_chunk_keys(int32_t key[BMVPI_NII_KEYS], const float *data, int64_t n)
{
    uint32_t bits[BMVPI_NII_KEYS], nan = 0;
    int64_t k;
    memcpy(bits, data, (size_t)n * sizeof bits[0]);
    for (k = n; k < BMVPI_NII_KEYS; ++k) bits[k] = 0x7f800000u;
    for (k = 0; k < BMVPI_NII_KEYS; ++k) {
        key[k] = bmvpi_nii_signed_key(bits[k]);
        nan |= (bits[k] & 0x7fffffffu) + 0x007fffffu;
    }
    return nan >> 31 != 0;
}

/* Counts the keys of a chunk and keeps the numbers in between. */
static void bmvpi_nii_count_chunk(bmvpi_nii_bracket *b, const int32_t key[BMVPI_NII_KEYS], const float *data,
                                  int64_t n)
{
    const int32_t low = b->low, high = b->high;
    int32_t below = 0, up_to_low = 0, below_high = 0, up_to_high = 0;
    int64_t k, at = b->n_inner;
    for (k = 0; k < BMVPI_NII_KEYS; ++k) {
        below += key[k] < low;
        up_to_low += key[k] <= low;
        below_high += key[k] < high;
        up_to_high += key[k] <= high;
    }
    b->below += below;
    b->up_to_low += up_to_low;
    b->up_to_high += up_to_high;
    if (below_high <= up_to_low) return;
    if (at + (below_high - up_to_low) >= b->room) {
        b->n_inner = b->room;
        return;
    }
    for (k = 0; k < n; ++k) {                               /* no branch: each is written, the next over it or not */
        b->inner[at] = data[k];
        at += (key[k] > low) & (key[k] < high);
    }
    b->n_inner = at;
}

/* Counts n zeros; 0, with nothing counted, when a bracket would have to keep them. */
static int bmvpi_nii_count_zeros(bmvpi_nii_bracket *b, int n_q, int64_t n)
{
    const int32_t zero = bmvpi_nii_signed_key(0);
    int j;
    for (j = 0; j < n_q; ++j)
        if (zero > b[j].low && zero < b[j].high) return 0;
    for (j = 0; j < n_q; ++j) {
        b[j].below += zero < b[j].low ? n : 0;
        b[j].up_to_low += zero <= b[j].low ? n : 0;
        b[j].up_to_high += zero <= b[j].high ? n : 0;
    }
    return 1;
}

/* The number of a rank; *found 0 when the bracket does not hold it. */
static bmvp_status bmvpi_nii_rank_in_bracket(float *value, int64_t rank, const bmvpi_nii_bracket *b, int *found,
                                             const bmvpi_nii_io *io)
{
    int64_t inner = rank - b->up_to_low;
    int none;
    *found = rank >= b->below && rank < b->up_to_high && b->n_inner < b->room;
    if (*found && inner >= 0 && inner < b->n_inner)
        return bmvpi_nii_count_ranks(value, &inner, 1, &none, b->inner, b->n_inner, io);
    *value = bmvpi_nii_unkey((uint32_t)(inner < 0 ? b->low : b->high) ^ 0x80000000u);
    return BMVP_OK;
}

/* As count_ranks, of n_q pairs of ranks and many numbers; *found 0 when a bracket did not hold. */
static bmvp_status bmvpi_nii_sampled_ranks(float *values, const int64_t *ranks, int n_q, int *has_nan, int *found,
                                           const float *data, int64_t n, const bmvpi_nii_io *io)
{
    bmvpi_nii_bracket b[BMVPI_NII_MAX_Q];
    int32_t key[BMVPI_NII_KEYS];
    const int64_t room = n / 8;
    int64_t at;
    int j;
    void *block;
    bmvp_status s = bmvpi_nii_make_brackets(b, ranks, n_q, has_nan, data, n, io);
    *found = *has_nan;
    if (s != BMVP_OK || *has_nan) return s;
    if ((s = bmvpi_nii_take(&block, io, n_q * room * 4)) != BMVP_OK) return s;
    for (j = 0; j < n_q; ++j) {
        b[j].inner = (float *)block + j * room;
        b[j].room = room;
    }
    for (at = 0; at < n; at += BMVPI_NII_KEYS) {
        const int64_t m = bmvpi_nii_min(BMVPI_NII_KEYS, n - at);
        if (m == BMVPI_NII_KEYS && bmvpi_nii_zero_blocks(data + at, m / BMVPI_NII_LANES) &&
            bmvpi_nii_count_zeros(b, n_q, m)) continue;
        *has_nan |= bmvpi_nii_chunk_keys(key, data + at, m);
        for (j = 0; j < n_q; ++j) bmvpi_nii_count_chunk(&b[j], key, data + at, m);
    }
    *found = 1;
    for (j = 0; j < 2 * n_q && !*has_nan && *found && s == BMVP_OK; ++j)
        s = bmvpi_nii_rank_in_bracket(&values[j], ranks[j], &b[j / 2], found, io);
    bmvpi_nii_free(&io->allocator, block);
    return s;
}

static bmvp_status bmvpi_nii_order_statistics(float *values, int64_t *ranks, int n_q, int *has_nan,
                                              const float *data, int64_t n, const bmvpi_nii_io *io)
{
    int found = 0;
    bmvp_status s = BMVP_OK;
    if (n >= 16 * BMVPI_NII_SAMPLE) s = bmvpi_nii_sampled_ranks(values, ranks, n_q, has_nan, &found, data, n, io);
    if (s != BMVP_OK || found) return s;
    return bmvpi_nii_count_ranks(values, ranks, 2 * n_q, has_nan, data, n, io);
}

/* numpy.percentile: rank and interpolation in float64. */
static float bmvpi_nii_lerp_numpy(float a, float b, double g)
{
    double d = (double)(b - a);
    return (float)(g >= 0.5 ? (double)b - d * (1 - g) : (double)a + d * g);
}

/* torch.quantile: both in float32. */
static float bmvpi_nii_lerp_torch(float a, float b, float w)
{
    return w < 0.5f ? a + w * (b - a) : b - (b - a) * (1 - w);
}

BMVP_API bmvp_status bmvp_nii_percentiles(float *values, const double *q, int n_q, const float *data, int64_t n,
                                          const bmvp_allocator *memory, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(NULL, NULL, err);
    int64_t ranks[2 * BMVPI_NII_MAX_Q];
    double weight[BMVPI_NII_MAX_Q];
    float order[2 * BMVPI_NII_MAX_Q] = {0};
    int i, has_nan = 0;
    const int as_numpy = n > 1000000;
    bmvp_status s;
    if (!data || n < 1 || n_q < 1 || n_q > BMVPI_NII_MAX_Q)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%d percentiles (1 to %d) of %lld numbers", n_q,
                              (int)BMVPI_NII_MAX_Q, (long long)n);
    if (memory) io.allocator = *memory;
    for (i = 0; i < n_q; ++i) {
        double h, f;
        if (!(q[i] >= 0 && q[i] <= 100))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "percentile %g is not in 0..100", q[i]);
        h = as_numpy ? (double)(n - 1) * (q[i] / 100) : (double)((float)(q[i] / 100) * (float)(n - 1));
        f = floor(h);
        if (f > (double)(n - 1)) f = (double)(n - 1);
        ranks[2 * i] = (int64_t)f;
        ranks[2 * i + 1] = bmvpi_nii_min(ranks[2 * i] + (as_numpy || h > f), n - 1);
        weight[i] = h - f;
    }
    s = bmvpi_nii_order_statistics(order, ranks, n_q, &has_nan, data, n, &io);
    for (i = 0; i < n_q && s == BMVP_OK; ++i) {
        if (has_nan) values[i] = bmvpi_nii_unkey(0xffc00000u);
        else if (as_numpy) values[i] = bmvpi_nii_lerp_numpy(order[2 * i], order[2 * i + 1], weight[i]);
        else values[i] = bmvpi_nii_lerp_torch(order[2 * i], order[2 * i + 1], (float)weight[i]);
    }
    return s;
}

typedef struct bmvpi_nii_rescaling {
    float a, range, grow, low;
    const float *clip;                                      /* least and most; NULL: not clipped */
} bmvpi_nii_rescaling;

static void bmvpi_nii_rescale_block(float *x, const bmvpi_nii_rescaling *r)
{
    const float a = r->a, range = r->range, grow = r->grow, low = r->low;
    const float least = r->clip ? r->clip[0] : 0, most = r->clip ? r->clip[1] : 0;
    float v[BMVPI_NII_LANES];
    int k;
    memcpy(v, x, sizeof v);
    for (k = 0; k < BMVPI_NII_LANES; ++k) v[k] = (v[k] - a) / range * grow + low;
    if (r->clip)
        for (k = 0; k < BMVPI_NII_LANES; ++k) {             /* written so that NaN stays NaN, as torch.clamp */
            v[k] = v[k] < least ? least : v[k];
            v[k] = v[k] > most ? most : v[k];
        }
    memcpy(x, v, sizeof v);
}

static void bmvpi_nii_rescale(float *x, int64_t n, const bmvpi_nii_rescaling *r)
{
    float zero[BMVPI_NII_LANES] = {0}, rest[BMVPI_NII_LANES] = {0};
    int64_t i;
    bmvpi_nii_rescale_block(zero, r);                       /* what becomes of a block of zeros, once for all */
    for (i = 0; i + BMVPI_NII_LANES <= n; i += BMVPI_NII_LANES)
        if (bmvpi_nii_zero_block(x + i)) memcpy(x + i, zero, sizeof zero);
        else bmvpi_nii_rescale_block(x + i, r);
    memcpy(rest, x + i, (size_t)(n - i) * sizeof rest[0]);
    bmvpi_nii_rescale_block(rest, r);
    memcpy(x + i, rest, (size_t)(n - i) * sizeof rest[0]);
}

/* Percentiles of the voxels that are not 0; where these coincide, the range of all. */
static bmvp_status bmvpi_nii_sparse_range(float p[2], const double q[2], const bmvp_nii_volume *v, int64_t n,
                                          bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_of(v, err);
    int64_t i, m = 0;
    float *some, low = v->data[0], high = v->data[0];
    void *block;
    bmvp_status s;
    for (i = 0; i < n; ++i) {
        m += v->data[i] < 0 || v->data[i] > 0;
        if (v->data[i] < low) low = v->data[i];
        if (v->data[i] > high) high = v->data[i];
    }
    if (m == 0) return BMVP_OK;
    if ((s = bmvpi_nii_take(&block, &io, m * (int64_t)sizeof *some)) != BMVP_OK) return s;
    some = (float *)block;
    for (i = m = 0; i < n; ++i)
        if (v->data[i] < 0 || v->data[i] > 0) some[m++] = v->data[i];
    s = bmvp_nii_percentiles(p, q, 2, some, m, &v->allocator, err);
    bmvpi_nii_free(&io.allocator, block);
    if (s == BMVP_OK && p[0] >= p[1]) {
        p[0] = low;
        p[1] = high;
    }
    return s;
}

BMVP_API bmvp_status bmvp_nii_scale_percentiles(bmvp_nii_volume *volume, const bmvp_nii_scale *scale, float *ab,
                                                bmvp_error *err)
{
    double q[2], low, high;
    float p[2], clip[2];
    bmvpi_nii_rescaling how;
    int64_t i, n;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (s != BMVP_OK) return s;
    if (!scale || !(scale->lower <= scale->upper))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "lower percentile must not exceed the upper one");
    n = volume->dim[0] * volume->dim[1] * volume->dim[2];
    q[0] = scale->lower;
    q[1] = scale->upper;
    s = bmvp_nii_percentiles(p, q, 2, volume->data, n, &volume->allocator, err);
    if (s == BMVP_OK && scale->sparse && p[0] >= p[1]) s = bmvpi_nii_sparse_range(p, q, volume, n, err);
    if (s != BMVP_OK) return s;
    low = scale->b_min;
    high = scale->b_max;
    if (scale->relative) {
        low = (scale->b_max - scale->b_min) * (scale->lower / 100) + scale->b_min;
        high = (scale->b_max - scale->b_min) * (scale->upper / 100) + scale->b_min;
    }
    clip[0] = (float)low;
    clip[1] = (float)high;
    how.a = p[0];
    how.range = p[1] - p[0];
    how.grow = (float)(high - low);
    how.low = (float)low;
    how.clip = scale->clip ? clip : NULL;
    if (how.range < 0 || how.range > 0 || !(p[0] == p[0])) bmvpi_nii_rescale(volume->data, n, &how);
    else
        for (i = 0; i < n; ++i) volume->data[i] = volume->data[i] - p[0] + (float)low;
    if (ab) {
        ab[0] = p[0];
        ab[1] = p[1];
    }
    return s;
}

/* >>boxes ------------------------------------------------------------------------------------------------------ */

/* Which of a block of sixteen voxels are > 0, or have any bit set: only whether there is one. */
static int bmvpi_nii_any_hit(const float *x, int nonzero)
{
    int k, any = 0;
    if (bmvpi_nii_zero_block(x)) return 0;                  /* most blocks are */
    if (nonzero) return 1;
    for (k = 0; k < BMVPI_NII_LANES; ++k) any |= x[k] > 0;
    return any;
}

static int bmvpi_nii_hit(float x, int nonzero)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return nonzero ? bits != 0 : x > 0;
}

/* First hit of row[from .. to), to when there is none. */
static int64_t bmvpi_nii_first_hit(const float *row, int64_t from, int64_t to, int nonzero)
{
    while (from + BMVPI_NII_LANES <= to && !bmvpi_nii_any_hit(row + from, nonzero)) from += BMVPI_NII_LANES;
    while (from < to && !bmvpi_nii_hit(row[from], nonzero)) ++from;
    return from;
}

/* One beyond the last hit of row[from .. to), from when there is none. */
static int64_t bmvpi_nii_last_hit(const float *row, int64_t from, int64_t to, int nonzero)
{
    while (to - BMVPI_NII_LANES >= from && !bmvpi_nii_any_hit(row + to - BMVPI_NII_LANES, nonzero))
        to -= BMVPI_NII_LANES;
    while (to > from && !bmvpi_nii_hit(row[to - 1], nonzero)) --to;
    return to;
}

/* Grows the box by the hits of a volume. Of rows that reach into it only the two ends are looked at. */
static void bmvpi_nii_grow_box(bmvp_nii_box *box, const bmvp_nii_volume *v, int nonzero, int *found)
{
    int64_t y, z;
    for (z = 0; z < v->dim[2]; ++z)
        for (y = 0; y < v->dim[1]; ++y) {
            const float *row = v->data + (z * v->dim[1] + y) * v->dim[0];
            const int inside = *found && y >= box->start[1] && y < box->end[1] && z >= box->start[2] && z < box->end[2];
            const int64_t first = bmvpi_nii_first_hit(row, 0, inside ? box->start[0] : v->dim[0], nonzero);
            int64_t last;
            if (!inside && first == v->dim[0]) continue;
            last = bmvpi_nii_last_hit(row, *found ? box->end[0] : first, v->dim[0], nonzero);
            if (!*found) {
                box->start[0] = first; box->start[1] = y; box->start[2] = z;
                box->end[0] = last; box->end[1] = y + 1; box->end[2] = z + 1;
                *found = 1;
            }
            box->start[0] = bmvpi_nii_min(box->start[0], first);
            box->end[0] = bmvpi_nii_max(box->end[0], last);
            box->start[1] = bmvpi_nii_min(box->start[1], y);
            box->end[1] = bmvpi_nii_max(box->end[1], y + 1);
            box->start[2] = bmvpi_nii_min(box->start[2], z);
            box->end[2] = bmvpi_nii_max(box->end[2], z + 1);
        }
}

/* Smallest box around voxels > 0 of volumes on one grid. */
static bmvp_status bmvpi_nii_foreground(bmvp_nii_box *box, int *found, const bmvp_nii_volume *volumes, int n,
                                        bmvp_error *err)
{
    int i, a;
    memset(box, 0, sizeof *box);
    *found = 0;
    if (!volumes || n < 1) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "no volume");
    for (i = 0; i < n; ++i) {
        bmvp_status s = bmvpi_nii_has_voxels(&volumes[i], err);
        if (s != BMVP_OK) return s;
        for (a = 0; a < 3; ++a)
            if (volumes[i].dim[a] != volumes[0].dim[a])
                return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "volume %d has %lld voxels on axis %d, volume 0"
                                      " has %lld", i, (long long)volumes[i].dim[a], a, (long long)volumes[0].dim[a]);
        bmvpi_nii_grow_box(box, &volumes[i], 0, found);
    }
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_foreground_box(bmvp_nii_box *box, const bmvp_nii_volume *volumes, int n,
                                             int64_t margin, bmvp_error *err)
{
    int found, a;
    bmvp_status s = bmvpi_nii_foreground(box, &found, volumes, n, err);
    if (s != BMVP_OK || !found) return s;
    if (margin > INT32_MAX || margin < -INT32_MAX)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "margin is %lld", (long long)margin);
    for (a = 0; a < 3; ++a) {
        box->start[a] = bmvpi_nii_min(bmvpi_nii_max(box->start[a] - margin, 0), volumes[0].dim[a]);
        box->end[a] = bmvpi_nii_min(bmvpi_nii_max(box->end[a] + margin, 0), volumes[0].dim[a]);
    }
    return s;
}

BMVP_API void bmvp_nii_center_box(bmvp_nii_box *box, const int64_t dim[3])
{
    const int found = box->end[0] > box->start[0];
    int a;
    for (a = 0; a < 3; ++a) {                               /* start + end' = dim keeps the centre, in whole numbers */
        const int64_t low = found ? bmvpi_nii_min(box->start[a], dim[a] - box->end[a]) : 0;
        box->start[a] = low;
        box->end[a] = dim[a] - low;
    }
}

BMVP_API bmvp_status bmvp_nii_center_foreground_box(bmvp_nii_box *box, const bmvp_nii_volume *volumes, int n,
                                                    bmvp_error *err)
{
    int found;
    bmvp_status s = bmvpi_nii_foreground(box, &found, volumes, n, err);
    if (s == BMVP_OK) bmvp_nii_center_box(box, volumes[0].dim);
    return s;
}

BMVP_API bmvp_status bmvp_nii_nonzero_box(bmvp_nii_box *box, const bmvp_nii_volume *volume,
                                          bmvp_error *err)
{
    int found = 0;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    memset(box, 0, sizeof *box);
    if (s == BMVP_OK) bmvpi_nii_grow_box(box, volume, 1, &found);
    return s;
}

BMVP_API void bmvp_nii_box_affine(double out[16], const double affine[16], const bmvp_nii_box *box)
{
    double shift[16];
    int a;
    bmvpi_nii_identity(shift);
    for (a = 0; a < 3; ++a) shift[4 * a + 3] = (double)box->start[a];
    bmvpi_nii_matmul(out, affine, shift);
}

/* Rows of the box: what the volume has of them, and fill around it. `to` may be the volume's own memory when the box
   lies inside: rows only move towards the front. */
static void bmvpi_nii_cut(float *to, const bmvp_nii_volume *v, const bmvp_nii_box *box, float fill)
{
    const int64_t n = box->end[0] - box->start[0];
    const int64_t low = bmvpi_nii_min(bmvpi_nii_max(-box->start[0], 0), n);
    const int64_t high = bmvpi_nii_max(bmvpi_nii_min(v->dim[0] - box->start[0], n), low);
    int64_t x, y, z;
    for (z = box->start[2]; z < box->end[2]; ++z)
        for (y = box->start[1]; y < box->end[1]; ++y, to += n) {
            const int empty = z < 0 || z >= v->dim[2] || y < 0 || y >= v->dim[1];
            const int64_t from = empty ? n : low;
            for (x = 0; x < from; ++x) to[x] = fill;
            if (empty) continue;
            if (high > low)
                memmove(to + low, v->data + (z * v->dim[1] + y) * v->dim[0] + box->start[0] + low,
                        (size_t)(high - low) * sizeof(float));
            for (x = high; x < n; ++x) to[x] = fill;
        }
}

BMVP_API bmvp_status bmvp_nii_crop(bmvp_nii_volume *volume, const bmvp_nii_box *box, float fill,
                                   bmvp_error *err)
{
    bmvpi_nii_io io;
    bmvp_nii_volume out;
    double affine[16];
    int64_t size[3], n = 1, old = 1;
    int a, inside = 1, same = 1, own;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (s != BMVP_OK) return s;
    for (a = 0; a < 3; ++a) {
        if (box->start[a] < -INT32_MAX || box->end[a] > (int64_t)2 * INT32_MAX || box->end[a] <= box->start[a])
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "box axis %d from %lld to %lld is empty or not valid",
                                  a, (long long)box->start[a], (long long)box->end[a]);
        size[a] = box->end[a] - box->start[a];
        inside = inside && box->start[a] >= 0 && box->end[a] <= volume->dim[a];
        same = same && size[a] == volume->dim[a];
    }
    if (inside && same) return BMVP_OK;
    bmvp_nii_box_affine(affine, volume->affine, box);
    if (inside)
        for (a = 0; a < 3; ++a) {
            n *= size[a];
            old *= volume->dim[a];
        }
    own = !inside || n < old / 2;
    if (own) {
        io = bmvpi_nii_io_of(volume, inside ? NULL : err);
        s = bmvpi_nii_new_volume(&out, size, affine, &io);
        if (s != BMVP_OK && !inside) return s;
        own = s == BMVP_OK;                             /* inside, it can be done without memory as well */
    }
    bmvpi_nii_cut(own ? out.data : volume->data, volume, box, fill);
    if (own) bmvpi_nii_replace(volume, &out);
    memcpy(volume->dim, size, sizeof volume->dim);
    memcpy(volume->affine, affine, sizeof volume->affine);
    return BMVP_OK;
}

BMVP_API void bmvp_nii_pad_box(bmvp_nii_box *box, const int64_t dim[3], const int64_t size[3], int at_end)
{
    int a;
    for (a = 0; a < 3; ++a) {
        int64_t width = size[a] > dim[a] ? size[a] - dim[a] : 0;
        box->start[a] = at_end ? 0 : -(width / 2);
        box->end[a] = box->start[a] + dim[a] + width;
    }
}

BMVP_API bmvp_status bmvp_nii_random_box(bmvp_nii_box *box, const int64_t dim[3],
                                         const bmvp_nii_random_crop *how, bmvp_nii_draw_fn draw,
                                         void *user, bmvp_error *err)
{
    int64_t size[3];
    int a;
    if (!how || (!draw && !(how->fixed_center && !how->random_size)))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "how or draw is NULL");
    for (a = 0; a < 3; ++a) {
        int64_t most = how->max_size[a] > 0 ? how->max_size[a] : dim[a];
        size[a] = how->size[a] > 0 ? how->size[a] : dim[a];
        if (dim[a] < 1 || (how->random_size && size[a] > most))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "axis %d: size %lld of %lld, at most %lld", a,
                                  (long long)size[a], (long long)dim[a], (long long)most);
        if (how->random_size) size[a] += draw(most - size[a] + 1, user);
    }
    for (a = 0; a < 3; ++a) {
        if (how->fixed_center) {
            box->start[a] = bmvpi_nii_max(dim[a] / 2 - size[a] / 2, 0);
        } else {
            size[a] = bmvpi_nii_min(size[a], dim[a]);
            box->start[a] = dim[a] > size[a] ? draw(dim[a] - size[a] + 1, user) : 0;
        }
        box->end[a] = bmvpi_nii_min(box->start[a] + size[a], dim[a]);
    }
    return BMVP_OK;
}

/* >>resize ----------------------------------------------------------------------------------------------------- */

/* torch.nn.functional.interpolate's tables, in its float32 arithmetic. */
static void bmvpi_nii_axis_resize(bmvpi_nii_axis *axis, int64_t n_old, int mode, int align_corners)
{
    const int64_t n = axis->n, last = n_old - 1;
    const float scale = align_corners && mode == BMVP_NII_LINEAR ? (n > 1 ? (float)last / (float)(n - 1) : 0)
                                                                 : (float)n_old / (float)n;
    int64_t i;
    for (i = 0; i < n; ++i) {
        float q = scale * (float)i;
        if (mode == BMVP_NII_NEAREST_EXACT) q = scale * ((float)i + 0.5f);
        else if (mode == BMVP_NII_LINEAR && !align_corners) q = scale * ((float)i + 0.5f) - 0.5f;
        if (q < 0) q = 0;
        axis->i0[i] = (int32_t)bmvpi_nii_min((int64_t)q, last);
        axis->i1[i] = (int32_t)bmvpi_nii_min(axis->i0[i] + 1, last);
        axis->w[i] = q - (float)axis->i0[i];
    }
}

/* Means of the bins [floor(i n / n'), ceil((i + 1) n / n')) along all axes. */
static void bmvpi_nii_area(float *to, const int64_t size[3], const float *from, const int64_t dim[3])
{
    int64_t o[3], low[3], high[3], y, z, x;
    int a;
    for (o[2] = 0; o[2] < size[2]; ++o[2])
        for (o[1] = 0; o[1] < size[1]; ++o[1])
            for (o[0] = 0; o[0] < size[0]; ++o[0]) {
                double sum = 0;
                for (a = 0; a < 3; ++a) {
                    low[a] = o[a] * dim[a] / size[a];
                    high[a] = ((o[a] + 1) * dim[a] + size[a] - 1) / size[a];
                }
                for (z = low[2]; z < high[2]; ++z)
                    for (y = low[1]; y < high[1]; ++y)
                        for (x = low[0]; x < high[0]; ++x) sum += (double)from[(z * dim[1] + y) * dim[0] + x];
                *to++ = (float)(sum / (double)((high[0] - low[0]) * (high[1] - low[1]) * (high[2] - low[2])));
            }
}

BMVP_API bmvp_status bmvp_nii_resize(bmvp_nii_volume *volume, const int64_t size[3], int mode,
                                     int align_corners, bmvp_error *err)
{
    bmvpi_nii_io io;
    bmvpi_nii_axis axis[3];
    bmvp_nii_volume out;
    double affine[16], scale[16];
    void *block;
    float *work;
    int a;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (s != BMVP_OK) return s;
    if (size[0] < 1 || size[1] < 1 || size[2] < 1 || mode < BMVP_NII_LINEAR || mode > BMVP_NII_AREA)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "size %lld x %lld x %lld or mode %d is not valid",
                              (long long)size[0], (long long)size[1], (long long)size[2], mode);
    if (size[0] == volume->dim[0] && size[1] == volume->dim[1] && size[2] == volume->dim[2]) return BMVP_OK;
    io = bmvpi_nii_io_of(volume, err);
    bmvpi_nii_identity(scale);
    for (a = 0; a < 3; ++a) {
        scale[5 * a] = (double)volume->dim[a] / (double)size[a];
        scale[4 * a + 3] = (scale[5 * a] - 1) / 2;
    }
    bmvpi_nii_matmul(affine, volume->affine, scale);
    if ((s = bmvpi_nii_new_volume(&out, size, affine, &io)) != BMVP_OK) return s;
    if (mode == BMVP_NII_AREA) {
        bmvpi_nii_area(out.data, size, volume->data, volume->dim);
    } else {
        s = bmvpi_nii_axes_make(axis, &block, &work, size, 2 * size[0] * (size[1] + 1), &io);
        if (s == BMVP_OK) {
            for (a = 0; a < 3; ++a) bmvpi_nii_axis_resize(&axis[a], volume->dim[a], mode, align_corners);
            if (mode == BMVP_NII_LINEAR) bmvpi_nii_lerp_volume(out.data, volume->data, volume->dim, axis, work);
            else bmvpi_nii_pick_volume(out.data, volume->data, volume->dim, axis);
            bmvpi_nii_free(&io.allocator, block);
        }
    }
    if (s == BMVP_OK) bmvpi_nii_replace(volume, &out);
    else bmvp_nii_volume_free(&out);
    return s;
}

/* >>resample to ------------------------------------------------------------------------------------------------ */

BMVP_API void bmvp_nii_matrix_multiply(double out[16], const double a[16], const double b[16])
{
    bmvpi_nii_matmul(out, a, b);
}

static void bmvpi_nii_apply(double out[3], const double m[16], const double p[3])
{
    double r[3];
    int i;
    for (i = 0; i < 3; ++i) r[i] = m[4 * i] * p[0] + m[4 * i + 1] * p[1] + m[4 * i + 2] * p[2] + m[4 * i + 3];
    memcpy(out, r, sizeof r);
}

/* Trilinear value at voxel coordinates q, which are held within the volume. */
static float bmvpi_nii_trilinear(const bmvp_nii_volume *v, const double q[3])
{
    int64_t i[3], step[3];
    double f[3], a, b, c, d;
    const float *p;
    int k;
    for (k = 0; k < 3; ++k) {
        const double last = (double)(v->dim[k] - 1), x = q[k] > 0 ? (q[k] < last ? q[k] : last) : 0;
        i[k] = (int64_t)x;
        if (i[k] > 0 && i[k] == v->dim[k] - 1) --i[k];
        f[k] = x - (double)i[k];
    }
    step[0] = v->dim[0] > 1;
    step[1] = v->dim[1] > 1 ? v->dim[0] : 0;
    step[2] = v->dim[2] > 1 ? v->dim[0] * v->dim[1] : 0;
    p = v->data + (i[2] * v->dim[1] + i[1]) * v->dim[0] + i[0];
    a = (double)p[0] + f[0] * ((double)p[step[0]] - (double)p[0]);
    p += step[1];
    b = (double)p[0] + f[0] * ((double)p[step[0]] - (double)p[0]);
    p += step[2];
    d = (double)p[0] + f[0] * ((double)p[step[0]] - (double)p[0]);
    p -= step[1];
    c = (double)p[0] + f[0] * ((double)p[step[0]] - (double)p[0]);
    a += f[1] * (b - a);
    c += f[1] * (d - c);
    return (float)(a + f[2] * (c - a));
}

/* Catmull-Rom value (cubic convolution with a = -1/2, Keys 1981); border voxels are repeated. */
static float bmvpi_nii_tricubic(const bmvp_nii_volume *v, const double q[3])
{
    double w[3][4], sum = 0;
    int64_t at[3][4];
    int k, x, y, z;
    for (k = 0; k < 3; ++k) {
        const int64_t i = (int64_t)floor(q[k]);
        const double f = q[k] - (double)i;
        w[k][0] = f * (-0.5 + f * (1 - 0.5 * f));
        w[k][1] = 1 + f * f * (1.5 * f - 2.5);
        w[k][2] = f * (0.5 + f * (2 - 1.5 * f));
        w[k][3] = f * f * (0.5 * f - 0.5);
        for (x = 0; x < 4; ++x) at[k][x] = bmvpi_nii_max(bmvpi_nii_min(i - 1 + x, v->dim[k] - 1), 0);
    }
    for (z = 0; z < 4; ++z)
        for (y = 0; y < 4; ++y) {
            const float *row = v->data + (at[2][z] * v->dim[1] + at[1][y]) * v->dim[0];
            double s = 0;
            for (x = 0; x < 4; ++x) s += w[0][x] * (double)row[at[0][x]];
            sum += w[2][z] * w[1][y] * s;
        }
    return (float)sum;
}

static float bmvpi_nii_value_at(const bmvp_nii_volume *v, const double q[3], int interpolation, float fill)
{
    int64_t i[3];
    int k;
    for (k = 0; k < 3; ++k)
        if (!(q[k] >= -0.5 && q[k] <= (double)v->dim[k] - 0.5)) return fill;
    if (interpolation == BMVP_NII_LINEAR) return bmvpi_nii_trilinear(v, q);
    if (interpolation == BMVP_NII_CUBIC) return bmvpi_nii_tricubic(v, q);
    for (k = 0; k < 3; ++k) i[k] = bmvpi_nii_min((int64_t)floor(q[k] + 0.5), v->dim[k] - 1);
    return v->data[(i[2] * v->dim[1] + i[1]) * v->dim[0] + i[0]];
}

BMVP_API bmvp_status bmvp_nii_resample_to(bmvp_nii_volume *out, const bmvp_nii_volume *volume,
                                          const bmvp_nii_volume *grid, const double matrix[16], int interpolation,
                                          float fill, bmvp_error *err)
{
    bmvpi_nii_io io;
    double m[16];
    int64_t x, y, z, i = 0;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    if (out) memset(out, 0, sizeof *out);
    if (s != BMVP_OK) return s;
    if (!out || !grid || (interpolation != BMVP_NII_LINEAR && interpolation != BMVP_NII_NEAREST &&
                          interpolation != BMVP_NII_CUBIC))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "out or grid is NULL, or interpolation %d is none of LINEAR, "
                              "NEAREST, CUBIC", interpolation);
    if ((s = bmvp_nii_affine_inverse(m, volume->affine, err)) != BMVP_OK) return s;
    if (matrix) bmvpi_nii_matmul(m, m, matrix);
    bmvpi_nii_matmul(m, m, grid->affine);
    if (!bmvpi_nii_finite16(m)) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "matrix or affine of grid is not finite");
    io = bmvpi_nii_io_of(volume, err);
    if ((s = bmvpi_nii_new_volume(out, grid->dim, grid->affine, &io)) != BMVP_OK) return s;
    for (z = 0; z < out->dim[2]; ++z)
        for (y = 0; y < out->dim[1]; ++y)
            for (x = 0; x < out->dim[0]; ++x, ++i) {
                double q[3];
                q[0] = (double)x;
                q[1] = (double)y;
                q[2] = (double)z;
                bmvpi_nii_apply(q, m, q);
                out->data[i] = bmvpi_nii_value_at(volume, q, interpolation, fill);
            }
    return s;
}

BMVP_API double bmvp_nii_matrix_distance(const double a[16], const double b[16], const bmvp_nii_volume *mask)
{
    double d[16], sum = 0;
    int64_t x, y, z, i = 0, n = 0;
    int k;
    for (k = 0; k < 16; ++k) d[k] = a[k] - b[k];
    bmvpi_nii_matmul(d, d, mask->affine);
    for (z = 0; z < mask->dim[2]; ++z)
        for (y = 0; y < mask->dim[1]; ++y)
            for (x = 0; x < mask->dim[0]; ++x, ++i) {
                double p[3];
                if (mask->data && !(mask->data[i] > 0)) continue;
                p[0] = (double)x;
                p[1] = (double)y;
                p[2] = (double)z;
                bmvpi_nii_apply(p, d, p);
                sum += sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
                ++n;
            }
    return n > 0 ? sum / (double)n : 0;
}

/* >>transform files --------------------------------------------------------------------------------------------
   ITK writes y = A (x - c) + c + t in LPS, x and y points of the fixed and the moving image: the same direction as
   ours, with the signs of x and y turned. */

static const char *const bmvpi_nii_itk_head = "#Insight Transform File V1.0";

static void bmvpi_nii_turn_lps(double m[16])
{
    int i, j;
    for (i = 0; i < 4; ++i)
        for (j = 0; j < 4; ++j)
            if ((i < 2) != (j < 2)) m[4 * i + j] = -m[4 * i + j];
}

BMVP_API bmvp_status bmvp_nii_matrix_write(const char *path, const double matrix[16], bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_make(path, NULL, err);
    bmvpi_nii_out out;
    char text[2048];
    double m[16];
    int i, j, n = 0;
    const size_t length = path ? strlen(path) : 0;
    if (!path || !matrix || !bmvpi_nii_finite16(matrix))
        return bmvpi_nii_fail(err, BMVP_E_ARG, path, "path or matrix is NULL, or the matrix is not finite");
    memcpy(m, matrix, sizeof m);
    if (length > 4 && (strcmp(path + length - 4, ".tfm") == 0 || strcmp(path + length - 4, ".txt") == 0)) {
        bmvpi_nii_turn_lps(m);
        n = snprintf(text, sizeof text, "%s\n#Transform 0\nTransform: AffineTransform_double_3_3\nParameters:",
                     bmvpi_nii_itk_head);
        for (i = 0; i < 3; ++i)
            for (j = 0; j < 3; ++j) n += snprintf(text + n, sizeof text - (size_t)n, " %.17g", m[4 * i + j]);
        for (i = 0; i < 3; ++i) n += snprintf(text + n, sizeof text - (size_t)n, " %.17g", m[4 * i + 3]);
        n += snprintf(text + n, sizeof text - (size_t)n, "\nFixedParameters: 0 0 0\n");
    } else {
        for (i = 0; i < 16; ++i)
            n += snprintf(text + n, sizeof text - (size_t)n, "%.17g%c", m[i], i % 4 == 3 ? '\n' : ' ');
    }
    memset(&out, 0, sizeof out);
    out.part[0] = text;
    out.n[0] = n;
    return bmvpi_nii_write_files(&io, path, &out, NULL, NULL, 1);
}

/* Up to `most` numbers behind `word` (NULL: at the start); how many there are. */
static int bmvpi_nii_numbers(double *x, int most, const char *text, const char *word)
{
    const char *at = word ? strstr(text, word) : text;
    int n = 0;
    if (!at) return 0;
    if (word) at += strlen(word);
    while (n < most) {
        char *end;
        const double v = strtod(at, &end);
        if (end == at) break;
        x[n++] = v;
        at = end;
    }
    return n;
}

/* Turns of ITK's Euler3DTransform (about z, x, y in this order of factors) and of a versor. */
static void bmvpi_nii_itk_rotation(double r[9], const double *p, int versor)
{
    if (versor) {
        const double w = 1 - (p[0] * p[0] + p[1] * p[1] + p[2] * p[2]);
        bmvpi_nii_rotation(r, w > 0 ? sqrt(w) : 0, p[0], p[1], p[2]);
    } else {
        const double cx = cos(p[0]), sx = sin(p[0]), cy = cos(p[1]), sy = sin(p[1]), cz = cos(p[2]), sz = sin(p[2]);
        r[0] = cz * cy - sz * sx * sy; r[1] = -sz * cx; r[2] = cz * sy + sz * sx * cy;
        r[3] = sz * cy + cz * sx * sy; r[4] = cz * cx;  r[5] = sz * sy - cz * sx * cy;
        r[6] = -cx * sy;               r[7] = sx;       r[8] = cx * cy;
    }
}

static bmvp_status bmvpi_nii_read_itk(double m[16], const char *text, const char *path, bmvp_error *err)
{
    static const struct { const char *name; int n; } kinds[] = {
        { "Transform: AffineTransform_", 12 }, { "Transform: MatrixOffsetTransformBase_", 12 },
        { "Transform: Euler3DTransform_", 6 }, { "Transform: VersorRigid3DTransform_", 6 },
        { "Transform: TranslationTransform_", 3 }
    };
    double p[13], c[4], r[9];
    int kind = 0, i, j, n;
    const char *second;
    while (kind < 5 && !strstr(text, kinds[kind].name)) ++kind;
    if (kind == 5)
        return bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "its transform is none of Affine, MatrixOffsetTransformBase, "
                              "Euler3D, VersorRigid3D, Translation");
    second = strstr(text, "Transform: ");
    if (second && strstr(second + 1, "\nTransform: "))
        return bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "holds more than one transform; compose them first");
    n = bmvpi_nii_numbers(p, 13, text, "\nParameters:");
    if (n != kinds[kind].n)
        return bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "Parameters has %d numbers, not %d", n, kinds[kind].n);
    if (bmvpi_nii_numbers(c, 4, text, "\nFixedParameters:") < 3) memset(c, 0, sizeof c);
    for (i = 0; i < 9; ++i) r[i] = n == 12 ? p[i] : i % 4 == 0;
    if (n == 6) bmvpi_nii_itk_rotation(r, p, kind == 3);
    bmvpi_nii_identity(m);
    for (i = 0; i < 3; ++i) {
        m[4 * i + 3] = p[n - 3 + i] + (n == 3 ? 0 : c[i]);
        for (j = 0; j < 3; ++j) {
            m[4 * i + j] = r[3 * i + j];
            if (n != 3) m[4 * i + 3] -= r[3 * i + j] * c[j];
        }
    }
    bmvpi_nii_turn_lps(m);
    return BMVP_OK;
}

BMVP_API bmvp_status bmvp_nii_matrix_read(double matrix[16], const char *path, bmvp_error *err)
{
    char text[8192];
    double m[17];
    size_t n;
    FILE *f = path ? fopen(path, "rb") : NULL;
    bmvp_status s = BMVP_OK;
    if (!f) return bmvpi_nii_fail(err, path ? BMVP_E_IO : BMVP_E_ARG, path, "cannot be opened: %s", strerror(errno));
    n = fread(text, 1, sizeof text - 1, f);
    if (ferror(f)) s = bmvpi_nii_fail(err, BMVP_E_IO, path, "reading failed");
    else if (n == sizeof text - 1) s = bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "is too long for a matrix");
    fclose(f);
    if (s != BMVP_OK) return s;
    text[n] = 0;
    if (strncmp(text, "#Insight Transform File", 23) == 0) s = bmvpi_nii_read_itk(m, text, path, err);
    else if (bmvpi_nii_numbers(m, 17, text, NULL) != 16)
        s = bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "holds neither 16 numbers nor a transform of ITK");
    if (s != BMVP_OK) return s;
    if (!bmvpi_nii_finite16(m) || fabs(m[12]) + fabs(m[13]) + fabs(m[14]) + fabs(m[15] - 1) > 1e-9)
        return bmvpi_nii_fail(err, BMVP_E_FORMAT, path, "the matrix is not finite, or its last row is not 0 0 0 1");
    memcpy(matrix, m, 16 * sizeof *m);
    return s;
}

/* >>distance --------------------------------------------------------------------------------------------------- */

/* ---- distances: the same text in bmvp_ssl.h and bmvp_nifti.h, so that each stands alone ---------------------------

   Exact, axis by axis (Felzenszwalb and Huttenlocher 2012): the least f(v) + w (y - v)^2 over all v
   is w y^2 plus the least F(v) - 2 w y v, F(v) = f(v) + w v^2. So the v that matter are the lower convex hull of the
   points (v, F(v)), and each holds as long as 2 w y lies between the slopes left and right of it. The hull has a
   copy of what it needs: columns are transformed in place. */
#ifndef BMVP_DISTANCES
#define BMVP_DISTANCES 1
typedef struct bmvpi_hull { double f, lift, v, slope; } bmvpi_hull; /* lift: F(v); slope: from the point before */
typedef struct bmvpi_edt {
    double w[3];      /* mm^2 of one step along D, H, W */
    bmvpi_hull *hull; /* of the longest axis */
    float *square;    /* of whole numbers: distances along W are kept in steps, which floats hold exactly */
    int64_t looked;   /* places that searches looked at */
    unsigned char *wanted; /* along W: are columns of this place to be transformed? */
} bmvpi_edt;

static int64_t bmvpi_edt_longest(const int64_t dim[3])
{
    const int64_t n = dim[0] > dim[1] ? dim[0] : dim[1];
    return n > dim[2] ? n : dim[2];
}

/* -1: too many. */
static int64_t bmvpi_edt_bytes(const int64_t dim[3])
{
    const int64_t longest = bmvpi_edt_longest(dim);
    const int64_t each = (int64_t)(sizeof(bmvpi_hull) + sizeof(float) + 4); /* 4: `wanted`, floats may follow */
    return longest > INT64_MAX / each ? -1 : longest * each;
}

static void bmvpi_edt_init(bmvpi_edt *e, const int64_t dim[3], const double mm[3], void *memory)
{
    const int64_t longest = bmvpi_edt_longest(dim);
    int64_t k;
    int a;
    for (a = 0; a < 3; ++a) e->w[a] = mm[a] * mm[a];
    e->hull = (bmvpi_hull *)memory;
    e->square = (float *)(void *)(e->hull + longest);
    e->wanted = (unsigned char *)(e->square + longest);
    memset(e->wanted, 1, (size_t)dim[2]);
    for (k = 0; k < dim[2]; ++k) e->square[k] = (float)k * (float)k;
}

/* First place from i on that is not 0, n: none. */
static int64_t bmvpi_next_set(const unsigned char *mask, int64_t i, int64_t n)
{
    uint64_t eight;
    for (; i + 8 <= n; i += 8) {
        memcpy(&eight, mask + i, 8);
        if (eight) break;
    }
    while (i < n && !mask[i]) ++i;
    return i;
}

/* Along W the nearest set voxel is one of the two neighbours in the row. */
static void bmvpi_edt_row(const bmvpi_edt *e, const unsigned char *mask, int64_t n, float *out)
{
    int64_t last = -1, next, i = 0;
    for (next = bmvpi_next_set(mask, 0, n); next < n; next = bmvpi_next_set(mask, next + 1, n)) {
        const int64_t middle = last < 0 ? 0 : (last + next) / 2 + 1;
        for (; i < middle; ++i) out[i] = e->square[i - last];
        for (; i <= next; ++i) out[i] = e->square[next - i];
        last = next;
    }
    for (; i < n; ++i) out[i] = last < 0 ? (float)HUGE_VAL : e->square[i - last];
}

/* x: squares, in mm^2 when multiplied by unit; in mm^2 afterwards. */
static void bmvpi_edt_column(const bmvpi_edt *e, double unit, double w, float *x, int64_t n, int64_t stride)
{
    bmvpi_hull *const h = e->hull;
    int64_t i, top = -1, k = 0;
    for (i = 0; i < n; ++i) {
        const double f = unit * (double)x[i * stride], v = (double)i, lift = f + w * v * v;
        double slope = -HUGE_VAL;
        if (f == HUGE_VAL) continue;
        while (top >= 0 && (slope = (lift - h[top].lift) / (v - h[top].v)) <= h[top].slope) --top;
        ++top;
        h[top].f = f;
        h[top].lift = lift;
        h[top].v = v;
        h[top].slope = slope;
    }
    for (i = 0; i < n && top >= 0; ++i) {
        const double y = (double)i;
        while (k < top && h[k + 1].slope <= 2 * w * y) ++k;
        x[i * stride] = (float)(h[k].f + w * (y - h[k].v) * (y - h[k].v));
    }
}

/* Axis W: squared distances within rows, in steps. */
static void bmvpi_edt_rows(const bmvpi_edt *e, const unsigned char *mask, const int64_t dim[3], float *x)
{
    int64_t i;
    for (i = 0; i < dim[0] * dim[1]; ++i) bmvpi_edt_row(e, mask + i * dim[2], dim[2], x + i * dim[2]);
}

/* Axis H, of distances within rows: now within planes, in mm^2. A row is finite or infinite as a whole: one column
   shows if any is. */
static void bmvpi_edt_planes(const bmvpi_edt *e, const int64_t dim[3], float *x)
{
    int64_t z, i;
    for (z = 0; z < dim[0]; ++z, x += dim[1] * dim[2]) {
        for (i = 0; i < dim[1] && (double)x[i * dim[2]] == HUGE_VAL; ++i) {}
        if (i == dim[1]) continue;
        for (i = 0; i < dim[2]; ++i)
            if (e->wanted[i]) bmvpi_edt_column(e, e->w[2], e->w[1], x + i, dim[1], dim[2]);
    }
}

/* All three: squared mm, infinite where nothing is set. */
static void bmvpi_edt_all(const bmvpi_edt *e, const unsigned char *mask, const int64_t dim[3], float *x)
{
    const int64_t plane = dim[1] * dim[2];
    int64_t i;
    bmvpi_edt_rows(e, mask, dim, x);
    bmvpi_edt_planes(e, dim, x);
    for (i = 0; i < plane; ++i) bmvpi_edt_column(e, 1, e->w[0], x + i, dim[0], plane);
}
#endif /* BMVP_DISTANCES */
/* ---- end of the distances ---------------------------------------------------------------------------------------- */

/* Squared mm from each voxel to the nearest one that is above 0 (`on` 1) or not (0). marks: a byte a voxel. */
static void bmvpi_nii_squares(float *d2, const bmvp_nii_volume *mask, int on, const bmvpi_edt *e, unsigned char *marks)
{
    const int64_t dim[3] = { mask->dim[2], mask->dim[1], mask->dim[0] }, n = dim[0] * dim[1] * dim[2];
    int64_t i;
    for (i = 0; i < n; ++i) marks[i] = (mask->data[i] > 0) == on;
    bmvpi_edt_all(e, marks, dim, d2);
}

BMVP_API bmvp_status bmvp_nii_distance(bmvp_nii_volume *mm, const bmvp_nii_volume *mask, bmvp_error *err)
{
    bmvpi_nii_io io;
    bmvp_nii_volume other;
    void *work = NULL;
    double h[3];
    int64_t i, n, bytes;
    bmvp_status s = bmvpi_nii_has_voxels(mask, err);
    if (mm) memset(mm, 0, sizeof *mm);
    if (s != BMVP_OK || !mm) return s != BMVP_OK ? s : bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "mm is NULL");
    memset(&other, 0, sizeof other);
    io = bmvpi_nii_io_of(mask, err);
    n = mask->dim[0] * mask->dim[1] * mask->dim[2];
    bmvp_nii_voxel_size(h, mask->affine);
    s = bmvpi_nii_new_volume(mm, mask->dim, mask->affine, &io);
    if (s == BMVP_OK) s = bmvpi_nii_new_volume(&other, mask->dim, mask->affine, &io);
    bytes = bmvpi_edt_bytes(mask->dim); /* what is to be read by lines, then a byte a voxel */
    if (s == BMVP_OK) s = bmvpi_nii_take(&work, &io, bytes + n);
    if (s == BMVP_OK) {
        const double half = (h[0] + h[1] + h[2]) / 6, down[3] = { h[2], h[1], h[0] };
        const int64_t dim[3] = { mask->dim[2], mask->dim[1], mask->dim[0] };
        unsigned char *marks = (unsigned char *)work + bytes;
        bmvpi_edt e;
        bmvpi_edt_init(&e, dim, down, work);
        bmvpi_nii_squares(mm->data, mask, 1, &e, marks);
        bmvpi_nii_squares(other.data, mask, 0, &e, marks);
        for (i = 0; i < n; ++i) {
            const double d = mask->data[i] > 0 ? half - sqrt((double)other.data[i]) : sqrt((double)mm->data[i]) - half;
            mm->data[i] = (float)(d < -1e6 ? -1e6 : d > 1e6 ? 1e6 : d);
        }
    } else bmvp_nii_volume_free(mm);
    bmvpi_nii_free(&io.allocator, work);
    bmvp_nii_volume_free(&other);
    return s;
}

/* >>component -------------------------------------------------------------------------------------------------- */

/* Marks the component of voxel `from` among those of its mark with `to`; its size. faces (may be NULL): 2 a and 2 a + 1
   of its bits are the two faces of the grid across axis a, set where it touches them. */
static int64_t bmvpi_nii_flood(unsigned char *mark, const int64_t dim[3], int64_t from, unsigned char to, int *faces,
                               int64_t *stack)
{
    const unsigned char was = mark[from];
    int64_t top = 0, size = 0;
    int met = 0;
    mark[from] = to;
    stack[top++] = from;
    while (top > 0) {
        const int64_t i = stack[--top];
        int64_t stride = 1;
        int a;
        ++size;
        for (a = 0; a < 3; stride *= dim[a], ++a) {
            const int64_t at = i / stride % dim[a];
            met |= (at == 0) << 2 * a | (at + 1 == dim[a]) << (2 * a + 1);
            if (at > 0 && mark[i - stride] == was) {
                mark[i - stride] = to;
                stack[top++] = i - stride;
            }
            if (at + 1 < dim[a] && mark[i + stride] == was) {
                mark[i + stride] = to;
                stack[top++] = i + stride;
            }
        }
    }
    if (faces) *faces = met;
    return size;
}

/* Does a component that touches these faces come from outside? One face alone: a dent of the last slice. */
static int bmvpi_nii_is_outside(int faces)
{
    return (faces & (faces - 1)) != 0;
}

/* mask becomes 1 in the largest component of the voxels where (value > 0) is `on`. With on 0 everywhere else, too, but
   for other components that come from outside: that fills holes. */
static bmvp_status bmvpi_nii_keep_largest(bmvp_nii_volume *mask, int on, bmvp_error *err)
{
    bmvpi_nii_io io = bmvpi_nii_io_of(mask, err);
    const int64_t n = mask->dim[0] * mask->dim[1] * mask->dim[2];
    int64_t i, best = -1, most = 0;
    void *block;
    int64_t *stack;
    unsigned char *mark;
    int faces;
    bmvp_status s = bmvpi_nii_take(&block, &io, n * (int64_t)(sizeof *stack + 1));
    if (s != BMVP_OK) return s;
    stack = (int64_t *)block;
    mark = (unsigned char *)(stack + n);
    for (i = 0; i < n; ++i) mark[i] = (mask->data[i] > 0) == on;
    for (i = 0; i < n; ++i)
        if (mark[i] == 1) {
            const int64_t size = bmvpi_nii_flood(mark, mask->dim, i, 2, &faces, stack);
            if (!on && bmvpi_nii_is_outside(faces)) bmvpi_nii_flood(mark, mask->dim, i, 3, NULL, stack);
            if (size > most) {
                most = size;
                best = i;
            }
        }
    if (best >= 0 && mark[best] == 2) bmvpi_nii_flood(mark, mask->dim, best, 3, NULL, stack);
    for (i = 0; i < n; ++i) mask->data[i] = (mark[i] == 3) == on ? 1.f : 0.f;
    bmvpi_nii_free(&io.allocator, block);
    return s;
}

BMVP_API bmvp_status bmvp_nii_largest_component(bmvp_nii_volume *mask, bmvp_error *err)
{
    bmvp_status s = bmvpi_nii_has_voxels(mask, err);
    return s == BMVP_OK ? bmvpi_nii_keep_largest(mask, 1, err) : s;
}

/* >>pyramid ----------------------------------------------------------------------------------------------------
   A level of `step` mm: along each axis a Gaussian whose width grows the voxel's own to step, read at the centres of
   voxels of about step mm. Axes that are thicker already stay as they are: blurring along thick slices costs more than
   it gives. */

static const double bmvpi_nii_fwhm = 2.3548200450309493;    /* 2 sqrt(2 ln 2): width at half maximum of a Gaussian */

/* Weights of output j of m along an axis of n: taps from *first on, at most room of them. sigma in voxels. */
static int bmvpi_nii_taps(float *w, int64_t *first, int64_t j, int64_t n, int64_t m, double sigma)
{
    const double c = ((double)j + 0.5) * (double)n / (double)m - 0.5, reach = sigma > 0.05 ? 3 * sigma : 1;
    int64_t low = bmvpi_nii_max((int64_t)ceil(c - reach), 0), high = bmvpi_nii_min((int64_t)floor(c + reach), n - 1), i;
    double sum = 0;
    if (high < low) low = high = bmvpi_nii_max(bmvpi_nii_min((int64_t)floor(c + 0.5), n - 1), 0);
    for (i = low; i <= high; ++i) {
        const double x = (double)i - c, g = sigma > 0.05 ? exp(-0.5 * x * x / (sigma * sigma)) : 1 - fabs(x);
        w[i - low] = (float)(g > 0 ? g : 0);
        sum += g > 0 ? g : 0;
    }
    if (!(sum > 0)) {
        w[0] = 1;
        high = low;
        sum = 1;
    }
    for (i = low; i <= high; ++i) w[i - low] = (float)((double)w[i - low] / sum);
    *first = low;
    return (int)(high - low + 1);
}

/* One axis of `from` to `to` (same but for dim[axis]); the inner loop runs over contiguous numbers. */
static bmvp_status bmvpi_nii_shrink(bmvp_nii_volume *to, const bmvp_nii_volume *from, int axis, double sigma,
                                    const bmvpi_nii_io *io)
{
    const int64_t n = from->dim[axis], m = to->dim[axis], room = 2 * (int64_t)ceil(3 * sigma) + 4;
    const int64_t inner = axis == 0 ? 1 : axis == 1 ? from->dim[0] : from->dim[0] * from->dim[1];
    const int64_t outer = from->dim[0] * from->dim[1] * from->dim[2] / (inner * n);
    int64_t first, j, o, x;
    void *block;
    float *w;
    int taps, k;
    bmvp_status s = bmvpi_nii_take(&block, io, room * (int64_t)sizeof *w);
    if (s != BMVP_OK) return s;
    w = (float *)block;
    for (j = 0; j < m; ++j) {
        taps = bmvpi_nii_taps(w, &first, j, n, m, sigma);
        for (o = 0; o < outer; ++o) {
            float *BMVP_RESTRICT d = to->data + (o * m + j) * inner;
            const float *BMVP_RESTRICT p = from->data + (o * n + first) * inner;
            for (x = 0; x < inner; ++x) d[x] = w[0] * p[x];
            for (k = 1; k < taps; ++k)
                for (x = 0; x < inner; ++x) d[x] += w[k] * p[k * inner + x];
        }
    }
    bmvpi_nii_free(&io->allocator, block);
    return s;
}

/* has: mm of blur along each axis so far, at least the voxel's size; moves to step where something was done. */
static bmvp_status bmvpi_nii_level(bmvp_nii_volume *out, const bmvp_nii_volume *in, double step, double has[3],
                                   const bmvpi_nii_io *io)
{
    const bmvp_nii_volume *last = in;
    double mm[3];
    int a, i;
    bmvp_status s = BMVP_OK;
    memset(out, 0, sizeof *out);
    bmvp_nii_voxel_size(mm, in->affine);
    for (a = 2; a >= 0 && s == BMVP_OK; --a) {              /* z first: the largest strides shrink first */
        const int64_t n = last->dim[a];
        const double blur2 = step * step - has[a] * has[a];
        int64_t dim[3], m = n;
        bmvp_nii_volume next;
        double affine[16], ratio;
        if (mm[a] < 0.99 * step && n > 1)
            m = bmvpi_nii_min(bmvpi_nii_max((int64_t)floor((double)n * mm[a] / step + 0.5), 2), n);
        if (blur2 <= 1e-6 && m == n) continue;
        memcpy(dim, last->dim, sizeof dim);
        memcpy(affine, last->affine, sizeof affine);
        dim[a] = m;
        ratio = (double)n / (double)m;
        for (i = 0; i < 3; ++i) {
            affine[4 * i + 3] += affine[4 * i + a] * (0.5 * ratio - 0.5);
            affine[4 * i + a] *= ratio;
        }
        if ((s = bmvpi_nii_new_volume(&next, dim, affine, io)) != BMVP_OK) break;
        s = bmvpi_nii_shrink(&next, last, a, blur2 > 0 ? sqrt(blur2) / bmvpi_nii_fwhm / mm[a] : 0, io);
        bmvp_nii_volume_free(out);
        *out = next;
        last = out;
        if (blur2 > 0) has[a] = step;
    }
    if (s == BMVP_OK && last == in) s = bmvp_nii_volume_copy(out, in, io->err);
    if (s != BMVP_OK) bmvp_nii_volume_free(out);
    return s;
}

BMVP_API bmvp_status bmvp_nii_smooth(bmvp_nii_volume *volume, const double fwhm[3], bmvp_error *err)
{
    bmvpi_nii_io io;
    double mm[3];
    int a;
    bmvp_status s = bmvpi_nii_has_voxels(volume, err);
    bmvp_nii_volume out, next;
    if (s != BMVP_OK) return s;
    io = bmvpi_nii_io_of(volume, err);
    bmvp_nii_voxel_size(mm, volume->affine);
    if ((s = bmvp_nii_volume_copy(&out, volume, err)) != BMVP_OK) return s;
    for (a = 0; a < 3 && s == BMVP_OK; ++a) {
        const double sigma = fwhm[a] / bmvpi_nii_fwhm / mm[a];
        if (!(sigma > 0.05)) continue;
        if ((s = bmvpi_nii_new_volume(&next, out.dim, out.affine, &io)) != BMVP_OK) break;
        s = bmvpi_nii_shrink(&next, &out, a, sigma, &io);
        bmvp_nii_volume_free(&out);
        out = next;
    }
    if (s == BMVP_OK) {
        out.n_nan = volume->n_nan;
        out.n_inf = volume->n_inf;
        bmvpi_nii_replace(volume, &out);
    } else bmvp_nii_volume_free(&out);
    return s;
}

/* Percentiles low and high of about 200,000 of the numbers, at equal steps; *high is above *low. */
static bmvp_status bmvpi_nii_range(float *low, float *high, const float *data, int64_t n, double q_low, double q_high,
                                   const bmvpi_nii_io *io)
{
    const int64_t step = n / 200000 + 1, m = (n + step - 1) / step;
    double q[2];
    float p[2], *some;
    void *block;
    int64_t i;
    bmvp_status s = bmvpi_nii_take(&block, io, m * (int64_t)sizeof *some);
    if (s != BMVP_OK) return s;
    some = (float *)block;
    q[0] = q_low;
    q[1] = q_high;
    for (i = 0; i < m; ++i) some[i] = data[i * step];
    s = bmvp_nii_percentiles(p, q, 2, some, m, &io->allocator, io->err);
    bmvpi_nii_free(&io->allocator, block);
    *low = p[0];
    *high = p[1] > p[0] ? p[1] : p[0] + 1;
    return s;
}

/* Foreground: above a tenth of the range between the 2nd and the 98th percentile (Smith 2002). */
static bmvp_status bmvpi_nii_threshold(float *t, float *top, const bmvp_nii_volume *v, const bmvpi_nii_io *io)
{
    float low = 0;
    bmvp_status s = bmvpi_nii_range(&low, top, v->data, v->dim[0] * v->dim[1] * v->dim[2], 2, 98, io);
    *t = low + 0.1f * (*top - low);
    return s;
}

/* Grows mask (0, 1) by a box of r voxels a side, one axis after the other, two runs along each line. */
static void bmvpi_nii_grow(unsigned char *mask, const int64_t dim[3], const int64_t r[3])
{
    const int64_t n = dim[0] * dim[1] * dim[2];
    int64_t i, j, stride = 1;
    int a;
    for (a = 0; a < 3; stride *= dim[a], ++a)
        for (i = 0; i < n && r[a] > 0; ++i) {
            int64_t last = -r[a] - 1;
            if (i / stride % dim[a] != 0) continue;
            for (j = 0; j < dim[a]; ++j) {                  /* 2: new, no seed of its own */
                if (mask[i + j * stride] == 1) last = j;
                else if (j - last <= r[a]) mask[i + j * stride] = 2;
            }
            for (last = dim[a] + r[a] + 1, j = dim[a] - 1; j >= 0; --j) {
                if (mask[i + j * stride] == 1) last = j;
                else if (last - j <= r[a]) mask[i + j * stride] = 2;
            }
            for (j = 0; j < dim[a]; ++j) mask[i + j * stride] = mask[i + j * stride] != 0;
        }
}

/* Where the samples of a level lie: the caller's mask at the nearest voxel, or the foreground grown by 10 mm. */
static bmvp_status bmvpi_nii_region(unsigned char **region, const bmvp_nii_volume *f, const bmvp_nii_volume *mask,
                                    const bmvpi_nii_io *io)
{
    const int64_t n = f->dim[0] * f->dim[1] * f->dim[2];
    int64_t c[3], i = 0, r[3];
    double mm[3];
    float t = 0, top;
    void *block;
    int a;
    bmvp_status s = bmvpi_nii_take(&block, io, n);
    *region = (unsigned char *)block;
    if (s != BMVP_OK) return s;
    if (!mask) {
        if ((s = bmvpi_nii_threshold(&t, &top, f, io)) != BMVP_OK) return s;
        for (i = 0; i < n; ++i) (*region)[i] = f->data[i] > t;
        bmvp_nii_voxel_size(mm, f->affine);
        for (a = 0; a < 3; ++a) r[a] = (int64_t)(10 / mm[a] + 0.5);
        bmvpi_nii_grow(*region, f->dim, r);
        return s;
    }
    for (c[2] = 0; c[2] < f->dim[2]; ++c[2])
        for (c[1] = 0; c[1] < f->dim[1]; ++c[1])
            for (c[0] = 0; c[0] < f->dim[0]; ++c[0], ++i) {
                int64_t at = 0;
                for (a = 2; a >= 0; --a) at = at * mask->dim[a] + (2 * c[a] + 1) * mask->dim[a] / (2 * f->dim[a]);
                (*region)[i] = mask->data[at] > 0;
            }
    return s;
}

/* >>mutual information -----------------------------------------------------------------------------------------
   Samples of the fixed volume lie on a lattice, each moved within its cell by a hash of its number: a lattice that
   falls on the moving grid would make the information jump at whole voxels. Their values are put into bins once. For a
   pose, the moving volume is read at each sample (trilinear, with its exact derivative), spread over four bins by a
   cubic B-spline, and the joint histogram P gives NMI = (H(F) + H(M)) / H(F, M). Its derivative to a sample's moving
   value is a sum over these four bins of a table made from P, so the gradient costs one more pass.
   Sums run over 16 fixed chunks, each in order, which are then added in order: bits do not depend on threads. Within a
   chunk, blocks of 64 samples go through loops without branches (positions, weights) that the compiler vectorises. */

enum { BMVPI_NII_MOST_BINS = 64, BMVPI_NII_CHUNKS = 16, BMVPI_NII_BLOCK = 64 };

typedef struct bmvpi_nii_samples {
    int64_t n;
    float *p[3], *u, *g[3];                /* mm from centre; moving value in bins (-1: outside) and its gradient */
    unsigned char *bin;
    double centre[3];
    void *block;
} bmvpi_nii_samples;

typedef struct bmvpi_nii_cost {
    bmvpi_nii_samples s;
    const bmvp_nii_volume *moving;
    double to_index[16];                   /* moving mm -> voxel */
    float low, high;                       /* moving values of the first and last bin */
    int bins, evaluations;
    double prior;                          /* of scales and shears: -prior |S|^2 */
    double inside, nmi;                    /* samples inside of moving */
    float b[12];                           /* the pose: mm from centre -> voxel */
    float (*hist)[BMVPI_NII_MOST_BINS * BMVPI_NII_MOST_BINS];     /* one a chunk */
    int64_t count[BMVPI_NII_CHUNKS];
    double p[BMVPI_NII_MOST_BINS * BMVPI_NII_MOST_BINS];
    float table[BMVPI_NII_MOST_BINS * BMVPI_NII_MOST_BINS];
    const float *shift[3];                 /* of a deformation: voxels added at each sample; NULL: none */
    int outer;                             /* 1: gradients sum outer products, too */
    double sum[BMVPI_NII_CHUNKS][12], product[BMVPI_NII_CHUNKS][144];
    bmvp_parallel_fn parallel;
    void *parallel_user;
    int (*progress)(void *user, const char *what, int64_t done, int64_t of);
    void *progress_user;
    int stop;                              /* 1: it has asked for that */
} bmvpi_nii_cost;

static uint32_t bmvpi_nii_hash(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

static bmvp_status bmvpi_nii_samples_take(bmvpi_nii_samples *s, int64_t room, const bmvpi_nii_io *io)
{
    int a;
    bmvp_status st = bmvpi_nii_take(&s->block, io, room * (int64_t)(7 * sizeof(float) + 1));
    if (st != BMVP_OK) return st;
    s->u = (float *)s->block;
    for (a = 0; a < 3; ++a) {
        s->p[a] = s->u + (1 + a) * room;
        s->g[a] = s->u + (4 + a) * room;
    }
    s->bin = (unsigned char *)(s->u + 7 * room);
    return st;
}

/* The lattice over region: places in mm, and values of f in u. */
static void bmvpi_nii_lattice(bmvpi_nii_samples *s, const bmvp_nii_volume *f, const unsigned char *region, double step,
                              int64_t room)
{
    double mm[3], sum[3] = { 0, 0, 0 };
    int64_t m[3], x[3], k;
    int a;
    bmvp_nii_voxel_size(mm, f->affine);
    for (a = 0; a < 3; ++a) m[a] = bmvpi_nii_max((int64_t)((double)f->dim[a] * mm[a] / step), 1);
    for (x[2] = 0; x[2] < m[2]; ++x[2])
        for (x[1] = 0; x[1] < m[1]; ++x[1])
            for (x[0] = 0; x[0] < m[0]; ++x[0]) {
                const uint32_t h = bmvpi_nii_hash((uint32_t)x[0] * 73856093u ^ (uint32_t)x[1] * 19349663u ^
                                                  (uint32_t)x[2] * 83492791u);
                double q[3], w[3];
                int64_t c[3];
                int inside = s->n < room;
                for (a = 0; a < 3; ++a) {
                    q[a] = ((double)x[a] + (double)(h >> 10 * a & 1023) / 1024) * step / mm[a] - 0.5;
                    c[a] = (int64_t)floor(q[a] + 0.5);
                    inside = inside && c[a] >= 0 && c[a] < f->dim[a];
                }
                if (!inside || !region[(c[2] * f->dim[1] + c[1]) * f->dim[0] + c[0]]) continue;
                s->u[s->n] = bmvpi_nii_trilinear(f, q);
                bmvpi_nii_apply(w, f->affine, q);
                for (a = 0; a < 3; ++a) {
                    s->p[a][s->n] = (float)w[a];
                    sum[a] += w[a];
                }
                ++s->n;
            }
    for (a = 0; a < 3; ++a) s->centre[a] = s->n > 0 ? sum[a] / (double)s->n : 0;
    for (a = 0; a < 3; ++a)
        for (k = 0; k < s->n; ++k) s->p[a][k] -= (float)s->centre[a];
}

/* Samples of a level of `step` mm, at most about `cap`, their values in bins. */
static bmvp_status bmvpi_nii_draw_samples(bmvpi_nii_samples *s, const bmvp_nii_volume *f, const bmvp_nii_volume *mask,
                                    double step, int64_t cap, int bins, const bmvpi_nii_io *io)
{
    const int64_t n = f->dim[0] * f->dim[1] * f->dim[2];
    unsigned char *region;
    double mm[3], volume;
    int64_t i, inside = 0, room;
    float low, high;
    bmvp_status st = bmvpi_nii_region(&region, f, mask, io);
    memset(s, 0, sizeof *s);
    if (st == BMVP_OK) {
        for (i = 0; i < n; ++i) inside += region[i];
        bmvp_nii_voxel_size(mm, f->affine);
        volume = (double)inside * mm[0] * mm[1] * mm[2];
        step = fmax(0.9 * step, cbrt(volume / (double)cap));
        room = (int64_t)(1.3 * volume / (step * step * step)) + 4096;
        st = bmvpi_nii_samples_take(s, room, io);
        if (st == BMVP_OK) bmvpi_nii_lattice(s, f, region, step, room);
        if (st == BMVP_OK && s->n < 64)
            st = bmvpi_nii_fail(io->err, BMVP_E_ARG, NULL, "fixed: only %lld samples at %g mm lie on the mask or the "
                                "foreground", (long long)s->n, step);
    }
    bmvpi_nii_free(&io->allocator, region);
    if (st == BMVP_OK) st = bmvpi_nii_range(&low, &high, s->u, s->n, 0.1, 99.9, io);
    for (i = 0; i < s->n && st == BMVP_OK; ++i) {
        const float b = (s->u[i] - low) / (high - low) * (float)(bins - 1) + 0.5f;
        s->bin[i] = (unsigned char)(b < 0 ? 0 : b > (float)(bins - 1) ? bins - 1 : (int)b);
    }
    return st;
}

/* Values and gradients of `moving` at n <= 64 samples from i on, in bins. */
static void bmvpi_nii_read_block(bmvpi_nii_cost *q, int64_t i, int n)
{
    const bmvp_nii_volume *m = q->moving;
    const float *b = q->b, scale = (float)(q->bins - 5) / (q->high - q->low), top = (float)(q->bins - 3) - 1e-3f;
    const int64_t sy = m->dim[0], sz = m->dim[0] * m->dim[1];
    const float *px = q->s.p[0] + i, *py = q->s.p[1] + i, *pz = q->s.p[2] + i;
    float x[3][BMVPI_NII_BLOCK], last[3];
    int a, k;
    for (a = 0; a < 3; ++a) {
        last[a] = (float)(m->dim[a] - 1);
        for (k = 0; k < n; ++k) x[a][k] = b[4 * a] * px[k] + b[4 * a + 1] * py[k] + b[4 * a + 2] * pz[k] + b[4 * a + 3];
        for (k = 0; k < n && q->shift[a]; ++k) x[a][k] += q->shift[a][i + k];
    }
    for (k = 0; k < n; ++k) {
        int64_t c[3];
        float f[3], u, s;
        const float *r;
        if (!(x[0][k] >= 0 && x[0][k] <= last[0] && x[1][k] >= 0 && x[1][k] <= last[1] && x[2][k] >= 0 &&
              x[2][k] <= last[2])) {
            q->s.u[i + k] = -1;
            continue;
        }
        for (a = 0; a < 3; ++a) {
            c[a] = (int64_t)x[a][k];
            c[a] -= c[a] == m->dim[a] - 1;
            f[a] = x[a][k] - (float)c[a];
        }
        r = m->data + c[2] * sz + c[1] * sy + c[0];
        {
            const float *r1 = r + sy, *r2 = r + sz, *r3 = r + sz + sy;
            const float g0 = r[1] - r[0], g1 = r1[1] - r1[0], g2 = r2[1] - r2[0], g3 = r3[1] - r3[0];
            const float w0 = r[0] + f[0] * g0, w1 = r1[0] + f[0] * g1, w2 = r2[0] + f[0] * g2, w3 = r3[0] + f[0] * g3;
            const float h0 = w1 - w0, h1 = w3 - w2, k0 = w0 + f[1] * h0, k1 = w2 + f[1] * h1;
            const float d0 = g0 + f[1] * (g1 - g0), d1 = g2 + f[1] * (g3 - g2);
            u = 2 + (k0 + f[2] * (k1 - k0) - q->low) * scale;
            s = u < 2 || u > top ? 0 : scale;
            q->s.g[0][i + k] = s * (d0 + f[2] * (d1 - d0));
            q->s.g[1][i + k] = s * (h0 + f[2] * (h1 - h0));
            q->s.g[2][i + k] = s * (k1 - k0);
        }
        q->s.u[i + k] = u < 2 ? 2 : u > top ? top : u;
    }
}

static void bmvpi_nii_chunk(const bmvpi_nii_cost *q, int64_t task, int64_t *from, int64_t *to)
{
    *from = q->s.n * task / BMVPI_NII_CHUNKS;
    *to = q->s.n * (task + 1) / BMVPI_NII_CHUNKS;
}

/* One chunk's joint histogram. */
static void bmvpi_nii_hist_task(void *arg, int64_t task, int worker)
{
    bmvpi_nii_cost *q = (bmvpi_nii_cost *)arg;
    float *hist = q->hist[task];
    int64_t i, to, count = 0;
    (void)worker;
    memset(hist, 0, (size_t)(q->bins * q->bins) * sizeof *hist);
    bmvpi_nii_chunk(q, task, &i, &to);
    for (; i < to; i += BMVPI_NII_BLOCK) {
        const int n = (int)bmvpi_nii_min(to - i, BMVPI_NII_BLOCK);
        int k;
        bmvpi_nii_read_block(q, i, n);
        for (k = 0; k < n; ++k) {
            const float u = q->s.u[i + k];
            const int j = (int)u;
            const float e = u - (float)j, o = 1 - e;
            float *h;
            if (u < 0) continue;
            h = hist + q->s.bin[i + k] * q->bins + j - 1;
            h[0] += o * o * o * (1.f / 6);
            h[1] += 2.f / 3 - e * e * (1 - 0.5f * e);
            h[2] += 2.f / 3 - o * o * (1 - 0.5f * o);
            h[3] += e * e * e * (1.f / 6);
            ++count;
        }
    }
    q->count[task] = count;
}

static void bmvpi_nii_run_chunks(bmvpi_nii_cost *q, bmvp_task_fn fn)
{
    int64_t i;
    if (q->parallel) q->parallel(q->parallel_user, BMVPI_NII_CHUNKS, fn, q);
    else for (i = 0; i < BMVPI_NII_CHUNKS; ++i) fn(q, i, 0);
}

/* NMI of the joint histogram q->p (counts, made probabilities here), and the table of its derivatives. */
static double bmvpi_nii_entropies(bmvpi_nii_cost *q)
{
    const int nb = q->bins;
    double hf = 0, hm = 0, hj = 0, pm[BMVPI_NII_MOST_BINS];
    int i, j;
    memset(pm, 0, sizeof pm);
    for (i = 0; i < nb; ++i) {
        double pf = 0;
        for (j = 0; j < nb; ++j) {
            const double v = q->p[i * nb + j] /= q->inside;
            pf += v;
            pm[j] += v;
            if (v > 1e-12) hj -= v * log(v);
        }
        if (pf > 1e-12) hf -= pf * log(pf);
    }
    for (j = 0; j < nb; ++j)
        if (pm[j] > 1e-12) hm -= pm[j] * log(pm[j]);
    if (!(hj > 1e-12)) return 0;
    q->nmi = (hf + hm) / hj;
    for (i = 0; i < nb; ++i)
        for (j = 0; j < nb; ++j) {
            const double v = q->p[i * nb + j];
            q->table[i * nb + j] = v > 1e-12 ? (float)((q->nmi * log(v) - log(pm[j])) / hj) : 0;
        }
    return q->nmi;
}

static bmvp_status bmvpi_nii_new_cost(bmvpi_nii_cost **q, int bins, bmvp_parallel_fn parallel, void *user,
                                      const bmvpi_nii_io *io)
{
    void *block;
    bmvp_status s = bmvpi_nii_take(&block, io, (int64_t)(sizeof **q + BMVPI_NII_CHUNKS * sizeof *(*q)->hist));
    *q = (bmvpi_nii_cost *)block;
    if (s != BMVP_OK) return s;
    memset(*q, 0, sizeof **q);
    (*q)->hist = (float (*)[BMVPI_NII_MOST_BINS * BMVPI_NII_MOST_BINS])(void *)(*q + 1);
    (*q)->bins = bins;
    (*q)->parallel = parallel;
    (*q)->parallel_user = user;
    return s;
}

/* Makes a level's volumes those of q, and draws its samples; s.block is the caller's to free. */
static bmvp_status bmvpi_nii_enter_level(bmvpi_nii_cost *q, const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving,
                                         const bmvp_nii_volume *mask, double step, int64_t samples,
                                         const bmvpi_nii_io *io)
{
    const int64_t n = moving->dim[0] * moving->dim[1] * moving->dim[2];
    bmvp_status s = bmvp_nii_affine_inverse(q->to_index, moving->affine, io->err);
    q->moving = moving;
    if (s == BMVP_OK) s = bmvpi_nii_range(&q->low, &q->high, moving->data, n, 0.1, 99.9, io);
    if (s == BMVP_OK) s = bmvpi_nii_draw_samples(&q->s, fixed, mask, step, samples, q->bins, io);
    return s;
}

/* NMI at x -> linear (x - centre) + t, moving mm. 0 where too few samples are inside. */
static double bmvpi_nii_nmi(bmvpi_nii_cost *q, const double linear[9], const double t[3])
{
    int i, j, k;
    for (i = 0; i < 3; ++i) {
        double v = q->to_index[4 * i + 3];
        for (k = 0; k < 3; ++k) v += q->to_index[4 * i + k] * t[k];
        q->b[4 * i + 3] = (float)v;
        for (j = 0; j < 3; ++j) {
            for (v = 0, k = 0; k < 3; ++k) v += q->to_index[4 * i + k] * linear[3 * k + j];
            q->b[4 * i + j] = (float)v;
        }
    }
    ++q->evaluations;
    bmvpi_nii_run_chunks(q, bmvpi_nii_hist_task);
    memset(q->p, 0, (size_t)(q->bins * q->bins) * sizeof *q->p);
    q->inside = q->nmi = 0;
    for (k = 0; k < BMVPI_NII_CHUNKS; ++k) {
        q->inside += (double)q->count[k];
        for (i = 0; i < q->bins * q->bins; ++i) q->p[i] += (double)q->hist[k][i];
    }
    return q->inside < 64 || q->inside < 0.1 * (double)q->s.n ? 0 : bmvpi_nii_entropies(q);
}

/* Derivative of N_in NMI to sample i's value in bins, by the table; the sample lies inside. */
static float bmvpi_nii_score(const bmvpi_nii_cost *q, int64_t i)
{
    const float u = q->s.u[i];
    const int bin = (int)u;
    const float e = u - (float)bin, o = 1 - e;
    const float *t = q->table + q->s.bin[i] * q->bins + bin - 1;
    return -0.5f * o * o * t[0] + e * (1.5f * e - 2) * t[1] - o * (1.5f * o - 2) * t[2] + 0.5f * e * e * t[3];
}

/* One chunk's sums of score * gradient * (p, 1), and of their outer products. */
static void bmvpi_nii_gradient_task(void *arg, int64_t task, int worker)
{
    bmvpi_nii_cost *q = (bmvpi_nii_cost *)arg;
    double *sum = q->sum[task], *product = q->product[task];
    int64_t i, to;
    (void)worker;
    memset(sum, 0, sizeof q->sum[0]);
    memset(product, 0, sizeof q->product[0]);
    bmvpi_nii_chunk(q, task, &i, &to);
    for (; i < to; ++i) {
        float score, v[12];
        int a, b;
        if (q->s.u[i] < 0) continue;
        score = bmvpi_nii_score(q, i);
        for (a = 0; a < 3; ++a) {
            const float w = score * q->s.g[a][i];
            v[4 * a] = w * q->s.p[0][i];
            v[4 * a + 1] = w * q->s.p[1][i];
            v[4 * a + 2] = w * q->s.p[2][i];
            v[4 * a + 3] = w;
        }
        for (a = 0; a < 12; ++a) sum[a] += (double)v[a];
        if (!q->outer) continue;
        for (a = 0; a < 12; ++a)
            for (b = 0; b <= a; ++b) product[12 * a + b] += (double)v[a] * (double)v[b];
    }
}

/* dNMI / d(linear, t) as 3 x 4 numbers in mm, after bmvpi_nii_nmi; h (may be NULL): mean outer product, 12 x 12. */
static void bmvpi_nii_nmi_gradient(bmvpi_nii_cost *q, double g[12], double *h)
{
    double sum[12], full[144], half[144];
    int a, b, c, k, i, j;
    q->outer = h != NULL;
    bmvpi_nii_run_chunks(q, bmvpi_nii_gradient_task);
    memset(sum, 0, sizeof sum);
    memset(full, 0, sizeof full);
    for (k = 0; k < BMVPI_NII_CHUNKS; ++k) {
        for (i = 0; i < 12; ++i) sum[i] += q->sum[k][i] / q->inside;
        for (i = 0; i < 144; ++i) full[i] += q->product[k][i] / q->inside;
    }
    for (a = 0; a < 3; ++a)
        for (b = 0; b < 4; ++b)
            for (g[4 * a + b] = 0, c = 0; c < 3; ++c) g[4 * a + b] += q->to_index[4 * c + a] * sum[4 * c + b];
    if (!h) return;
    for (i = 0; i < 12; ++i)
        for (j = i + 1; j < 12; ++j) full[12 * i + j] = full[12 * j + i];
    for (i = 0; i < 12; ++i)                                /* K full K', K = R' (x) 1 on both sides */
        for (a = 0; a < 3; ++a)
            for (b = 0; b < 4; ++b)
                for (half[12 * i + 4 * a + b] = 0, c = 0; c < 3; ++c)
                    half[12 * i + 4 * a + b] += full[12 * i + 4 * c + b] * q->to_index[4 * c + a];
    for (j = 0; j < 12; ++j)
        for (a = 0; a < 3; ++a)
            for (b = 0; b < 4; ++b)
                for (h[12 * (4 * a + b) + j] = 0, c = 0; c < 3; ++c)
                    h[12 * (4 * a + b) + j] += half[12 * (4 * c + b) + j] * q->to_index[4 * c + a];
}

/* >>pose -------------------------------------------------------------------------------------------------------
   x -> R(w) base exp(S) (x - centre) + t0 + t. Turns, scales and shears are counted in mm at a radius of 60 mm, so that
   all parameters have the scale of mm and one step limit serves all. */

static const double bmvpi_nii_radius = 60;

typedef struct bmvpi_nii_pose {
    double base[9], t0[3];
    double th[12];                         /* t; w; Sxx Syy Szz; Sxy Sxz Syz */
    int n;                                 /* 6, 7 (one scale), 9, 12 */
    double score;
} bmvpi_nii_pose;

static void bmvpi_nii_matmul3(double out[9], const double a[9], const double b[9])
{
    double c[9];
    int i, j;
    for (i = 0; i < 3; ++i)
        for (j = 0; j < 3; ++j) c[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
    memcpy(out, c, sizeof c);
}

/* Matrix exponential: the series of a / 16, squared four times. */
static void bmvpi_nii_exp3(double out[9], const double a[9])
{
    double x[9], term[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, sum[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 };
    int i, k;
    for (i = 0; i < 9; ++i) x[i] = a[i] / 16;
    for (k = 1; k < 10; ++k) {
        bmvpi_nii_matmul3(term, term, x);
        for (i = 0; i < 9; ++i) sum[i] += term[i] /= k;
    }
    for (k = 0; k < 4; ++k) bmvpi_nii_matmul3(sum, sum, sum);
    memcpy(out, sum, sizeof sum);
}

static void bmvpi_nii_turn3(double r[9], double x, double y, double z)
{
    const double w[9] = { 0, -z, y, z, 0, -x, -y, x, 0 };
    bmvpi_nii_exp3(r, w);
}

static void bmvpi_nii_pose_linear(double linear[9], const bmvpi_nii_pose *p)
{
    const double *h = p->th, r = bmvpi_nii_radius;
    const double sx = p->n >= 7 ? h[6] : 0, sy = p->n >= 9 ? h[7] : sx, sz = p->n >= 9 ? h[8] : sx;
    const double a = p->n == 12 ? h[9] : 0, b = p->n == 12 ? h[10] : 0, c = p->n == 12 ? h[11] : 0;
    const double s[9] = { sx / r, a / r, b / r, a / r, sy / r, c / r, b / r, c / r, sz / r };
    double e[9];
    bmvpi_nii_turn3(linear, h[3] / r, h[4] / r, h[5] / r);
    bmvpi_nii_exp3(e, s);
    bmvpi_nii_matmul3(linear, linear, p->base);
    bmvpi_nii_matmul3(linear, linear, e);
}

/* How often parameter k stands in |S|^2. */
static double bmvpi_nii_pose_weight(const bmvpi_nii_pose *p, int k)
{
    return k < 6 ? 0 : p->n == 7 ? 3 : k >= 9 ? 2 : 1;
}

static double bmvpi_nii_pose_value(bmvpi_nii_cost *q, const bmvpi_nii_pose *p)
{
    double linear[9], t[3], v;
    int k;
    bmvpi_nii_pose_linear(linear, p);
    for (k = 0; k < 3; ++k) t[k] = p->t0[k] + p->th[k];
    v = bmvpi_nii_nmi(q, linear, t);
    for (k = 6; k < p->n; ++k)
        v -= q->prior * bmvpi_nii_pose_weight(p, k) * p->th[k] * p->th[k] / (bmvpi_nii_radius * bmvpi_nii_radius);
    return v;
}

/* Gradient to th after pose_value; h (may be NULL): outer products, rows of 12. */
static void bmvpi_nii_pose_gradient(bmvpi_nii_cost *q, const bmvpi_nii_pose *p, double g[12], double *h)
{
    double full[12], outer[144], jac[12][12];
    const double r2 = bmvpi_nii_radius * bmvpi_nii_radius;
    int k, l, i, j;
    bmvpi_nii_nmi_gradient(q, full, h ? outer : NULL);
    memset(jac, 0, sizeof jac);
    for (k = 0; k < p->n; ++k) {
        if (k < 3) {
            jac[k][4 * k + 3] = 1;
        } else {
            bmvpi_nii_pose low = *p, high = *p;
            double a[9], b[9];
            low.th[k] -= 1e-3;
            high.th[k] += 1e-3;
            bmvpi_nii_pose_linear(a, &low);
            bmvpi_nii_pose_linear(b, &high);
            for (i = 0; i < 9; ++i) jac[k][4 * (i / 3) + i % 3] = (b[i] - a[i]) / 2e-3;
        }
        for (g[k] = 0, i = 0; i < 12; ++i) g[k] += jac[k][i] * full[i];
        g[k] -= 2 * q->prior * bmvpi_nii_pose_weight(p, k) * p->th[k] / r2;
    }
    for (k = 0; k < p->n && h; ++k)
        for (l = 0; l < p->n; ++l)
            for (h[12 * k + l] = 0, i = 0; i < 12; ++i)
                for (j = 0; j < 12; ++j) h[12 * k + l] += jac[k][i] * outer[12 * i + j] * jac[l][j];
}

/* Mean mm, about, between two poses over a ball of the radius. */
static double bmvpi_nii_pose_apart(const bmvpi_nii_pose *a, const bmvpi_nii_pose *b)
{
    double la[9], lb[9], d2 = 0;
    int k;
    bmvpi_nii_pose_linear(la, a);
    bmvpi_nii_pose_linear(lb, b);
    for (k = 0; k < 9; ++k) d2 += bmvpi_nii_radius * bmvpi_nii_radius * (la[k] - lb[k]) * (la[k] - lb[k]) / 3;
    for (k = 0; k < 3; ++k) {
        const double d = a->t0[k] + a->th[k] - b->t0[k] - b->th[k];
        d2 += d * d;
    }
    return sqrt(d2);
}

/* >>optimiser --------------------------------------------------------------------------------------------------
   BFGS uphill. The first inverse Hessian is that of the outer products of the samples' scores (their mean is the Fisher
   information, which near the optimum is the Hessian): Newton-like from the first step on. */

/* Inverse of a symmetric positive n x n matrix in rows of 12; 0 when it is not positive. */
static int bmvpi_nii_invert(double *out, const double *a, int n)
{
    double l[144], y[12];
    int i, j, k, c;
    memset(l, 0, sizeof l);
    for (i = 0; i < n; ++i)
        for (j = 0; j <= i; ++j) {
            double s = a[12 * i + j];
            for (k = 0; k < j; ++k) s -= l[12 * i + k] * l[12 * j + k];
            if (i == j && !(s > 0)) return 0;
            l[12 * i + j] = i == j ? sqrt(s) : s / l[12 * j + j];
        }
    for (c = 0; c < n; ++c) {
        for (i = 0; i < n; ++i) {
            y[i] = i == c;
            for (k = 0; k < i; ++k) y[i] -= l[12 * i + k] * y[k];
            y[i] /= l[12 * i + i];
        }
        for (i = n - 1; i >= 0; --i) {
            double s = y[i];
            for (k = i + 1; k < n; ++k) s -= l[12 * k + i] * out[12 * k + c];
            out[12 * i + c] = s / l[12 * i + i];
        }
    }
    return 1;
}

/* Gradient, and the inverse of the outer products with 5 % of the diagonal and 1 % of its mean added. */
static int bmvpi_nii_fresh(bmvpi_nii_cost *q, const bmvpi_nii_pose *p, double g[12], double inverse[144])
{
    double h[144], trace = 0;
    int k;
    bmvpi_nii_pose_gradient(q, p, g, h);
    for (k = 0; k < p->n; ++k) trace += h[13 * k];
    for (k = 0; k < p->n; ++k) h[13 * k] += 0.05 * h[13 * k] + 0.01 * trace / p->n + 1e-12;
    return bmvpi_nii_invert(inverse, h, p->n);
}

/* BFGS update of the inverse for step s and fall of the gradient y. */
static void bmvpi_nii_bfgs(double *b, int n, const double *s, const double *y)
{
    double by[12], sy = 0, yby = 0;
    int k, l;
    for (k = 0; k < n; ++k) {
        sy += s[k] * y[k];
        for (by[k] = 0, l = 0; l < n; ++l) by[k] += b[12 * k + l] * y[l];
    }
    if (!(sy > 1e-14)) return;
    for (k = 0; k < n; ++k) yby += y[k] * by[k];
    for (k = 0; k < n; ++k)
        for (l = 0; l < n; ++l)
            b[12 * k + l] += (1 + yby / sy) * s[k] * s[l] / sy - (by[k] * s[l] + s[k] * by[l]) / sy;
}

/* Once asked for, nobody is asked again. */
static int bmvpi_nii_stopped(bmvpi_nii_cost *q)
{
    if (!q->stop && q->progress) q->stop = q->progress(q->progress_user, "poses", q->evaluations, 0) != 0;
    return q->stop;
}

static bmvp_status bmvpi_nii_cancelled(bmvp_error *err)
{
    return bmvpi_nii_fail(err, BMVP_E_CANCELLED, NULL, "stopped, as was asked for");
}

/* From p uphill on a level of `step` mm; p->score is the value reached. */
static void bmvpi_nii_climb(bmvpi_nii_cost *q, bmvpi_nii_pose *p, double step)
{
    const double least = 0.01 * step;
    double g[12], gn[12], b[144], d[12], s[12], y[12];
    int it, k, l, fresh = 1;
    if (bmvpi_nii_stopped(q)) return;
    p->score = bmvpi_nii_pose_value(q, p);
    if (!(p->score > 0) || !bmvpi_nii_fresh(q, p, g, b)) return;
    for (it = 0; it < 30 && !bmvpi_nii_stopped(q); ++it) {
        double slope = 0, big = 0, a, gain;
        bmvpi_nii_pose t = *p;
        int found = 0;
        for (k = 0; k < p->n; ++k) {
            for (d[k] = 0, l = 0; l < p->n; ++l) d[k] += b[12 * k + l] * g[l];
            slope += d[k] * g[k];
            big = fmax(big, fabs(d[k]));
        }
        for (a = big > 1.5 * step ? 1.5 * step / big : 1, k = 0; k < 8 && slope > 0 && !found; ++k) {
            for (l = 0; l < p->n; ++l) t.th[l] = p->th[l] + a * d[l];
            t.score = bmvpi_nii_pose_value(q, &t);
            found = t.score > p->score + 1e-4 * a * slope;
            if (!found && a * big < 0.2 * least) break;
            if (!found) a *= 0.4;
        }
        if (!found) {                                       /* once more from fresh outer products, then enough */
            if (fresh) return;
            bmvpi_nii_pose_value(q, p);
            if (!bmvpi_nii_fresh(q, p, g, b)) return;
            fresh = 1;
            continue;
        }
        bmvpi_nii_pose_gradient(q, &t, gn, NULL);
        for (k = 0; k < p->n; ++k) {
            s[k] = a * d[k];
            y[k] = g[k] - gn[k];
        }
        bmvpi_nii_bfgs(b, p->n, s, y);
        gain = t.score - p->score;
        *p = t;
        memcpy(g, gn, sizeof g);
        fresh = 0;
        if (a * big < least || gain < 1e-7) return;
    }
}

/* >>search -----------------------------------------------------------------------------------------------------
   On the coarsest level the volumes are laid on each other by their headers, by their centres of mass and by the
   centres of their grids, each in 27 turns; the best three of each are optimised, and the best two (four when scales
   follow) go on. Where scales follow, the three without turn go on, too, as they are: a head that is scaled otherwise
   along each axis may lie best in a turn that it does not have, as long as one scale is all that it gets. */

enum { BMVPI_NII_KEEP = 5, BMVPI_NII_POSES = 3 * BMVPI_NII_KEEP };

typedef struct bmvpi_nii_poses {
    bmvpi_nii_pose at[BMVPI_NII_POSES], plain[3];
    int n, n_plain;
} bmvpi_nii_poses;

static bmvp_status bmvpi_nii_mass(double c[3], const bmvp_nii_volume *v, const bmvpi_nii_io *io)
{
    float t = 0, top = 1;
    double sum = 0, p[3] = { 0, 0, 0 };
    int64_t x, y, z, i = 0;
    int a;
    bmvp_status s = bmvpi_nii_threshold(&t, &top, v, io);
    if (s != BMVP_OK) return s;
    for (z = 0; z < v->dim[2]; ++z)
        for (y = 0; y < v->dim[1]; ++y)
            for (x = 0; x < v->dim[0]; ++x, ++i) {
                const double w = v->data[i] > t ? (double)(v->data[i] < top ? v->data[i] : top) : 0;
                sum += w;
                p[0] += w * (double)x;
                p[1] += w * (double)y;
                p[2] += w * (double)z;
            }
    for (a = 0; a < 3; ++a) p[a] = sum > 0 ? p[a] / sum : 0.5 * (double)(v->dim[a] - 1);
    bmvpi_nii_apply(c, v->affine, p);
    return s;
}

static void bmvpi_nii_middle(double c[3], const bmvp_nii_volume *v)
{
    int a;
    for (a = 0; a < 3; ++a) c[a] = 0.5 * (double)(v->dim[a] - 1);
    bmvpi_nii_apply(c, v->affine, c);
}

/* Rotation number r of the search: 27 small turns, times the 24 turns of a cube. */
static void bmvpi_nii_search_turn(double out[9], int r)
{
    static const int axes[6][3] = { { 0, 1, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 0, 2, 1 }, { 2, 1, 0 }, { 1, 0, 2 } };
    const double angle = 20 * 3.14159265358979323846 / 180;
    const int small = r % 27, cube = r / 27, order = cube / 4, x = cube & 1 ? -1 : 1, y = cube & 2 ? -1 : 1;
    double c[9];
    bmvpi_nii_turn3(out, (small % 3 - 1) * angle, (small / 3 % 3 - 1) * angle, (small / 9 - 1) * angle);
    memset(c, 0, sizeof c);
    c[axes[order][0]] = x;
    c[3 + axes[order][1]] = y;
    c[6 + axes[order][2]] = x * y * (order < 3 ? 1 : -1);
    bmvpi_nii_matmul3(out, out, c);
}

/* Puts p among the best `keep` of list[0 .. *n). */
static void bmvpi_nii_keep(bmvpi_nii_pose *list, int *n, int keep, const bmvpi_nii_pose *p)
{
    int at = *n < keep ? (*n)++ : p->score > list[keep - 1].score ? keep - 1 : -1;
    if (at < 0) return;
    for (; at > 0 && list[at - 1].score < p->score; --at) list[at] = list[at - 1];
    list[at] = *p;
}

/* Sorts by score and drops what lies within `apart` mm of a better one. */
static void bmvpi_nii_distinct(bmvpi_nii_poses *l, double apart)
{
    bmvpi_nii_poses all = *l;
    int i, j, n = 0;
    for (i = 0, l->n = 0; i < all.n; ++i) bmvpi_nii_keep(l->at, &l->n, BMVPI_NII_POSES, &all.at[i]);
    for (i = 0; i < l->n; ++i) {
        int twin = 0;
        for (j = 0; j < n && !twin; ++j) twin = bmvpi_nii_pose_apart(&l->at[i], &l->at[j]) < apart;
        if (!twin) l->at[n++] = l->at[i];
    }
    l->n = n;
}

/* The poses of the coarsest level. */
static bmvp_status bmvpi_nii_find(bmvpi_nii_cost *q, bmvpi_nii_poses *l, const bmvp_nii_volume *fixed,
                                  const bmvp_nii_register_how *how, const double start[16], double step,
                                  const bmvpi_nii_io *io)
{
    const int none = how->search == BMVP_NII_SEARCH_NONE, all = how->search == BMVP_NII_SEARCH_ALL;
    double from[3][3], to[3][3], base[9], turn[9];
    int i, r, a, b, k;
    bmvp_status s = bmvpi_nii_mass(from[1], fixed, io);
    if (s == BMVP_OK) s = bmvpi_nii_mass(to[1], q->moving, io);
    if (s != BMVP_OK) return s;
    memcpy(from[0], q->s.centre, sizeof from[0]);
    bmvpi_nii_apply(to[0], start, from[0]);
    bmvpi_nii_middle(from[2], fixed);
    bmvpi_nii_middle(to[2], q->moving);
    for (i = 0; i < 9; ++i) base[i] = start[4 * (i / 3) + i % 3];
    for (l->n = l->n_plain = 0, i = 0; i < (none ? 1 : 3); ++i) {
        int kept = 0;
        bmvpi_nii_pose *list = l->at + l->n;
        for (r = none ? 13 : 0; r < (none ? 14 : all ? 27 * 24 : 27); ++r) {    /* 13: no turn */
            bmvpi_nii_pose p;
            memset(&p, 0, sizeof p);
            p.n = none ? how->dof : BMVP_NII_RIGID;
            bmvpi_nii_search_turn(turn, r);
            bmvpi_nii_matmul3(p.base, turn, base);
            for (a = 0; a < 3; ++a)                         /* about the point that is put on its partner */
                for (p.t0[a] = to[i][a], b = 0; b < 3; ++b)
                    p.t0[a] += p.base[3 * a + b] * (q->s.centre[b] - from[i][b]);
            p.score = bmvpi_nii_pose_value(q, &p);
            if (r == 13 && how->dof > BMVP_NII_RIGID && !none) l->plain[l->n_plain++] = p;
            bmvpi_nii_keep(list, &kept, all ? BMVPI_NII_KEEP : 3, &p);
            if (bmvpi_nii_stopped(q)) return bmvpi_nii_cancelled(io->err);
        }
        l->n += kept;
    }
    for (k = 0; k < l->n; ++k) bmvpi_nii_climb(q, &l->at[k], step);
    bmvpi_nii_distinct(l, 4);
    return s;
}

/* The best two of a bracket of scales, that do not lie beside each other. */
static void bmvpi_nii_scales(double best[2], bmvpi_nii_cost *q, const bmvpi_nii_pose *pose)
{
    static const double bracket[5] = { 0.8, 0.9, 1, 1.12, 1.25 };
    bmvpi_nii_pose p = *pose;
    double v[5];
    int first = 0, second = -1, i;
    p.n = BMVP_NII_SIMILARITY;
    for (i = 0; i < 5; ++i) {
        p.th[6] = log(bracket[i]) * bmvpi_nii_radius;
        v[i] = bmvpi_nii_pose_value(q, &p);
        if (v[i] > v[first]) first = i;
    }
    for (i = 0; i < 5; ++i)
        if ((i - first > 1 || first - i > 1) && (second < 0 || v[i] > v[second])) second = i;
    best[0] = log(bracket[first]) * bmvpi_nii_radius;
    best[1] = log(bracket[second]) * bmvpi_nii_radius;
}

/* Scales and shears: the best four poses, each with two scales of a bracket, get one scale; those that did not come to
   the same place get 9 and 12 degrees of freedom in turn. The plain ones get all at once. */
static void bmvpi_nii_free_scales(bmvpi_nii_cost *q, bmvpi_nii_poses *l, int dof, double step)
{
    bmvpi_nii_poses all;
    int c, k;
    memset(&all, 0, sizeof all);
    for (c = 0; c < l->n && c < 4 && !q->stop; ++c) {
        double scale[2];
        bmvpi_nii_scales(scale, q, &l->at[c]);
        for (k = 0; k < 2; ++k) {
            bmvpi_nii_pose *p = &all.at[all.n++];
            *p = l->at[c];
            p->n = BMVP_NII_SIMILARITY;
            p->th[6] = scale[k];
            bmvpi_nii_climb(q, p, step);
        }
    }
    bmvpi_nii_distinct(&all, 2);
    for (c = 0; c < all.n; ++c) {
        bmvpi_nii_pose *p = &all.at[c];
        if (dof >= BMVP_NII_SCALES) {
            p->n = BMVP_NII_SCALES;
            p->th[7] = p->th[8] = p->th[6];
            bmvpi_nii_climb(q, p, step);
        }
        if (dof == BMVP_NII_AFFINE) {
            p->n = BMVP_NII_AFFINE;
            bmvpi_nii_climb(q, p, step);
        }
    }
    for (c = 0; c < l->n_plain; ++c) {
        double scale[2];
        bmvpi_nii_pose *p = &all.at[all.n++];
        *p = l->plain[c];
        bmvpi_nii_scales(scale, q, p);
        p->th[6] = p->th[7] = p->th[8] = scale[0];
        p->n = dof;
        bmvpi_nii_climb(q, p, step);
    }
    bmvpi_nii_distinct(&all, 0);
    l->at[0] = all.at[0];
    l->n = 1;
}

/* >>registration ----------------------------------------------------------------------------------------------- */

static bmvp_status bmvpi_nii_check_registered(const bmvp_nii_volume *v, const char *name, bmvp_error *err)
{
    double inverse[16];
    int64_t i, n, bad = 0, same = 0;
    int a;
    if (!v || !v->data) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s has no voxels", name);
    for (a = 0; a < 3; ++a)
        if (v->dim[a] < 2)
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s: dim[%d] is %lld: one slice cannot be registered", name, a,
                                  (long long)v->dim[a]);
    if (bmvp_nii_affine_inverse(inverse, v->affine, NULL) != BMVP_OK)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s: affine is singular or not finite", name);
    n = v->dim[0] * v->dim[1] * v->dim[2];
    for (i = 0; i < n; ++i) {
        bad += !bmvpi_nii_finite((double)v->data[i]);
        same += !(v->data[i] < v->data[0]) && !(v->data[i] > v->data[0]);
    }
    if (bad > 0)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s: %lld voxels are NaN or infinite; replace them first", name,
                              (long long)bad);
    if (same == n) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s: all voxels are %g", name, (double)v->data[0]);
    return BMVP_OK;
}

static bmvp_status bmvpi_nii_check_how(bmvp_nii_register_how *how, const bmvp_nii_volume *fixed, bmvp_error *err)
{
    int l;
    if (how->dof == 0) how->dof = BMVP_NII_RIGID;
    if (how->bins == 0) how->bins = 32;
    if (how->samples == 0) how->samples = 200000;
    if (!(how->level[0] > 0))
        for (l = 0; l < 3; ++l) how->level[l] = 8 >> l;
    if (how->dof != BMVP_NII_RIGID && how->dof != BMVP_NII_SIMILARITY && how->dof != BMVP_NII_SCALES &&
        how->dof != BMVP_NII_AFFINE)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "dof is %d, must be 6, 7, 9 or 12", how->dof);
    if (how->bins < 8 || how->bins > BMVPI_NII_MOST_BINS || how->samples < 64)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "bins is %d (8 to 64), samples %d (64 or more)", how->bins,
                              how->samples);
    for (l = 1; l < 4; ++l)
        if (how->level[l] > 0 && !(how->level[l] < how->level[l - 1]))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "level[%d] is %g mm: levels go from coarse to fine", l,
                                  how->level[l]);
    if (how->search < BMVP_NII_SEARCH_NONE || how->search > BMVP_NII_SEARCH_ALL)
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "search is %d, must be -1, 0 or 1", how->search);
    if (how->mask && (!how->mask->data || memcmp(how->mask->dim, fixed->dim, sizeof fixed->dim) != 0))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "mask has no voxels or another grid than fixed");
    if (how->start && !bmvpi_nii_finite16(how->start))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "start is not finite");
    return BMVP_OK;
}

/* The pose as a matrix on mm. */
static void bmvpi_nii_pose_matrix(double m[16], const bmvpi_nii_pose *p, const double centre[3])
{
    double linear[9];
    int a, b;
    bmvpi_nii_pose_linear(linear, p);
    bmvpi_nii_identity(m);
    for (a = 0; a < 3; ++a) {
        m[4 * a + 3] = p->t0[a] + p->th[a];
        for (b = 0; b < 3; ++b) {
            m[4 * a + b] = linear[3 * a + b];
            m[4 * a + 3] -= linear[3 * a + b] * centre[b];
        }
    }
}

/* Samples of the next level have another centre: the same map about that one. */
static void bmvpi_nii_move_centre(bmvpi_nii_pose *p, const double from[3], const double to[3])
{
    double linear[9];
    int a, b;
    bmvpi_nii_pose_linear(linear, p);
    for (a = 0; a < 3; ++a)
        for (b = 0; b < 3; ++b) p->t0[a] += linear[3 * a + b] * (to[b] - from[b]);
}

/* Level number l: from its poses to those that go on. */
static bmvp_status bmvpi_nii_run_level(bmvpi_nii_cost *q, bmvpi_nii_poses *poses, const bmvp_nii_volume *fixed, int l,
                                       int last, const bmvp_nii_register_how *how, bmvp_nii_registration *r,
                                       const bmvpi_nii_io *io)
{
    const double step = how->level[l];
    double one[16];
    int k, pass = how->dof > BMVP_NII_RIGID ? 4 : 2;
    bmvp_status s = BMVP_OK;
    bmvpi_nii_identity(one);
    if (l == 0) {
        s = bmvpi_nii_find(q, poses, fixed, how, how->start ? how->start : one, step, io);
        if (s != BMVP_OK || q->stop) return s;
        if (!(poses->at[0].score > 0))
            return bmvpi_nii_fail(io->err, BMVP_E_ARG, NULL, "no pose was found in which the volumes overlap");
        r->nmi_coarse = poses->at[0].score;
        for (k = 1; k < poses->n && !(r->runner_up > 0); ++k)
            if (bmvpi_nii_pose_apart(&poses->at[0], &poses->at[k]) > 10) r->runner_up = poses->at[k].score;
    } else {
        for (k = 0; k < poses->n; ++k) bmvpi_nii_climb(q, &poses->at[k], step);
        bmvpi_nii_distinct(poses, 0);
    }
    if (q->stop) return bmvpi_nii_cancelled(io->err);
    if (how->dof > BMVP_NII_RIGID && l == (last > 0) && how->search != BMVP_NII_SEARCH_NONE)
        bmvpi_nii_free_scales(q, poses, how->dof, step);
    else if (l > 0) pass = 1;
    if (poses->n > pass) poses->n = pass;
    return s;
}

static bmvp_status bmvpi_nii_run_levels(bmvp_nii_registration *r, bmvpi_nii_cost *q, const bmvp_nii_volume *fixed,
                                        const bmvp_nii_volume *moving, const bmvp_nii_register_how *how, int levels,
                                        const bmvpi_nii_io *io)
{
    bmvpi_nii_poses poses;
    double centre[3] = { 0, 0, 0 };
    int l, k;
    bmvp_status s = BMVP_OK;
    memset(&poses, 0, sizeof poses);
    for (l = 0; l < levels && s == BMVP_OK; ++l) {
        s = bmvpi_nii_enter_level(q, &fixed[l], &moving[l], how->mask, how->level[l], how->samples, io);
        for (k = 0; k < poses.n; ++k) bmvpi_nii_move_centre(&poses.at[k], centre, q->s.centre);
        for (k = 0; k < poses.n_plain; ++k) bmvpi_nii_move_centre(&poses.plain[k], centre, q->s.centre);
        memcpy(centre, q->s.centre, sizeof centre);
        if (s == BMVP_OK) s = bmvpi_nii_run_level(q, &poses, &fixed[l], l, levels - 1, how, r, io);
        if (q->stop) s = bmvpi_nii_cancelled(io->err);
        if (s == BMVP_OK && l == levels - 1) {
            q->prior = 0;
            r->nmi = bmvpi_nii_pose_value(q, &poses.at[0]);
            r->overlap = q->inside / (double)q->s.n;
            r->evaluations = q->evaluations;
            bmvpi_nii_pose_matrix(r->matrix, &poses.at[0], centre);
        }
        bmvpi_nii_free(&io->allocator, q->s.block);
        q->s.block = NULL;
    }
    return s;
}

BMVP_API bmvp_status bmvp_nii_register(bmvp_nii_registration *r, const bmvp_nii_volume *fixed,
                                       const bmvp_nii_volume *moving, const bmvp_nii_register_how *how,
                                       bmvp_error *err)
{
    bmvp_nii_register_how h;
    bmvp_nii_volume f[4], m[4];
    bmvpi_nii_io io;
    bmvpi_nii_cost *q = NULL;
    double has_f[3], has_m[3];
    int l, levels = 0;
    bmvp_status s = r ? BMVP_OK : bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "r is NULL");
    if (s != BMVP_OK) return s;
    memset(r, 0, sizeof *r);
    memset(&h, 0, sizeof h);
    memset(f, 0, sizeof f);
    memset(m, 0, sizeof m);
    if (how) h = *how;
    if ((s = bmvpi_nii_check_registered(fixed, "fixed", err)) != BMVP_OK) return s;
    if ((s = bmvpi_nii_check_registered(moving, "moving", err)) != BMVP_OK) return s;
    if ((s = bmvpi_nii_check_how(&h, fixed, err)) != BMVP_OK) return s;
    while (levels < 4 && h.level[levels] > 0) ++levels;
    io = bmvpi_nii_io_of(fixed, err);
    bmvp_nii_voxel_size(has_f, fixed->affine);
    bmvp_nii_voxel_size(has_m, moving->affine);
    for (l = levels - 1; l >= 0 && s == BMVP_OK; --l) {     /* each from the finer one */
        s = bmvpi_nii_level(&f[l], l == levels - 1 ? fixed : &f[l + 1], h.level[l], has_f, &io);
        if (s == BMVP_OK) s = bmvpi_nii_level(&m[l], l == levels - 1 ? moving : &m[l + 1], h.level[l], has_m, &io);
    }
    if (s == BMVP_OK) s = bmvpi_nii_new_cost(&q, h.bins, h.parallel, h.parallel_user, &io);
    if (s == BMVP_OK) {
        q->progress = h.progress;
        q->progress_user = h.progress_user;
        q->prior = h.dof > BMVP_NII_RIGID ? 0.02 : 0;
        s = bmvpi_nii_run_levels(r, q, f, m, &h, levels, &io);
    }
    if (s != BMVP_OK) memset(r, 0, sizeof *r);
    for (l = 0; l < levels; ++l) {
        bmvp_nii_volume_free(&f[l]);
        bmvp_nii_volume_free(&m[l]);
    }
    bmvpi_nii_free(&io.allocator, q);
    return s;
}

/* >>deformation ------------------------------------------------------------------------------------------------
   On top of an affine matrix, x -> A x + u(x), u trilinear between nodes 8 mm apart over the fixed volume. In each
   round the samples' scores times the gradient of the moving volume, in mm, are spread over their nodes and smoothed
   by a Gaussian of 14 mm, as are the weights that they are divided by; the largest is made 1 mm long and all are added
   to u, which is then smoothed by 4 mm. Where NMI falls, the best u comes back and steps halve. So smooth a field
   follows how the shape of heads differs, and not their folds. */

typedef struct bmvpi_nii_warp {
    double matrix[16], to_node[16];        /* fixed mm -> moving mm; fixed mm -> node */
    bmvp_nii_volume u[3];                  /* mm of moving, along its x, y, z */
} bmvpi_nii_warp;

typedef struct bmvpi_nii_deforming {
    bmvpi_nii_cost *q;
    bmvpi_nii_warp *w;
    bmvp_nii_volume best[3], force[4];     /* of the nodes; force[3]: weights */
    double linear[9], t[3];                /* the matrix about the samples' centre */
    float *shift[3];                       /* of each sample, voxels of moving */
    int rounds;                            /* of all levels */
} bmvpi_nii_deforming;

static const double bmvpi_nii_node_mm = 8;

static void bmvpi_nii_free_nodes(bmvp_nii_volume *nodes, int n)
{
    int a;
    for (a = 0; a < n; ++a) bmvp_nii_volume_free(&nodes[a]);
}

/* n volumes of nodes over the grid of `fixed`, all 0. */
static bmvp_status bmvpi_nii_new_nodes(bmvp_nii_volume *nodes, int n, const bmvp_nii_volume *fixed,
                                       const bmvpi_nii_io *io)
{
    double affine[16], mm[3];
    int64_t dim[3];
    int a, i;
    bmvp_status s = BMVP_OK;
    memcpy(affine, fixed->affine, sizeof affine);
    bmvp_nii_voxel_size(mm, fixed->affine);
    for (a = 0; a < 3; ++a) {
        dim[a] = (int64_t)ceil((double)fixed->dim[a] * mm[a] / bmvpi_nii_node_mm) + 2;
        for (i = 0; i < 3; ++i) affine[4 * i + a] *= bmvpi_nii_node_mm / mm[a];
    }
    for (a = 0; a < n; ++a) memset(&nodes[a], 0, sizeof nodes[a]);
    for (a = 0; a < n && s == BMVP_OK; ++a) {
        s = bmvpi_nii_new_volume(&nodes[a], dim, affine, io);
        if (s == BMVP_OK) memset(nodes[a].data, 0, (size_t)(dim[0] * dim[1] * dim[2]) * sizeof(float));
    }
    return s;
}

/* The eight nodes about x and their weights; x is held within them. */
static void bmvpi_nii_near_nodes(int64_t at[8], double weight[8], const bmvpi_nii_warp *w, const double x[3])
{
    const int64_t *dim = w->u[0].dim;
    double f[3];
    int64_t i[3];
    int a, k;
    bmvpi_nii_apply(f, w->to_node, x);
    for (a = 0; a < 3; ++a) {
        const double last = (double)(dim[a] - 1), c = f[a] > 0 ? (f[a] < last ? f[a] : last) : 0;
        i[a] = bmvpi_nii_min((int64_t)c, dim[a] - 2);
        f[a] = c - (double)i[a];
    }
    for (k = 0; k < 8; ++k) {
        const int x1 = k & 1, y1 = k >> 1 & 1, z1 = k >> 2;
        at[k] = ((i[2] + z1) * dim[1] + i[1] + y1) * dim[0] + i[0] + x1;
        weight[k] = (x1 ? f[0] : 1 - f[0]) * (y1 ? f[1] : 1 - f[1]) * (z1 ? f[2] : 1 - f[2]);
    }
}

/* y = A x + u(x). */
static void bmvpi_nii_warp_apply(double y[3], const bmvpi_nii_warp *w, const double x[3])
{
    double weight[8], r[3];
    int64_t at[8];
    int a, k;
    bmvpi_nii_apply(r, w->matrix, x);
    if (w->u[0].data) {
        bmvpi_nii_near_nodes(at, weight, w, x);
        for (a = 0; a < 3; ++a)
            for (k = 0; k < 8; ++k) r[a] += weight[k] * (double)w->u[a].data[at[k]];
    }
    memcpy(y, r, sizeof r);
}

/* x with A x + u(x) = y, by fixed-point steps from the affine's. x may be y. */
static void bmvpi_nii_warp_back(double x[3], const bmvpi_nii_warp *w, const double inverse[16], const double y[3])
{
    double goal[3];
    int round, a;
    memcpy(goal, y, sizeof goal);
    bmvpi_nii_apply(x, inverse, goal);
    for (round = 0; round < 8 && w->u[0].data; ++round) {
        double e[3], off = 0;
        bmvpi_nii_warp_apply(e, w, x);
        for (a = 0; a < 3; ++a) e[a] = goal[a] - e[a];
        for (a = 0; a < 3; ++a) {
            const double s = inverse[4 * a] * e[0] + inverse[4 * a + 1] * e[1] + inverse[4 * a + 2] * e[2];
            x[a] += s;
            off += s * s;
        }
        if (off < 1e-4) return;
    }
}

static void bmvpi_nii_sample_mm(double x[3], const bmvpi_nii_samples *s, int64_t i)
{
    int a;
    for (a = 0; a < 3; ++a) x[a] = (double)s->p[a][i] + s->centre[a];
}

/* NMI with the displacement as it is. */
static double bmvpi_nii_warp_value(bmvpi_nii_deforming *d)
{
    const double *r = d->q->to_index;
    double x[3], weight[8], u[3];
    int64_t i, at[8];
    int a, k;
    for (i = 0; i < d->q->s.n; ++i) {
        bmvpi_nii_sample_mm(x, &d->q->s, i);
        bmvpi_nii_near_nodes(at, weight, d->w, x);
        for (a = 0; a < 3; ++a)
            for (u[a] = 0, k = 0; k < 8; ++k) u[a] += weight[k] * (double)d->w->u[a].data[at[k]];
        for (a = 0; a < 3; ++a)
            d->shift[a][i] = (float)(r[4 * a] * u[0] + r[4 * a + 1] * u[1] + r[4 * a + 2] * u[2]);
    }
    return bmvpi_nii_nmi(d->q, d->linear, d->t);
}

/* What pulls at each node, and how many samples do: after warp_value. */
static void bmvpi_nii_spread(bmvpi_nii_deforming *d)
{
    const bmvpi_nii_cost *q = d->q;
    const double *r = q->to_index;
    const int64_t n = d->force[0].dim[0] * d->force[0].dim[1] * d->force[0].dim[2];
    double x[3], weight[8];
    int64_t i, at[8];
    int a, k;
    for (a = 0; a < 4; ++a) memset(d->force[a].data, 0, (size_t)n * sizeof(float));
    for (i = 0; i < q->s.n; ++i) {
        double score, pull[4];
        if (q->s.u[i] < 0) continue;
        score = (double)bmvpi_nii_score(q, i);
        for (a = 0; a < 3; ++a)
            pull[a] = score * (r[a] * (double)q->s.g[0][i] + r[4 + a] * (double)q->s.g[1][i] +
                               r[8 + a] * (double)q->s.g[2][i]);
        pull[3] = 1;
        bmvpi_nii_sample_mm(x, &q->s, i);
        bmvpi_nii_near_nodes(at, weight, d->w, x);
        for (a = 0; a < 4; ++a)
            for (k = 0; k < 8; ++k) d->force[a].data[at[k]] += (float)(weight[k] * pull[a]);
    }
}

static bmvp_status bmvpi_nii_smooth_nodes(bmvp_nii_volume *nodes, int n, double sigma, bmvp_error *err)
{
    const double fwhm = sigma * bmvpi_nii_fwhm;
    double width[3];
    int a;
    bmvp_status s = BMVP_OK;
    width[0] = width[1] = width[2] = fwhm;
    for (a = 0; a < n && s == BMVP_OK; ++a) s = bmvp_nii_smooth(&nodes[a], width, err);
    return s;
}

/* Adds the smoothed pull to u, its longest `step` mm. *moved 0: nothing pulls. */
static bmvp_status bmvpi_nii_step_nodes(bmvpi_nii_deforming *d, double step, int *moved, bmvp_error *err)
{
    const int64_t n = d->force[0].dim[0] * d->force[0].dim[1] * d->force[0].dim[2];
    double mean = 0, top = 0;
    int64_t i;
    int a;
    bmvp_status s;
    bmvpi_nii_spread(d);
    if ((s = bmvpi_nii_smooth_nodes(d->force, 4, 14, err)) != BMVP_OK) return s;
    for (i = 0; i < n; ++i) mean += (double)d->force[3].data[i] / (double)n;
    for (i = 0; i < n; ++i) {
        const double by = (double)d->force[3].data[i] + 0.5 * mean;
        double square = 0;
        for (a = 0; a < 3; ++a) {
            const double f = by > 0 ? (double)d->force[a].data[i] / by : 0;
            d->force[a].data[i] = (float)f;
            square += f * f;
        }
        top = fmax(top, square);
    }
    *moved = top > 0;
    if (!*moved) return s;
    for (a = 0; a < 3; ++a)
        for (i = 0; i < n; ++i) d->w->u[a].data[i] += (float)(step / sqrt(top)) * d->force[a].data[i];
    return bmvpi_nii_smooth_nodes(d->w->u, 3, 4, err);
}

static void bmvpi_nii_copy_nodes(bmvp_nii_volume *to, const bmvp_nii_volume *from)
{
    const int64_t n = from->dim[0] * from->dim[1] * from->dim[2];
    int a;
    for (a = 0; a < 3; ++a) memcpy(to[a].data, from[a].data, (size_t)n * sizeof(float));
}

/* Rounds of one level, whose samples q has. */
static bmvp_status bmvpi_nii_deform_level(bmvpi_nii_deforming *d, bmvp_error *err)
{
    double step = 1, last = 0, value;
    int round, moved = 1, a, b;
    bmvp_status s = BMVP_OK;
    bmvpi_nii_apply(d->t, d->w->matrix, d->q->s.centre);
    for (a = 0; a < 3; ++a)
        for (b = 0; b < 3; ++b) d->linear[3 * a + b] = d->w->matrix[4 * a + b];
    bmvpi_nii_copy_nodes(d->best, d->w->u);
    for (round = 0; round < 40 && step > 0.05 && moved && s == BMVP_OK; ++round) {
        if (d->q->progress && d->q->progress(d->q->progress_user, "rounds", d->rounds++, 0))
            return bmvpi_nii_cancelled(err);
        value = bmvpi_nii_warp_value(d);
        if (round > 0 && value < last) {                    /* back, and with smaller steps */
            bmvpi_nii_copy_nodes(d->w->u, d->best);
            step *= 0.5;
            value = bmvpi_nii_warp_value(d);
        }
        if (!(value > 0) || (round > 0 && step < 0.3 && value - last < 1e-5)) break;
        last = value;
        bmvpi_nii_copy_nodes(d->best, d->w->u);
        s = bmvpi_nii_step_nodes(d, step, &moved, err);
    }
    bmvpi_nii_copy_nodes(d->w->u, d->best);
    return s;
}

/* A level of step mm: its volumes, samples, memory, rounds. */
static bmvp_status bmvpi_nii_deform_at(bmvpi_nii_deforming *d, double step, const bmvp_nii_volume *fixed,
                                       const bmvp_nii_volume *moving, const bmvp_nii_volume *mask,
                                       const bmvpi_nii_io *io)
{
    bmvp_nii_volume f, m;
    double has[3];
    void *block = NULL;
    int a;
    bmvp_status s;
    memset(&f, 0, sizeof f);
    memset(&m, 0, sizeof m);
    bmvp_nii_voxel_size(has, fixed->affine);
    s = bmvpi_nii_level(&f, fixed, step, has, io);
    bmvp_nii_voxel_size(has, moving->affine);
    if (s == BMVP_OK) s = bmvpi_nii_level(&m, moving, step, has, io);
    if (s == BMVP_OK) s = bmvpi_nii_enter_level(d->q, &f, &m, mask, step, 60000, io);
    if (s == BMVP_OK) s = bmvpi_nii_take(&block, io, 3 * d->q->s.n * (int64_t)sizeof(float));
    for (a = 0; a < 3 && s == BMVP_OK; ++a) d->q->shift[a] = d->shift[a] = (float *)block + a * d->q->s.n;
    if (s == BMVP_OK) s = bmvpi_nii_deform_level(d, io->err);
    bmvpi_nii_free(&io->allocator, block);
    bmvpi_nii_free(&io->allocator, d->q->s.block);
    d->q->s.block = NULL;
    bmvp_nii_volume_free(&f);
    bmvp_nii_volume_free(&m);
    return s;
}

/* Fills w->u; w->matrix is the affine. Samples lie where mask (of the fixed grid) is above 0. */
static bmvp_status bmvpi_nii_deform(bmvpi_nii_warp *w, const bmvp_nii_volume *fixed, const bmvp_nii_volume *moving,
                                    const bmvp_nii_volume *mask, const bmvp_nii_brain_how *how,
                                    const bmvpi_nii_io *io)
{
    bmvpi_nii_deforming d;
    double step;
    bmvp_status s;
    memset(&d, 0, sizeof d);
    d.w = w;
    s = bmvpi_nii_new_nodes(w->u, 3, fixed, io);
    if (s == BMVP_OK) s = bmvp_nii_affine_inverse(w->to_node, w->u[0].affine, io->err);
    if (s == BMVP_OK) s = bmvpi_nii_new_nodes(d.best, 3, fixed, io);
    if (s == BMVP_OK) s = bmvpi_nii_new_nodes(d.force, 4, fixed, io);
    if (s == BMVP_OK) s = bmvpi_nii_new_cost(&d.q, 32, how->parallel, how->parallel_user, io);
    if (s == BMVP_OK) {
        d.q->progress = how->progress;
        d.q->progress_user = how->progress_user;
    }
    for (step = 4; step >= 3 && s == BMVP_OK; --step) s = bmvpi_nii_deform_at(&d, step, fixed, moving, mask, io);
    bmvpi_nii_free_nodes(d.best, 3);
    bmvpi_nii_free_nodes(d.force, 4);
    bmvpi_nii_free(&io->allocator, d.q);
    return s;
}

/* >>brain impl -------------------------------------------------------------------------------------------------
   A brain mask from a template head whose brain is known. The template is registered to the case (12 degrees of
   freedom) by samples up to 25 mm around its brain, so that the air around the scalp has its say: with less, the
   template's brain may be blown up to the case's scalp. Then by samples up to 8 mm around it, which frees the
   brain from how thick scalp and skull are, and a coarse deformation by the same samples. The signed distance to the
   template's brain is carried over; where it is within 12 mm of 0, the values of the case itself move it: how likely a
   value is inside against outside, in each modality, averaged and smoothed. Last, thin bridges are cut by an opening,
   the largest component is kept and holes are filled. All of it on grids of 2 mm: a finer template says no more. */

enum { BMVPI_NII_EVIDENCE = 40 };

static int bmvpi_nii_evidence_bin(float v, float low, float high)
{
    const float b = (v - low) / (high - low) * (float)BMVPI_NII_EVIDENCE;
    return b < 0 ? 0 : b >= (float)BMVPI_NII_EVIDENCE ? BMVPI_NII_EVIDENCE - 1 : (int)b;
}

BMVP_API int bmvp_nii_is_stripped(const bmvp_nii_volume *volume)
{
    const int64_t n = volume->dim[0] * volume->dim[1] * volume->dim[2];
    int64_t i, zeros = 0;
    double mm[3], litres;
    for (i = 0; i < n; ++i) zeros += !(volume->data[i] < 0) && !(volume->data[i] > 0);
    bmvp_nii_voxel_size(mm, volume->affine);
    litres = (double)(n - zeros) * mm[0] * mm[1] * mm[2] * 1e-6;
    return zeros > 3 * n / 10 && litres > 0.6 && litres < 2.2;
}

/* Log likelihood ratio (inside against outside) of each value of v, added to sum with weight. d: signed distance. */
static bmvp_status bmvpi_nii_add_evidence(float *sum, const bmvp_nii_volume *v, const float *d, double weight,
                                          const bmvpi_nii_io *io)
{
    const int64_t n = v->dim[0] * v->dim[1] * v->dim[2];
    double in[BMVPI_NII_EVIDENCE], out[BMVPI_NII_EVIDENCE], ratio[BMVPI_NII_EVIDENCE], n_in = 1e-9, n_out = 1e-9;
    float low = 0, high = 1, *near_brain;
    void *block;
    int64_t i, m = 0;
    int j, k;
    bmvp_status s = bmvpi_nii_take(&block, io, (n + 1) * (int64_t)sizeof(float));
    if (s != BMVP_OK) return s;
    near_brain = (float *)block;
    for (i = 0; i < n; ++i)
        if (d[i] < 15) near_brain[m++] = v->data[i];
    if (m > 0) s = bmvpi_nii_range(&low, &high, near_brain, m, 0.5, 99.5, io);
    bmvpi_nii_free(&io->allocator, block);
    if (s != BMVP_OK) return s;
    memset(in, 0, sizeof in);
    memset(out, 0, sizeof out);
    for (i = 0; i < n; ++i) {
        j = bmvpi_nii_evidence_bin(v->data[i], low, high);
        if (d[i] < -4) {
            ++in[j];
            ++n_in;
        } else if (d[i] > 4 && d[i] < 16) {
            ++out[j];
            ++n_out;
        }
    }
    for (j = 0; j < BMVPI_NII_EVIDENCE; ++j) {              /* both smoothed by 1 2 3 2 1 */
        double a = 0, b = 0;
        for (k = -2; k <= 2; ++k) {
            const int at = j + k < 0 ? 0 : j + k >= BMVPI_NII_EVIDENCE ? BMVPI_NII_EVIDENCE - 1 : j + k;
            a += in[at] * (3 - (k < 0 ? -k : k)) / 9;
            b += out[at] * (3 - (k < 0 ? -k : k)) / 9;
        }
        ratio[j] = fmax(-2, fmin(2, log((a / n_in + 0.002) / (b / n_out + 0.002))));
    }
    for (i = 0; i < n; ++i) sum[i] += (float)(weight * ratio[bmvpi_nii_evidence_bin(v->data[i], low, high)]);
    return s;
}

/* Moves the distance by what the modalities say: evidence, above 0 where values are likelier inside. */
static bmvp_status bmvpi_nii_refine(bmvp_nii_volume *d, bmvp_nii_volume *evidence, const bmvp_nii_volume *volumes,
                                    int n, const bmvpi_nii_io *io)
{
    static const double width[3] = { 4.7096400900618026, 4.7096400900618026, 4.7096400900618026 };  /* sigma 2 mm */
    const int64_t size = d->dim[0] * d->dim[1] * d->dim[2];
    bmvp_nii_volume level;
    double has[3];
    int64_t i;
    int k;
    bmvp_status s = bmvpi_nii_new_volume(evidence, d->dim, d->affine, io);
    if (s != BMVP_OK) return s;
    memset(evidence->data, 0, (size_t)size * sizeof(float));
    for (k = 0; k < n && s == BMVP_OK; ++k) {
        bmvp_nii_voxel_size(has, volumes[k].affine);
        if ((s = bmvpi_nii_level(&level, &volumes[k], 2, has, io)) != BMVP_OK) break;
        s = bmvpi_nii_add_evidence(evidence->data, &level, d->data, 1.0 / n, io);
        bmvp_nii_volume_free(&level);
    }
    if (s == BMVP_OK) s = bmvp_nii_smooth(evidence, width, io->err);
    for (i = 0; i < size && s == BMVP_OK; ++i)
        if (d->data[i] >= -12 && d->data[i] <= 12) d->data[i] -= 3 * evidence->data[i];
    return s;
}

/* Below 0 of d as a mask without bridges, islands and holes; what lies beyond the field of view is unknown, not
   background. d is made to agree with it. */
static bmvp_status bmvpi_nii_clean(bmvp_nii_volume *d, const bmvpi_nii_io *io)
{
    const int64_t n = d->dim[0] * d->dim[1] * d->dim[2];
    bmvp_nii_volume mask, core, away;
    double mm[3], half;
    int64_t i;
    bmvp_status s = bmvpi_nii_new_volume(&mask, d->dim, d->affine, io);
    memset(&core, 0, sizeof core);
    memset(&away, 0, sizeof away);
    if (s != BMVP_OK) return s;
    bmvp_nii_voxel_size(mm, d->affine);
    half = (mm[0] + mm[1] + mm[2]) / 6;
    for (i = 0; i < n; ++i) mask.data[i] = d->data[i] < 0;
    s = bmvp_nii_distance(&core, &mask, io->err);
    for (i = 0; i < n && s == BMVP_OK; ++i) core.data[i] = (double)core.data[i] < half - 3.5;
    if (s == BMVP_OK) s = bmvpi_nii_keep_largest(&core, 1, io->err);
    if (s == BMVP_OK) s = bmvp_nii_distance(&away, &core, io->err);
    for (i = 0; i < n && s == BMVP_OK; ++i)
        if ((double)away.data[i] > 4.5 - half) mask.data[i] = 0;
    if (s == BMVP_OK) s = bmvpi_nii_keep_largest(&mask, 1, io->err);
    if (s == BMVP_OK) s = bmvpi_nii_keep_largest(&mask, 0, io->err);
    for (i = 0; i < n && s == BMVP_OK; ++i) {
        float v = d->data[i];
        if (mask.data[i] > 0 && v >= 0) v = -0.5f;
        if (!(mask.data[i] > 0) && v < 0) v = 0.5f;
        d->data[i] = v < -6 ? -6 : v > 6 ? 6 : v;
    }
    bmvp_nii_volume_free(&mask);
    bmvp_nii_volume_free(&core);
    bmvp_nii_volume_free(&away);
    return s;
}

/* From template to case: the affine, far then near, then the deformation. */
static bmvp_status bmvpi_nii_place_head(bmvp_nii_registration *r, bmvpi_nii_warp *w, const bmvp_nii_volume *tmpl,
                                        const bmvp_nii_volume *d, const bmvp_nii_volume *head,
                                        const bmvp_nii_brain_how *how, const bmvpi_nii_io *io)
{
    const int64_t n = d->dim[0] * d->dim[1] * d->dim[2];
    bmvp_nii_register_how h;
    bmvp_nii_volume region;
    double start[16];
    int64_t i;
    bmvp_status s = bmvpi_nii_new_volume(&region, d->dim, d->affine, io);
    if (s != BMVP_OK) return s;
    memset(&h, 0, sizeof h);
    h.dof = BMVP_NII_AFFINE;
    h.samples = 60000;
    h.level[0] = 8;
    h.level[1] = 4;
    h.mask = &region;
    h.parallel = how->parallel;
    h.parallel_user = how->parallel_user;
    h.progress = how->progress;
    h.progress_user = how->progress_user;
    for (i = 0; i < n; ++i) region.data[i] = d->data[i] < 25;
    s = bmvp_nii_register(r, tmpl, head, &h, io->err);
    if (s == BMVP_OK) {
        for (i = 0; i < n; ++i) region.data[i] = d->data[i] < 8;
        memcpy(start, r->matrix, sizeof start);
        h.start = start;
        h.search = BMVP_NII_SEARCH_NONE;
        h.level[0] = 4;
        h.level[1] = 0;
        s = bmvp_nii_register(r, tmpl, head, &h, io->err);
    }
    memcpy(w->matrix, r->matrix, sizeof w->matrix);
    if (s == BMVP_OK && !how->no_deform)
        s = bmvpi_nii_deform(w, tmpl, head, &region, how, io);
    bmvp_nii_volume_free(&region);
    return s;
}

BMVP_API int bmvp_nii_brain_doubts(const bmvp_nii_brain_report *report, char *text, size_t size)
{
    const struct { double v, low, high; const char *words; } rows[6] = {
        { report->stretch[0], 0, 1.35, "the template was stretched %.2f times" },
        { report->stretch[2], 0.75, HUGE_VAL, "the template was shrunk to %.2f" },
        { report->litres, 0.9, 2.2, "%.2f litres" },
        { report->edge, 0, 0.05, "the image cuts it off over %.2f of its surface" },
        { report->kept, 0.9, 1, "before and after refinement Dice %.2f" },
        { report->against, 0, 0.5, "values speak against %.2f of it" }
    };
    size_t used = 0;
    int k, n = 0;
    if (size > 0) text[0] = 0;
    for (k = 0; k < 6; ++k) {
        if (rows[k].v >= rows[k].low && rows[k].v <= rows[k].high) continue;
        if (used < size) {
            char one[96];
            snprintf(one, sizeof one, rows[k].words, rows[k].v);
            used += (size_t)snprintf(text + used, size - used, "%s%s", n > 0 ? ", " : "", one);
        }
        ++n;
    }
    return n;
}

static void bmvpi_nii_judge(bmvp_nii_brain_report *report, const bmvp_nii_volume *mask)
{
    const int64_t *dim = mask->dim, n = dim[0] * dim[1] * dim[2];
    double mm[3], w[9], v[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, faces = 0, edge = 0;
    int64_t i, inside = 0;
    int a, b;
    bmvp_nii_voxel_size(mm, mask->affine);
    for (i = 0; i < n; ++i) {
        int64_t stride = 1;
        if (!(mask->data[i] > 0)) continue;
        ++inside;
        for (a = 0; a < 3; stride *= dim[a], ++a) {
            const int64_t at = i / stride % dim[a];
            const int first = at == 0, last = at == dim[a] - 1;
            const double area = mm[(a + 1) % 3] * mm[(a + 2) % 3];
            edge += area * (first + last);
            faces += area * ((first || !(mask->data[i - stride] > 0)) + (last || !(mask->data[i + stride] > 0)));
        }
    }
    report->litres = (double)inside * mm[0] * mm[1] * mm[2] * 1e-6;
    report->edge = faces > 0 ? edge / faces : 0;
    for (i = 0; i < 9; ++i) w[i] = report->matrix[4 * (i / 3) + i % 3];
    for (i = 0; i < 40; ++i)
        if (bmvpi_nii_turn(w, v, 0, 1) + bmvpi_nii_turn(w, v, 0, 2) + bmvpi_nii_turn(w, v, 1, 2) == 0) break;
    for (a = 0; a < 3; ++a) report->stretch[a] = sqrt(w[a] * w[a] + w[3 + a] * w[3 + a] + w[6 + a] * w[6 + a]);
    for (a = 0; a < 3; ++a)
        for (b = a + 1; b < 3; ++b)
            if (report->stretch[b] > report->stretch[a]) {
                const double t = report->stretch[a];
                report->stretch[a] = report->stretch[b];
                report->stretch[b] = t;
            }
    report->doubtful = bmvp_nii_brain_doubts(report, NULL, 0);
}

/* Distance to the template's brain, carried to the grid of d: d(A x + u(x)) = far_from(x), beyond the template's grid
   that of its edge and the way there. */
static bmvp_status bmvpi_nii_carry(bmvp_nii_volume *d, const bmvp_nii_volume *far_from, const bmvpi_nii_warp *w,
                                   bmvp_error *err)
{
    double inverse[16], to_voxel[16], mm[3];
    int64_t x, y, z, i = 0;
    int a;
    bmvp_status s = bmvp_nii_affine_inverse(inverse, w->matrix, err);
    if (s == BMVP_OK) s = bmvp_nii_affine_inverse(to_voxel, far_from->affine, err);
    bmvp_nii_voxel_size(mm, far_from->affine);
    for (z = 0; z < d->dim[2] && s == BMVP_OK; ++z)
        for (y = 0; y < d->dim[1]; ++y)
            for (x = 0; x < d->dim[0]; ++x, ++i) {
                double p[3], v;
                p[0] = (double)x;
                p[1] = (double)y;
                p[2] = (double)z;
                bmvpi_nii_apply(p, d->affine, p);
                bmvpi_nii_warp_back(p, w, inverse, p);
                bmvpi_nii_apply(p, to_voxel, p);
                v = (double)bmvpi_nii_trilinear(far_from, p);
                for (a = 0; a < 3; ++a) v += fmax(0, fmax(-p[a], p[a] - (double)(far_from->dim[a] - 1))) * mm[a];
                d->data[i] = (float)v;
            }
    return s;
}

/* From the carried distance d on the 2 mm grid to the mask on the case's. */
static bmvp_status bmvpi_nii_finish_mask(bmvp_nii_volume *mask, bmvp_nii_volume *d, const bmvp_nii_volume *volumes,
                                         int n, const bmvp_nii_brain_how *how, bmvp_nii_brain_report *report,
                                         const bmvpi_nii_io *io)
{
    const int64_t size = d->dim[0] * d->dim[1] * d->dim[2];
    bmvp_nii_volume before, evidence;
    int64_t i, a = 0, b = 0, both = 0, against = 0, m;
    bmvp_status s = bmvp_nii_volume_copy(&before, d, io->err);
    if (s != BMVP_OK) return s;
    memset(&evidence, 0, sizeof evidence);
    if (!how->no_refine) s = bmvpi_nii_refine(d, &evidence, volumes, n, io);
    for (i = 0; i < size && s == BMVP_OK; ++i) d->data[i] -= (float)how->margin;
    if (s == BMVP_OK) s = bmvpi_nii_clean(d, io);
    for (i = 0; i < size && s == BMVP_OK; ++i) {
        a += before.data[i] < 0;
        b += d->data[i] < 0;
        both += before.data[i] < 0 && d->data[i] < 0;
        against += d->data[i] < 0 && !how->no_refine && evidence.data[i] < 0;
    }
    report->kept = a + b > 0 ? 2 * (double)both / (double)(a + b) : 0;
    report->against = b > 0 ? (double)against / (double)b : 0;
    bmvp_nii_volume_free(&before);
    bmvp_nii_volume_free(&evidence);
    if (s == BMVP_OK) s = bmvp_nii_resample_to(mask, d, volumes, NULL, BMVP_NII_LINEAR, 6, io->err);
    if (s != BMVP_OK) return s;
    m = mask->dim[0] * mask->dim[1] * mask->dim[2];
    for (i = 0; i < m; ++i) mask->data[i] = mask->data[i] < 0;
    s = bmvpi_nii_keep_largest(mask, 1, io->err);
    if (s == BMVP_OK) s = bmvpi_nii_keep_largest(mask, 0, io->err);
    return s;
}

/* Fills what is narrower than 2 r mm: grown by r, then made smaller by r. A brain's sulci belong to it, also where the
   template's maker has cut them out. */
static bmvp_status bmvpi_nii_fill_narrow(bmvp_nii_volume *mask, float r, bmvp_error *err)
{
    const int64_t n = mask->dim[0] * mask->dim[1] * mask->dim[2];
    bmvp_nii_volume d;
    int64_t i;
    int step;
    bmvp_status s = BMVP_OK;
    for (step = 0; step < 2 && s == BMVP_OK; ++step) {
        if ((s = bmvp_nii_distance(&d, mask, err)) != BMVP_OK) break;
        for (i = 0; i < n; ++i) mask->data[i] = d.data[i] < (step == 0 ? r : -r);
        bmvp_nii_volume_free(&d);
    }
    return s == BMVP_OK ? bmvpi_nii_keep_largest(mask, 0, err) : s;
}

/* Template at 2 mm, and the distance to its brain. */
static bmvp_status bmvpi_nii_coarse_template(bmvp_nii_volume *head, bmvp_nii_volume *far_from,
                                             const bmvp_nii_volume *tmpl, const bmvp_nii_volume *brain,
                                             const bmvpi_nii_io *io)
{
    bmvp_nii_volume inside, coarse;
    double has[3];
    int64_t i, n = brain->dim[0] * brain->dim[1] * brain->dim[2];
    bmvp_status s = bmvpi_nii_new_volume(&inside, brain->dim, brain->affine, io);
    memset(&coarse, 0, sizeof coarse);
    for (i = 0; i < n && s == BMVP_OK; ++i) inside.data[i] = brain->data[i] > 0;
    bmvp_nii_voxel_size(has, tmpl->affine);
    if (s == BMVP_OK) s = bmvpi_nii_level(head, tmpl, 2, has, io);
    bmvp_nii_voxel_size(has, tmpl->affine);
    if (s == BMVP_OK) s = bmvpi_nii_level(&coarse, &inside, 2, has, io);
    n = s == BMVP_OK ? coarse.dim[0] * coarse.dim[1] * coarse.dim[2] : 0;
    for (i = 0; i < n; ++i) coarse.data[i] = coarse.data[i] >= 0.5f;
    if (s == BMVP_OK) s = bmvpi_nii_fill_narrow(&coarse, 5, io->err);
    if (s == BMVP_OK) s = bmvp_nii_distance(far_from, &coarse, io->err);
    bmvp_nii_volume_free(&inside);
    bmvp_nii_volume_free(&coarse);
    return s;
}

BMVP_API bmvp_status bmvp_nii_brain_mask(bmvp_nii_volume *mask, const bmvp_nii_volume *volumes, int n,
                                         const bmvp_nii_volume *tmpl, const bmvp_nii_volume *tmpl_brain,
                                         const bmvp_nii_brain_how *how, bmvp_nii_brain_report *report,
                                         bmvp_error *err)
{
    bmvp_nii_brain_how h;
    bmvp_nii_brain_report own;
    bmvp_nii_registration r;
    bmvpi_nii_warp w;
    bmvp_nii_volume head, far_from, d;
    bmvpi_nii_io io;
    double has[3];
    int k;
    bmvp_status s = BMVP_OK;
    memset(&h, 0, sizeof h);
    memset(&own, 0, sizeof own);
    memset(&w, 0, sizeof w);
    memset(&head, 0, sizeof head);
    memset(&far_from, 0, sizeof far_from);
    memset(&d, 0, sizeof d);
    if (how) h = *how;
    if (report) *report = own;
    if (mask) memset(mask, 0, sizeof *mask);
    if (!mask || !volumes || n < 1) return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "mask or volumes is NULL");
    if ((s = bmvpi_nii_check_registered(tmpl, "tmpl", err)) != BMVP_OK) return s;
    if (!tmpl_brain || !tmpl_brain->data || !bmvp_nii_one_grid(tmpl, tmpl_brain))
        return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "tmpl_brain has no voxels or another grid than tmpl");
    for (k = 0; k < n; ++k) {
        char name[32];
        snprintf(name, sizeof name, "volumes[%d]", k);
        if ((s = bmvpi_nii_check_registered(&volumes[k], name, err)) != BMVP_OK) return s;
        if (!bmvp_nii_one_grid(volumes, &volumes[k]))
            return bmvpi_nii_fail(err, BMVP_E_ARG, NULL, "%s lies on another grid than volumes[0]", name);
    }
    io = bmvpi_nii_io_of(volumes, err);
    s = bmvpi_nii_coarse_template(&head, &far_from, tmpl, tmpl_brain, &io);
    if (s == BMVP_OK) s = bmvpi_nii_place_head(&r, &w, &head, &far_from, volumes, &h, &io);
    bmvp_nii_voxel_size(has, volumes->affine);
    if (s == BMVP_OK) s = bmvpi_nii_level(&d, volumes, 2, has, &io);   /* its grid; its values are replaced */
    if (s == BMVP_OK) s = bmvpi_nii_carry(&d, &far_from, &w, err);
    if (s == BMVP_OK && h.progress && h.progress(h.progress_user, "masks", 0, 0)) s = bmvpi_nii_cancelled(err);
    if (s == BMVP_OK) s = bmvpi_nii_finish_mask(mask, &d, volumes, n, &h, &own, &io);
    if (s == BMVP_OK) {
        memcpy(own.matrix, r.matrix, sizeof own.matrix);
        own.nmi = r.nmi;
        bmvpi_nii_judge(&own, mask);
        if (report) *report = own;
    } else bmvp_nii_volume_free(mask);
    bmvp_nii_volume_free(&head);
    bmvp_nii_volume_free(&far_from);
    bmvpi_nii_free_nodes(w.u, 3);
    bmvp_nii_volume_free(&d);
    return s;
}

#ifdef __cplusplus
}
#endif

#endif /* BMVP_NIFTI_IMPLEMENTATION_ONCE */
#endif /* BMVP_NIFTI_IMPLEMENTATION */

/* ---------------------------------------------------------------------------------------------------------------
   MIT License. Copyright (c) 2026 the bmvp authors.
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
   rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
   permit persons to whom the Software is furnished to do so, subject to the following conditions: the above copyright
   notice and this permission notice shall be included in all copies or substantial portions of the Software. THE
   SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
   COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
   OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
