/* rendezvous.h - the ranks of a run find one another: rank 0 listens, every other rank connects to it twice

   A rank that connects says who it is in a message of fixed size (rank_hello) and waits. Rank 0 refuses what is not of
   its job with a reason, and closes what is slow (half of a rank, too) or speaks something else; neither keeps a rank
   of the job out. When
   all ranks are there it stops listening and answers all of them. There is no secret but the job's nonce: run it in
   networks whose hosts may be trusted. */
#ifndef RENDEZVOUS_H_INCLUDED
#define RENDEZVOUS_H_INCLUDED

#include "launch.h"

enum { CHANNELS = 2, CHANNEL_DATA = 0, CHANNEL_CONTROL = 1, HOST_TEXT = 64, PROTOCOL_VERSION = 1 };
#define PROTOCOL_MAGIC "bmvprun" /* with its 0: 8 bytes */

/* As it lies in memory: hosts of the other byte order are refused as another protocol. */
typedef struct rank_hello {
    char magic[8];
    uint32_t protocol, library; /* PROTOCOL_VERSION, BMVP_TENSOR_VERSION */
    uint32_t size, rank, channel, zero;
    uint64_t nonce;
    uint64_t token;             /* of this attempt of this process: joins its two connections */
    char host[HOST_TEXT];       /* for messages */
} rank_hello;

typedef struct rank_answer {
    char magic[8];
    uint32_t protocol, accepted;
    char text[320]; /* accepted: rank 0's host; else why not */
} rank_answer;

typedef struct rank_peer {
    int fd[CHANNELS]; /* -1: none */
    char host[HOST_TEXT];
    uint64_t token;
    double until; /* rank 0, of a rank that has come with one connection: when it must have come with both */
} rank_peer;

/* peer: one for each rank. Rank 0 gets connections to all others, the others to rank 0; they do not block. BMVP_E_IO:
   not all ranks have met within s->join seconds, or rank 0 has refused this one; nothing is open then. */
bmvp_status rendezvous_meet(const launch_place *l, const launch_settings *s, rank_peer *peer, bmvp_error *err);
void rendezvous_close(rank_peer *peer, int size);

#endif /* RENDEZVOUS_H_INCLUDED */
