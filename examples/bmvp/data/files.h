/* files.h - paths and folders */
#ifndef FILES_H_INCLUDED
#define FILES_H_INCLUDED

#include <stdarg.h>
#include <stdio.h>
#include "bmvp_tensor.h"

char *text_copy(const char *text);                  /* malloc */
char *path_join(const char *dir, const char *name); /* malloc; name alone when it is absolute */
char *folder_of(const char *path);                  /* with its last /, "" when it has none; malloc */
int file_exists(const char *path);
/* A file that is there may be written over only if it is like what the program writes: a checkpoint (key NULL), or JSON
   with this key. BMVP_E_ARG naming it. What is no regular file (a pipe, /dev/stdout) is nobody's. */
bmvp_status file_may_replace(const char *path, const char *key, bmvp_error *err);
int is_utf8(const char *text);         /* else no list (JSON) can hold it */
int text_clean(char *text, char with); /* control characters, which a terminal carries out, become that; so many */
/* vsnprintf of text that may hold names from lists or folders: control characters become '?', but for the line ends
   that the format has at its start and end. */
void text_say(char *text, size_t size, const char *format, va_list args);
/* The same to a file, at most 4 KB. */
void say(FILE *to, const char *format, ...) BMVP_PRINTF(2, 3);
int make_dir(const char *path);                     /* with its parents; fine if it exists. 0, or -1 with errno */

/* Makes the folder of --out and takes DIR/.lock for this process until it ends, however it ends: one writer at a time.
   What the file holds does not matter. BMVP_E_STATE naming the process that has it, BMVP_E_IO. */
bmvp_status folder_take(const char *dir, bmvp_error *err);

/* Removes what killed processes left half written of the files of these names (NULL at their end): NAME.tmp.PROCESS and
   NAME.tmpPROCESS.NUMBER, as the headers call them, but not of a process that lives. All else stays. */
void folder_clear(const char *dir, const char *const *names);

#endif
