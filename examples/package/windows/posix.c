/* posix.c - see posix.h. At the end what stands here for ranks/: there are no sockets. */
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <psapi.h>
#include <shellapi.h>

#include "posix.h"
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <wchar.h>
#include "ranks/sockets.h"
#include "ranks/transport.h"
#undef main
#undef stat
#undef fstat
#undef mkdir

enum { WIDE = 4096 };

/* >>names ---------------------------------------------------------------------------------------------------------- */

static int wide(wchar_t to[WIDE], const char *path)
{
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, to, WIDE) > 0) return 1;
    errno = strlen(path) < WIDE ? EILSEQ : ENAMETOOLONG;
    return 0;
}

/* NULL: out of memory. Half a pair of surrogates, which a name may hold here, becomes U+FFFD. */
static char *narrow(const wchar_t *from)
{
    const int n = WideCharToMultiByte(CP_UTF8, 0, from, -1, NULL, 0, NULL, NULL);
    char *text = (char *)malloc(n > 0 ? (size_t)n : 1), *p;
    if (!text) {
        errno = ENOMEM;
        return NULL;
    }
    text[0] = 0;
    (void)WideCharToMultiByte(CP_UTF8, 0, from, -1, text, n, NULL, NULL);
    for (p = text; *p; ++p)
        if (*p == '\\') *p = '/';
    return text;
}

/* >>files ---------------------------------------------------------------------------------------------------------- */

static int stat_of(HANDLE h, const struct _stati64 *from, struct posix_stat *s)
{
    BY_HANDLE_FILE_INFORMATION info;
    memset(s, 0, sizeof *s);
    s->st_mode = from->st_mode;
    s->st_size = from->st_size;
    s->st_mtime = from->st_mtime;
    if (h != INVALID_HANDLE_VALUE && GetFileInformationByHandle(h, &info)) {
        s->st_dev = info.dwVolumeSerialNumber;
        s->st_ino = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
    }
    return 0;
}

int posix_stat(const char *path, struct posix_stat *s)
{
    wchar_t name[WIDE];
    struct _stati64 from;
    size_t n;
    HANDLE h;
    if (!wide(name, path)) return -1;
    n = wcslen(name);
    if (n > 1 && (name[n - 1] == L'/' || name[n - 1] == L'\\') && name[n - 2] != L':') name[n - 1] = 0;
    if (_wstati64(name, &from) != 0) return -1;
    h = CreateFileW(name, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                    FILE_FLAG_BACKUP_SEMANTICS, NULL);
    (void)stat_of(h, &from, s);
    if (h != INVALID_HANDLE_VALUE) CloseHandle(h);
    return 0;
}

int posix_fstat(int fd, struct posix_stat *s)
{
    struct _stati64 from;
    if (_fstati64(fd, &from) != 0) return -1;
    return stat_of((HANDLE)_get_osfhandle(fd), &from, s);
}

FILE *posix_fopen(const char *path, const char *mode)
{
    wchar_t name[WIDE], how[8];
    if (!wide(name, path)) return NULL;
    _snwprintf(how, 8, L"%hs%ls", mode, strchr(mode, 'b') ? L"" : L"b");
    return _wfopen(name, how);
}

int posix_open(const char *path, int flags, ...)
{
    wchar_t name[WIDE];
    return wide(name, path) ? _wopen(name, flags | _O_BINARY | _O_NOINHERIT, _S_IREAD | _S_IWRITE) : -1;
}

int posix_access(const char *path, int mode)
{
    wchar_t name[WIDE];
    return wide(name, path) ? _waccess(name, mode) : -1;
}

int posix_unlink(const char *path)
{
    wchar_t name[WIDE];
    return wide(name, path) ? _wunlink(name) : -1;
}

int posix_remove(const char *path)
{
    wchar_t name[WIDE];
    return wide(name, path) ? _wremove(name) : -1;
}

int posix_mkdir(const char *path)
{
    wchar_t name[WIDE];
    struct posix_stat s;
    if (!wide(name, path)) return -1;
    if (_wmkdir(name) == 0) return 0;
    if (posix_stat(path, &s) == 0) errno = EEXIST; /* of C: and of / it says that it may not */
    else if (errno != ENOENT && errno != EACCES) errno = EIO;
    return -1;
}

