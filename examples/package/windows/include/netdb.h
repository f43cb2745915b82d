/* netdb.h - there are no sockets here (posix.c: tcp_open): the name alone, for sockets.h */
struct addrinfo;
