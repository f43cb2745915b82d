/* The one file of the program that holds the implementations. */
#define BMVP_IMPLEMENTATION
#include "bmvp_nifti.h"
#include "bmvp_tensor.h"
#include "bmvp_nn.h"
#include "bmvp_ssl.h"
