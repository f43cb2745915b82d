/* places.h - what tests of ranks that meet over sockets share: a free port, a rank's place,
   settings that do not wait for long. */
#ifndef PLACES_H_INCLUDED
#define PLACES_H_INCLUDED

#include "examples/bmvp/ranks/launch.h"
#include "examples/bmvp/ranks/sockets.h"
#include "tests/support/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 5 }; /* ranks of the largest run */

/* A port of 127.0.0.1 that was free a moment ago, below those that systems give to clients (whose ends hold them for
   a minute and more) and below those of the shell tests */
static inline int free_port(void)
{
    static int last;
    int tries, found = 0;
    if (!last) last = (int)(getpid() * 37l % 5000);
    for (tries = 0; tries < 5000 && !found; ++tries) {
        struct sockaddr_in a;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        last = (last + 1) % 5000;
        memset(&a, 0, sizeof a);
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        a.sin_port = htons((uint16_t)(10000 + last));
        found = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
        socket_close(&fd);
    }
    CHECK(found);
    return 10000 + last;
}

static inline launch_place launch_of(int rank, int size, const char *address, int port)
{
    launch_place l;
    memset(&l, 0, sizeof l);
    l.by = LAUNCH_TORCHRUN;
    l.rank = rank;
    l.size = size;
    l.port = port;
    l.nonce = 0x1234567890abcdefu;
    snprintf(l.address, sizeof l.address, "%s", address);
    return l;
}

/* Silent for at most 10 s: more than a busy machine makes a thread wait */
static inline launch_settings quick(void)
{
    const launch_settings s = { 20, 0.3, 20, 0.05, 10, 1 << 12, NULL, NULL };
    return s;
}

/* Numbers that look random, the same in every run */
static inline uint32_t noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

#endif /* PLACES_H_INCLUDED */
