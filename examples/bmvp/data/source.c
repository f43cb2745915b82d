/* source.c - where a prepared file comes from, see source.h */
#define _XOPEN_SOURCE 700 /* realpath */
#include "source.h"
#include "files.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PIECE = 65536 };

uint64_t source_hash(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < n; ++i) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

/* Adds one file to s. 0: it cannot be read. */
static int add_file(data_source *s, const char *path)
{
    unsigned char *piece = (unsigned char *)malloc(PIECE);
    FILE *f = fopen(path, "rb");
    struct stat info;
    int ok = piece && f && fstat(fileno(f), &info) == 0;
    size_t n;
    if (ok) {
        n = fread(piece, 1, PIECE, f);
        s->hash = source_hash(s->hash, piece, n);
        if (info.st_size > PIECE &&
            fseek(f, info.st_size > 2 * PIECE ? -PIECE : -(long)(info.st_size - PIECE), SEEK_END) == 0) {
            n = fread(piece, 1, PIECE, f);
            s->hash = source_hash(s->hash, piece, n);
        }
        s->bytes += (int64_t)info.st_size;
        s->hash = source_hash(s->hash, &s->bytes, sizeof s->bytes);
        if ((int64_t)info.st_mtime > s->modified) s->modified = (int64_t)info.st_mtime;
        ok = !ferror(f);
    }
    if (f) fclose(f);
    free(piece);
    return ok;
}

bmvp_status source_read(data_source *s, const char *path, bmvp_error *err)
{
    const size_t n = strlen(path);
    char *other;
    memset(s, 0, sizeof *s);
    s->hash = SOURCE_HASH;
    s->path = realpath(path, NULL);
    if (!s->path || !add_file(s, path)) {
        const int why = errno;
        source_free(s);
        return bmvp_error_set(err, why == ENOMEM ? BMVP_E_OOM : BMVP_E_IO,
                              "%s: cannot be opened: %s", path, strerror(why));
    }
    other = n > 4 && strcmp(path + n - 4, ".hdr") == 0 ? text_copy(path) : NULL;
    if (n > 4 && !other && strcmp(path + n - 4, ".hdr") == 0) {
        source_free(s);
        return bmvp_error_set(err, BMVP_E_OOM, "%s: out of memory", path);
    }
    if (other) {
        memcpy(other + n - 4, ".img", 4);
        (void)add_file(s, other); /* a pair without its half is refused when it is read */
    }
    free(other);
    return BMVP_OK;
}

int source_equal(const data_source *a, const data_source *b) { return a->bytes == b->bytes && a->hash == b->hash; }

void source_free(data_source *s)
{
    free(s->path);
    memset(s, 0, sizeof *s);
}

void source_write(bmvp_jw *w, const char *key, const data_source *s)
{
    char hex[24];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)s->hash);
    bmvp_jw_object(w, key);
    bmvp_jw_string(w, "path", s->path);
    bmvp_jw_int(w, "bytes", s->bytes);
    bmvp_jw_int(w, "modified", s->modified);
    bmvp_jw_string(w, "hash", hex);
    bmvp_jw_end(w);
}

int source_parse(const bmvp_json *node, data_source *s)
{
    const char *path = bmvp_json_string(bmvp_json_get(node, "path"), NULL),
               *hash = bmvp_json_string(bmvp_json_get(node, "hash"), NULL);
    memset(s, 0, sizeof *s);
    if (!path || !hash) return 0;
    s->path = text_copy(path);
    s->bytes = bmvp_json_int(bmvp_json_get(node, "bytes"), -1);
    s->modified = bmvp_json_int(bmvp_json_get(node, "modified"), 0);
    s->hash = strtoull(hash, NULL, 16);
    return s->path != NULL;
}
