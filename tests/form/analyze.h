/* analyze.h - for analyze.sh: what the analyzer cannot see, as it looks at one file at a time: bmvp_error_set returns
   the status that it is given. */
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
#define bmvp_error_set(err, status, ...) (bmvp_error_set(err, status, __VA_ARGS__), (status))
