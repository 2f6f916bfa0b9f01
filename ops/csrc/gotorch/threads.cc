// Stands in for gotorch's function of this name, which its init calls with half the processors: none where there is one,
// and libtorch's exception would end the process before main. A device sets its own number of threads anyway.
#include <ATen/Parallel.h>

#include <algorithm>

extern "C" void SetNumThreads(int32_t n) { at::set_num_threads(std::max(n, 1)); }
