// Images from records on a GPU: package pixel's kernel, on libtorch's memory and stream.
#include <c10/core/Stream.h>

#include "cuda.h"
#include "guard.h"

int mp_gather_kernel(void) { return mp::launcher<decltype(mpp_cuda_gather)>("mpp_cuda_gather") != nullptr; }

int mp_gather(mp_tensor records, mp_tensor orders, int64_t n, const mpp_out *out, mp_tensor images, char *err) {
  return mp::guard(err, [&] {
    at::Tensor &from = mp::tensor(records), &what = mp::tensor(orders), &to = mp::tensor(images);
    auto *gather = mp::launcher<decltype(mpp_cuda_gather)>("mpp_cuda_gather");
    TORCH_CHECK(gather, "our CUDA library is not loaded");
    for (const at::Tensor &t : {from, what, to}) TORCH_CHECK(t.is_cuda() && t.device() == to.device(), "a tensor is on ", t.device());
    TORCH_CHECK(what.nbytes() == n * (sizeof(int32_t) + sizeof(mpp_warp)), n, " orders in ", what.nbytes(), " bytes");
    const auto *index = static_cast<const int32_t *>(what.const_data_ptr());
    char why[MPP_ERROR_BYTES] = "";
    const int failed = gather(static_cast<const uint8_t *>(from.const_data_ptr()), index, reinterpret_cast<const mpp_warp *>(index + n), n, out,
                              to.data_ptr(), to.get_device(), mp::stream_of(to), why);
    TORCH_CHECK(failed == MPP_OK, why);
  });
}
