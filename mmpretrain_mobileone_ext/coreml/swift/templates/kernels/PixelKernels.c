// A target of C needs a source; the functions are in the header.
#include "PixelKernels.h"
