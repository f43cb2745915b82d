/* files.c - paths and folders, see files.h */
#define _DEFAULT_SOURCE
#include "files.h"
#include "bmvp_nn.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *text_copy(const char *text)
{
    const size_t n = strlen(text) + 1;
    char *p = (char *)malloc(n);
    if (p) memcpy(p, text, n);
    return p;
}

char *path_join(const char *dir, const char *name)
{
    const size_t n = strlen(dir) + strlen(name) + 2;
    char *p = (char *)malloc(n);
    if (!p) return NULL;
    if (name[0] == '/' || dir[0] == 0) snprintf(p, n, "%s", name);
    else snprintf(p, n, "%s%s%s", dir, dir[strlen(dir) - 1] == '/' ? "" : "/", name);
    return p;
}

char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *p = text_copy(path);
    if (p) p[slash ? slash - path + 1 : 0] = 0;
    return p;
}

/* Bytes of the control character at p, 0: it is none. Of ASCII; C1 (U+0080 to 9F), line ends and turns of direction of
   Unicode (U+2028 to 202E, U+2066 to 2069), in UTF-8. */
static int control_bytes(const char *p)
{
    const unsigned char a = (unsigned char)p[0], b = a ? (unsigned char)p[1] : 0, c = b ? (unsigned char)p[2] : 0;
    if ((a > 0 && a < ' ') || a == 127) return 1;
    if (a == 0xc2 && b >= 0x80 && b < 0xa0) return 2;
    if (a == 0xe2 && ((b == 0x80 && c >= 0xa8 && c <= 0xae) || (b == 0x81 && c >= 0xa6 && c <= 0xa9))) return 3;
    return 0;
}

int text_clean(char *text, char with)
{
    int n = 0, k;
    while (text && *text) {
        k = control_bytes(text);
        n += k > 0;
        if (k == 0) ++text;
        while (k-- > 0) *text++ = with;
    }
    return n;
}

void text_say(char *text, size_t size, const char *format, va_list args)
{
    const size_t n = strlen(format), begin = strspn(format, "\n");
    size_t end = 0, used;
    char last;
    while (end < n - begin && format[n - 1 - end] == '\n') ++end;
    (void)vsnprintf(text, size, format, args);
    used = strlen(text);
    if (used < begin + end || used + 1 == size) end = 0; /* cut */
    last = text[used - end];
    text[used - end] = 0;
    (void)text_clean(text + (begin < used - end ? begin : used - end), '?');
    text[used - end] = last;
}

void say(FILE *to, const char *format, ...)
{
    char text[4096];
    va_list args;
    va_start(args, format);
    text_say(text, sizeof text, format, args);
    va_end(args);
    fputs(text, to);
}

int is_utf8(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        static const uint32_t least[4] = { 0, 0x80, 0x800, 0x10000 };
        const int more = *p < 0x80   ? 0
                         : *p < 0xc0 ? -1
                         : *p < 0xe0 ? 1
                         : *p < 0xf0 ? 2
                         : *p < 0xf8 ? 3
                                     : -1;
        uint32_t code = more > 0 ? *p & (0x3fu >> more) : *p;
        int k;
        if (more < 0) return 0;
        for (++p, k = 0; k < more; ++k, ++p) {
            if ((*p & 0xc0) != 0x80) return 0;
            code = code << 6 | (*p & 0x3fu);
        }
        if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
    }
    return 1;
}

int file_exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

bmvp_status file_may_replace(const char *path, const char *key, bmvp_error *err)
{
    bmvp_json_doc *doc = NULL;
    bmvp_ckpt *ckpt = NULL;
    struct stat s;
    int ours;
    if (stat(path, &s) != 0 || !S_ISREG(s.st_mode)) return BMVP_OK;
    if (key) ours = bmvp_json_read(path, NULL, &doc, NULL) == BMVP_OK && bmvp_json_get(bmvp_json_root(doc), key);
    else ours = bmvp_ckpt_open(path, NULL, &ckpt, NULL) == BMVP_OK;
    bmvp_json_free(doc);
    bmvp_ckpt_close(ckpt);
    if (ours) return BMVP_OK;
    return bmvp_error_set(err, BMVP_E_ARG, "%s: is there already, and bmvp has not written it; choose another name",
                          path);
}

int make_dir(const char *path)
{
    size_t n = strlen(path), i;
    char *part = (char *)malloc(n + 1);
    struct stat info;
    int failed = 0;
    if (!part) return -1;
    memcpy(part, path, n + 1);
    for (i = 1; i <= n && !failed; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        part[i] = 0;
        failed = mkdir(part, 0777) != 0 && (errno != EEXIST || stat(part, &info) != 0);
        if (!failed && path[i] == 0 && stat(part, &info) == 0 && !S_ISDIR(info.st_mode)) {
            errno = ENOTDIR;
            failed = 1;
        }
        part[i] = path[i];
    }
    free(part);
    return failed ? -1 : 0;
}

/* The process that keeps this one from the lock, -1: none is known (it runs on another host). */
static long holder(int fd, struct flock lock)
{
    return fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0 ? (long)lock.l_pid : -1;
}

bmvp_status folder_take(const char *dir, bmvp_error *err)
{
    char *path = path_join(dir, ".lock"), who[48] = "";
    struct flock lock;
    bmvp_status st = BMVP_OK;
    int fd;
    if (!path) return bmvp_error_set(err, BMVP_E_OOM, "out of memory");
    if (make_dir(dir) != 0) st = bmvp_error_set(err, BMVP_E_IO, "--out %s: %s", dir, strerror(errno));
    fd = st ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (!st && fd < 0) st = bmvp_error_set(err, BMVP_E_IO, "--out %s: %s: %s", dir, path, strerror(errno));
    free(path);
    if (st) return st;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(fd, F_SETLK, &lock) == 0) return BMVP_OK; /* the file stays open: the lock is the process's */
    if (errno == EACCES || errno == EAGAIN) {           /* else a file system without locks: as before */
        if (holder(fd, lock) > 0) snprintf(who, sizeof who, " (process %ld)", holder(fd, lock));
        st = bmvp_error_set(
            err, BMVP_E_STATE,
            "--out %s: another process%s writes there; wait until it has ended, or choose another folder", dir, who);
    }
    close(fd);
    return st;
}

/* The process that was writing the file, under a temporary name, as one of the names; 0: it is another file. */
static long writer_of(const char *file, const char *const *names)
{
    for (; *names; ++names) {
        const size_t n = strlen(*names);
        const char *p = file + n;
        char *end;
        long process;
        if (strncmp(file, *names, n) != 0 || strncmp(p, ".tmp", 4) != 0) continue;
        p += 4 + (p[4] == '.');
        if (!isdigit((unsigned char)*p)) continue;
        process = strtol(p, &end, 10);
        if (*end == '.' && isdigit((unsigned char)end[1])) end += 1 + strspn(end + 1, "0123456789");
        if (*end == 0 && process > 0) return process;
    }
    return 0;
}

void folder_clear(const char *dir, const char *const *names)
{
    DIR *open_dir = opendir(dir);
    struct dirent *e;
    while (open_dir && (e = readdir(open_dir)) != NULL) {
        const long process = writer_of(e->d_name, names);
        const int lives = process && process != (long)getpid() && (kill((pid_t)process, 0) == 0 || errno == EPERM);
        char *path = process && !lives ? path_join(dir, e->d_name) : NULL;
        if (path) (void)unlink(path);
        free(path);
    }
    if (open_dir) closedir(open_dir);
}
