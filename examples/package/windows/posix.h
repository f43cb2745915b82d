/* posix.h - what the program asks of POSIX, for Windows: names are UTF-8 and go through the wide API, files are bytes.
 * `make windows` puts it before every file of the program but library.c, as the headers look after themselves. */
#ifndef WINDOWS_POSIX_H_INCLUDED
#define WINDOWS_POSIX_H_INCLUDED

#include <dirent.h>
#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* >>files ---------------------------------------------------------------------------------------------------------- */

struct posix_stat {
    uint64_t st_dev, st_ino; /* of the file, not 0: folders are told apart by them */
    unsigned st_mode;
    int64_t st_size, st_mtime;
};
int posix_stat(const char *path, struct posix_stat *s);
int posix_fstat(int fd, struct posix_stat *s);
FILE *posix_fopen(const char *path, const char *mode);
int posix_open(const char *path, int flags, ...);
int posix_access(const char *path, int mode);
int posix_unlink(const char *path);
int posix_remove(const char *path);
int posix_mkdir(const char *path);
char *posix_realpath(const char *path, char *none); /* with / between folders */
#define stat posix_stat
#define fstat posix_fstat
#define dev_t uint64_t
#define ino_t uint64_t
#define fopen posix_fopen
#define open posix_open
#define access posix_access
#define unlink posix_unlink
#define remove posix_remove
#define mkdir(path, mode) posix_mkdir(path)
#define realpath posix_realpath
#ifndef S_ISSOCK
#define S_ISSOCK(mode) 0
#endif
#ifndef O_CLOEXEC
#define O_CLOEXEC 0
#endif

struct posix_dirent {
    char d_name[4 * 260];
};
typedef struct posix_dir posix_dir;
posix_dir *posix_opendir(const char *path);
struct posix_dirent *posix_readdir(posix_dir *d);
int posix_closedir(posix_dir *d);
#define DIR posix_dir
#define dirent posix_dirent
#define opendir posix_opendir
#define readdir posix_readdir
#define closedir posix_closedir

/* Locks of whole files, which end with the process. Who holds one is not known. */
struct flock {
    int l_type, l_whence;
    long l_start, l_len, l_pid;
};
enum { F_GETLK, F_SETLK, F_UNLCK, F_WRLCK };
int fcntl(int fd, int what, struct flock *lock);

/* >>processes ------------------------------------------------------------------------------------------------------ */

struct sigaction {
    void (*sa_handler)(int);
    int sa_flags;
};
enum { SA_RESETHAND = 1 }; /* as always here */
int sigaction(int sig, const struct sigaction *act, struct sigaction *old);
int kill(long process, int sig); /* sig 0: does it live? */
#define pid_t long
/* signals that do not exist: signal() refuses them, and nothing is lost */
#define SIGPIPE 13
#define SIGXFSZ 25

struct rusage {
    long ru_maxrss; /* KB */
};
enum { RUSAGE_SELF };
int getrusage(int who, struct rusage *u);

int posix_gethostname(char *name, size_t n);
#define gethostname posix_gethostname
#define _SC_NPROCESSORS_ONLN 0
#define sysconf(what) ((long)pthread_num_processors_np() + (what))

/* The program's main, which gets UTF-8 with / in place of \ (no name of a file holds one). */
int program_main(int argc, char **argv);
#define main program_main

#endif /* WINDOWS_POSIX_H_INCLUDED */
