/* files.c - paths and folders, see files.h */
#define _DEFAULT_SOURCE
#include "files.h"
#include <errno.h>
#include <fcntl.h>
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

int file_exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
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

int folder_lock(const char *dir)
{
    char *path = path_join(dir, ".lock");
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    struct flock lock;
    free(path);
    if (fd < 0) return -1;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(fd, F_SETLK, &lock) == 0) return 0; /* the file stays open: the lock is the process's */
    if (errno != EACCES && errno != EAGAIN) {     /* a file system without locks: as before */
        close(fd);
        return 0;
    }
    close(fd);
    return 1;
}
