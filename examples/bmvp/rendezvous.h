/* rendezvous.h - the ranks of a run find one another: rank 0 listens, every other rank connects to it twice

   A rank that connects says who it is in a message of fixed size (bmvp_hello) and waits. Rank 0 refuses what is not of its job with a reason,
   and closes what is slow or speaks something else; neither keeps a rank of the job out. When all ranks are there it stops listening and answers
   all of them. There is no secret but the job's nonce: run it in networks whose hosts may be trusted. */
#ifndef BMVP_RENDEZVOUS_H_INCLUDED
#define BMVP_RENDEZVOUS_H_INCLUDED

#include "launch.h"

enum { BMVP_CHANNELS = 2, BMVP_DATA = 0, BMVP_CONTROL = 1, BMVP_HOST = 64, BMVP_PROTOCOL = 1 };
#define BMVP_MAGIC "bmvprun" /* with its 0: 8 bytes */

/* As it lies in memory: hosts of the other byte order are refused as another protocol. */
typedef struct bmvp_hello {
    char magic[8];
    uint32_t protocol, library; /* BMVP_PROTOCOL, BMVP_TENSOR_VERSION */
    uint32_t size, rank, channel, zero;
    uint64_t nonce;
    uint64_t token;             /* of this attempt of this process: joins its two connections */
    char host[BMVP_HOST];       /* for messages */
} bmvp_hello;

typedef struct bmvp_answer {
    char magic[8];
    uint32_t protocol, accepted;
    char text[320]; /* accepted: rank 0's host; else why not */
} bmvp_answer;

typedef struct bmvp_peer {
    int fd[BMVP_CHANNELS]; /* -1: none */
    char host[BMVP_HOST];
    uint64_t token;
} bmvp_peer;

/* peer: one for each rank. Rank 0 gets connections to all others, the others to rank 0; they do not block. BMVP_E_IO: not all ranks have met
   within s->join seconds, or rank 0 has refused this one; nothing is open then. */
bmvp_status bmvp_rendezvous(const bmvp_launch *l, const bmvp_launch_settings *s, bmvp_peer *peer, bmvp_error *err);
void bmvp_rendezvous_close(bmvp_peer *peer, int size);

#endif /* BMVP_RENDEZVOUS_H_INCLUDED */
