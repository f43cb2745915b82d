/* phantom.h - `bmvp phantom`: writes a data set of multi-modal brain phantoms (see phantom.c) */
#ifndef BMVP_PHANTOM_H_INCLUDED
#define BMVP_PHANTOM_H_INCLUDED

#ifdef __cplusplus
extern "C" {
#endif

/* argv[0] is the command's name. Returns the exit code: 0 done, 1 failed (message names the file), 2 bad options. */
int bmvp_cmd_phantom(int argc, char **argv);

#ifdef __cplusplus
}
#endif
#endif
