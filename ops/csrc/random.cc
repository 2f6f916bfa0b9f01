// Randomness that is a function of a key and a position, never of a thread, a batch or a device.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "guard.h"
#include "random.h"

int mp_dropout_mask(mp_tensor x, const uint64_t *keys, int n, double p, mp_tensor *mask, char *err) {
  return mp::guard(err, [&] {
    at::Tensor &like = mp::tensor(x);
    TORCH_CHECK(like.dim() > 0 && like.size(0) == n, "dropout: ", n, " keys for shape ", like.sizes());
    TORCH_CHECK(p >= 0 && p < 1, "dropout: probability ", p, " is not in [0, 1)");
    at::NoGradGuard no_grad;
    int64_t inner = n ? like.numel() / n : 0;
    at::Tensor plain = at::empty(like.sizes(), at::TensorOptions().dtype(at::kFloat));
    float *out = plain.data_ptr<float>();
    float scale = static_cast<float>(1.0 / (1.0 - p));
    at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t s = begin; s < end; s++) {
        for (int64_t i = 0; i < inner; i++) out[s * inner + i] = mp_keep(keys[s], i, p) ? scale : 0.0f;
      }
    });
    *mask = mp::handle(plain.to(like.options()));
  });
}
