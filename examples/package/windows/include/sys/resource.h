/* resource.h - is in posix.h */
