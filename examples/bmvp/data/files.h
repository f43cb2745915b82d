/* files.h - paths and folders */
#ifndef FILES_H_INCLUDED
#define FILES_H_INCLUDED

char *text_copy(const char *text);                  /* malloc */
char *path_join(const char *dir, const char *name); /* malloc; name alone when it is absolute */
char *folder_of(const char *path);                  /* with its last /, "" when it has none; malloc */
int file_exists(const char *path);
int make_dir(const char *path);                     /* with its parents; fine if it exists. 0, or -1 with errno */

/* One writer at a time: takes DIR/.lock for this process until it ends, however it ends. 0: done; -1 with errno; 1:
   another process has it. */
int folder_lock(const char *dir);

#endif
