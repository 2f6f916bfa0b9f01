// Handles, views and copies between tensors and host memory.
#include <ATen/ops/from_blob.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "guard.h"

int mp_wrap(void *data, int dtype, const int64_t *sizes, const int64_t *strides, int dims, mp_tensor *result, char *err) {
  return mp::guard(err, [&] {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype));
    at::IntArrayRef shape(sizes, dims);
    *result = mp::handle(strides ? at::from_blob(data, shape, at::IntArrayRef(strides, dims), options)
                                 : at::from_blob(data, shape, options));
  });
}

int mp_view(mp_tensor flat, int64_t offset, const int64_t *sizes, int dims, int channels_last, mp_tensor *result, char *err) {
  return mp::guard(err, [&] {
    int64_t count = 1;
    for (int i = 0; i < dims; i++) count *= sizes[i];
    at::Tensor part = mp::tensor(flat).narrow(0, offset, count);
    if (channels_last && dims == 4) {
      part = part.view({sizes[0], sizes[2], sizes[3], sizes[1]}).permute({0, 3, 1, 2});
    } else {
      part = part.view(at::IntArrayRef(sizes, dims));
    }
    *result = mp::handle(part);
  });
}

int mp_copy_into(const mp_tensor *from, const mp_tensor *views, int n, char *err) {
  return mp::guard(err, [&] {
    at::NoGradGuard no_grad;
    for (int i = 0; i < n; i++) {
      at::Tensor &view = mp::tensor(views[i]);
      TORCH_CHECK(mp::tensor(from[i]).sizes() == view.sizes(), "tensor ", i, " has shape ", mp::tensor(from[i]).sizes(),
                  ", its place has ", view.sizes());
      view.copy_(mp::tensor(from[i]));
    }
  });
}

int mp_read(mp_tensor t, void *bytes, int64_t size, char *err) {
  return mp::guard(err, [&] {
    at::NoGradGuard no_grad;
    at::Tensor host = mp::tensor(t).detach().to(at::kCPU).contiguous();
    TORCH_CHECK(static_cast<int64_t>(host.nbytes()) == size, "tensor has ", host.nbytes(), " bytes, the buffer ", size);
    if (size) std::memcpy(bytes, host.data_ptr(), size);
  });
}

int mp_data(mp_tensor t, void **data, int64_t *bytes, char *err) {
  return mp::guard(err, [&] {
    at::Tensor &x = mp::tensor(t);
    TORCH_CHECK(x.is_non_overlapping_and_dense(), "tensor of shape ", x.sizes(), " is not dense in memory");
    *data = x.data_ptr();
    *bytes = static_cast<int64_t>(x.nbytes());
  });
}

int mp_describe(mp_tensor t, int *dtype, int *device, int *channels_last, int *requires_grad, char *err) {
  return mp::guard(err, [&] {
    at::Tensor &x = mp::tensor(t);
    *dtype = static_cast<int>(x.scalar_type());
    *device = x.is_cuda() ? x.get_device() : -1;
    *channels_last = x.dim() == 4 && x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
    *requires_grad = x.requires_grad();
  });
}

void mp_tensor_free(mp_tensor t) { delete static_cast<at::Tensor *>(t); }

mp_tensor mp_tensor_share(mp_tensor t) { return new at::Tensor(mp::tensor(t)); }

int mp_set_threads(int n, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(n > 0, "a device needs at least one thread, not ", n);
    at::set_num_threads(n);
  });
}

int mp_cpu_bf16(int *yes, char *err) {
  return mp::guard(err, [&] {
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "").typed<bool()>();
    *yes = op.call();
  });
}
