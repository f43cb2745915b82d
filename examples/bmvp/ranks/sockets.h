/* sockets.h - TCP sockets that never block: what meeting (rendezvous.c) and calls (tcp.c) share; and threads */
#ifndef SOCKETS_H_INCLUDED
#define SOCKETS_H_INCLUDED

#include <netdb.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/types.h>
#include "bmvp_tensor.h"

double clock_now(void); /* seconds of the monotonic clock */
void clock_sleep(double seconds);
void socket_close(int *fd); /* and sets it to -1 */
/* Does not block, is not inherited by programs that are started, sends small messages at once. 0: could not be set. */
int socket_prepare(int fd);
/* Addresses of host; free them with freeaddrinfo. NULL: *why says what the resolver says. */
struct addrinfo *socket_resolve(const char *host, int port, const char **why);
/* Connected within `seconds`, or -1 with errno. */
int socket_connect(const struct addrinfo *to, double seconds);
/* As many of n bytes as go at once, as send; a connection that is closed is an error and no SIGPIPE. */
ssize_t socket_put(int fd, const void *data, size_t n);
/* All n bytes by `until`, or 0: closed, failed, or too late. */
int socket_send(int fd, const void *data, size_t n, double until);
int socket_receive(int fd, void *data, size_t n, double until);
/* 1: the other side has closed, or the connection broke; or it has sent something where nothing was due */
int socket_over(int fd);
/* A thread to which no signal is delivered: they stay the main thread's. 0: could not be started. */
int thread_start(pthread_t *thread, void *(*fn)(void *), void *arg);

#endif /* SOCKETS_H_INCLUDED */
