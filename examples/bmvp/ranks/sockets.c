/* sockets.c - see sockets.h */
#define _DEFAULT_SOURCE
#include "sockets.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void clock_sleep(double seconds)
{
    struct timespec t;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
}

void socket_close(int *fd)
{
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

int socket_prepare(int fd)
{
    const int on = 1, flags = fcntl(fd, F_GETFL);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
#ifdef SO_NOSIGPIPE
    (void)setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

struct addrinfo *socket_resolve(const char *host, int port, const char **why)
{
    struct addrinfo want, *list = NULL;
    char text[16];
    int code;
    memset(&want, 0, sizeof want);
    want.ai_family = AF_UNSPEC;
    want.ai_socktype = SOCK_STREAM;
    want.ai_flags = AI_NUMERICSERV;
    snprintf(text, sizeof text, "%d", port);
    code = getaddrinfo(host, text, &want, &list);
    if (code) *why = gai_strerror(code);
    return code ? NULL : list;
}

/* 1: ready or broken, 0: not by `until` */
static int net_ready(int fd, short events, double until)
{
    for (;;) {
        struct pollfd p;
        const double left = until - clock_now();
        int n;
        p.fd = fd;
        p.events = events;
        p.revents = 0;
        n = poll(&p, 1, left > 0 ? (int)(left < 1e6 ? left * 1e3 + 1 : 1e9) : 0);
        if (n > 0) return 1;
        if (n == 0 || errno != EINTR) return 0;
    }
}

/* A port that nobody listens on may be given to the client itself, which then talks to itself. */
static int net_is_own(int fd)
{
    struct sockaddr_storage here, there;
    socklen_t n = sizeof here, k = sizeof there;
    memset(&here, 0, sizeof here);
    memset(&there, 0, sizeof there);
    return getsockname(fd, (struct sockaddr *)&here, &n) == 0 && getpeername(fd, (struct sockaddr *)&there, &k) == 0 &&
           n == k && memcmp(&here, &there, n) == 0;
}

int socket_connect(const struct addrinfo *to, double seconds)
{
    const int on = 1;
    int fd = socket(to->ai_family, SOCK_STREAM, 0), problem = 0;
    socklen_t n = sizeof problem;
    if (fd < 0) return -1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on); /* its port, closed, keeps no later rank 0 out */
    if (!socket_prepare(fd)) problem = errno;
    else if (connect(fd, to->ai_addr, to->ai_addrlen) != 0 && errno != EINPROGRESS) problem = errno;
    else if (!net_ready(fd, POLLOUT, clock_now() + seconds)) problem = ETIMEDOUT;
    else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &n) != 0) problem = errno;
    else if (!problem && net_is_own(fd)) problem = ECONNREFUSED;
    if (!problem) return fd;
    socket_close(&fd);
    errno = problem;
    return -1;
}

ssize_t socket_put(int fd, const void *data, size_t n)
{
#ifdef MSG_NOSIGNAL
    return send(fd, data, n, MSG_NOSIGNAL);
#else
    return send(fd, data, n, 0); /* older macOS: socket_prepare sees to it */
#endif
}

int socket_send(int fd, const void *data, size_t n, double until)
{
    const char *p = (const char *)data;
    while (n) {
        const ssize_t k = socket_put(fd, p, n);
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        } else if (k < 0 && errno != EINTR &&
                   ((errno != EAGAIN && errno != EWOULDBLOCK) || !net_ready(fd, POLLOUT, until))) {
            return 0;
        }
    }
    return 1;
}

int socket_receive(int fd, void *data, size_t n, double until)
{
    char *p = (char *)data;
    while (n) {
        const ssize_t k = recv(fd, p, n, 0);
        if (k == 0) return 0;
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        } else if (errno != EINTR && ((errno != EAGAIN && errno != EWOULDBLOCK) || !net_ready(fd, POLLIN, until))) {
            return 0;
        }
    }
    return 1;
}

int socket_over(int fd)
{
    char byte;
    ssize_t k;
    do k = recv(fd, &byte, 1, MSG_PEEK);
    while (k < 0 && errno == EINTR);
    return k >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

int thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    sigset_t all, before;
    int ok;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    ok = pthread_create(thread, NULL, fn, arg) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}