char *posix_realpath(const char *path, char *none)
{
    wchar_t name[WIDE], full[WIDE];
    struct posix_stat s;
    (void)none;
    if (posix_stat(path, &s) != 0 || !wide(name, path)) return NULL;
    if (GetFullPathNameW(name, WIDE, full, NULL) - 1 < WIDE - 1) return narrow(full);
    errno = ENAMETOOLONG;
    return NULL;
}

struct posix_dir {
    _WDIR *dir;
    struct posix_dirent entry;
};

posix_dir *posix_opendir(const char *path)
{
    wchar_t name[WIDE];
    posix_dir *d = (posix_dir *)malloc(sizeof *d);
    if (d && wide(name, *path ? path : ".") && (d->dir = _wopendir(name)) != NULL) return d;
    free(d);
    return NULL;
}

struct posix_dirent *posix_readdir(posix_dir *d)
{
    const struct _wdirent *e = _wreaddir(d->dir);
    char *text = e ? narrow(e->d_name) : NULL;
    if (!text) return NULL;
    snprintf(d->entry.d_name, sizeof d->entry.d_name, "%s", text);
    free(text);
    return &d->entry;
}

int posix_closedir(posix_dir *d)
{
    const int failed = _wclosedir(d->dir);
    free(d);
    return failed;
}

int fcntl(int fd, int what, struct flock *lock)
{
    OVERLAPPED place;
    memset(&place, 0, sizeof place);
    if (what == F_GETLK) return 0; /* held, as F_SETLK said; l_pid stays 0 */
    (void)lock;
    if (LockFileEx((HANDLE)_get_osfhandle(fd), LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &place))
        return 0;
    errno = EACCES;
    return -1;
}

/* >>processes ------------------------------------------------------------------------------------------------------ */

int sigaction(int sig, const struct sigaction *act, struct sigaction *old)
{
    (void)old;
    return signal(sig, act->sa_handler) == SIG_ERR ? -1 : 0;
}

int kill(long process, int sig)
{
    HANDLE h = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, FALSE, (DWORD)process);
    DWORD code = 0;
    const int lives = h ? GetExitCodeProcess(h, &code) && code == STILL_ACTIVE
                        : GetLastError() == ERROR_ACCESS_DENIED;
    if (h) CloseHandle(h);
    errno = ESRCH;
    return sig == 0 && lives ? 0 : -1;
}

int getrusage(int who, struct rusage *u)
{
    PROCESS_MEMORY_COUNTERS m;
    memset(&m, 0, sizeof m);
    if (who != RUSAGE_SELF || !K32GetProcessMemoryInfo(GetCurrentProcess(), &m, sizeof m)) return -1;
    u->ru_maxrss = (long)(m.PeakWorkingSetSize / 1024);
    return 0;
}

int posix_gethostname(char *name, size_t n)
{
    DWORD room = (DWORD)n;
    return GetComputerNameA(name, &room) ? 0 : -1;
}

int main(void)
{
    int argc = 0, i;
    LPWSTR *words = CommandLineToArgvW(GetCommandLineW(), &argc);
    char **argv = words ? (char **)calloc((size_t)argc + 1, sizeof *argv) : NULL;
    _fmode = _O_BINARY;
    for (i = 0; i < 3; ++i) (void)_setmode(i, _O_BINARY);
    SetConsoleOutputCP(CP_UTF8);
    for (i = 0; argv && i < argc; ++i)
        if ((argv[i] = narrow(words[i])) == NULL) argv = NULL;
    if (argv) return program_main(argc, argv);
    fprintf(stderr, "bmvp: out of memory\n");
    return 1;
}

/* >>ranks ---------------------------------------------------------------------------------------------------------- */

double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    return pthread_create(thread, NULL, fn, arg) == 0;
}

bmvp_status tcp_open(transport *t, const launch_place *l, const launch_settings *s, bmvp_error *err)
{
    (void)t, (void)s;
    return bmvp_error_set(err, BMVP_E_UNSUPPORTED,
                          "rank %d of %d: ranks meet over sockets, which bmvp does not have on Windows: start one "
                          "process, which uses all processors",
                          l->rank, l->size);
}
