// The C boundary of package ops: opaque handles, integers and floats; every call returns a status and never throws.
//
// A tensor handle is an at::Tensor*, the same as gotorch's, so both libraries pass the same tensors. A result marked
// "new" belongs to the caller, who frees it with mp_tensor_free. A status other than MP_OK comes with a message in err,
// a buffer of MP_ERR bytes that the caller supplies.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../pixel/csrc/pixel.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MP_OK = 0, MP_FAILED = 1 };
enum { MP_ERR = 1024 };

typedef void *mp_tensor;

// One argument of an ATen operation.
enum { MP_NONE, MP_TENSOR, MP_INT, MP_FLOAT, MP_BOOL, MP_INTS, MP_TENSORS, MP_BOOLS, MP_DEVICE };
typedef struct {
  int32_t kind;
  int32_t n;          // length of ints or tensors
  int64_t i;          // MP_INT, MP_BOOL; MP_DEVICE: index of the GPU, -1 for the CPU
  double f;           // MP_FLOAT
  mp_tensor t;        // MP_TENSOR, borrowed; null is an undefined tensor (None)
  const int64_t *ints;  // MP_INTS, MP_BOOLS
  mp_tensor *tensors;   // MP_TENSORS, borrowed
} mp_value;

// Calls the ATen operation `name` with overload `overload` ("" for the default) through the dispatcher, autograd
// included. Arguments left out at the end take the schema's defaults. results: new tensors, max of them at most; an
// undefined result is null; *n is how many the operation has.
int mp_call(const char *name, const char *overload, const mp_value *args, int nargs, mp_tensor *results, int max, int *n,
            char *err);

// d loss / d inputs[i] for a scalar loss, into results (new). Computes nothing for other leaves. An input that the loss
// does not depend on is an error naming its index, unless allow_unused: then its result is null.
int mp_grad(mp_tensor loss, const mp_tensor *inputs, int n, int allow_unused, mp_tensor *results, char *err);

// d loss / d leaves[i] into views[i], a view of a flat buffer that starts at its element offsets[i] (ascending), each as
// soon as the backward pass has it; zeros where the loss does not depend on the leaf. *final_from (any thread may load it
// meanwhile, atomically) falls as the buffer's end fills: elements *final_from.. are written, on a GPU by work that has
// finished. Frees the graph. Returns when all is written. A leaf must not take part in two such calls at once.
int mp_grad_into(mp_tensor loss, const mp_tensor *leaves, const mp_tensor *views, const int64_t *offsets, int n,
                 int64_t *final_from, char *err);

// The pullback of dy, shaped as y: sum of dy * d y / d inputs[i], into results (new). As mp_grad otherwise.
int mp_pullback(mp_tensor y, mp_tensor dy, const mp_tensor *inputs, int n, mp_tensor *results, char *err);

// A leaf that shares memory with t and asks for a gradient (new).
int mp_leaf(mp_tensor t, mp_tensor *result, char *err);
// A tensor over memory that the caller keeps alive; strides may be null (contiguous). result: new.
int mp_wrap(void *data, int dtype, const int64_t *sizes, const int64_t *strides, int dims, mp_tensor *result, char *err);
// A view of the flat buffer (1-d): elements offset.. as sizes; channels_last lays a 4-d view out NHWC. result: new.
int mp_view(mp_tensor flat, int64_t offset, const int64_t *sizes, int dims, int channels_last, mp_tensor *result, char *err);
// Copies n tensors one after another into the views given (same shapes, any layout and dtype): gradients into a flat buffer.
int mp_copy_into(const mp_tensor *from, const mp_tensor *views, int n, char *err);
// Copies t, as C-contiguous elements of its own dtype, to bytes of host memory; size must be exact.
int mp_read(mp_tensor t, void *bytes, int64_t size, char *err);
// The address of a contiguous tensor's first element, and its size in bytes.
int mp_data(mp_tensor t, void **data, int64_t *bytes, char *err);
int mp_describe(mp_tensor t, int *dtype, int *device, int *channels_last, int *requires_grad, char *err);
void mp_tensor_free(mp_tensor t);
mp_tensor mp_tensor_share(mp_tensor t);  // a second handle on the same tensor (new)

// Thread-local: whether operations record a graph. Returns the mode before.
int mp_set_grad_enabled(int enabled);
// The intra-op threads of the calling thread.
int mp_set_threads(int n, char *err);
// Whether the CPU has instructions for bfloat16 that the library uses.
int mp_cpu_bf16(int *yes, char *err);

// dlopens libtorch_cuda.so and our own CUDA library, then reports how many GPUs there are. Must come before the first
// tensor operation of the process. Convolutions compute float32 as such and, as far as the library has a choice, in an order
// that two runs share.
int mp_open_cuda(const char *torch_cuda, const char *mp_cuda, int *gpus, char *err);
// Makes a GPU the calling thread's, and waits for it: an error says that others have it.
int mp_take_gpu(int gpu, char *err);
// Where on the bus a GPU is, as text of at most MP_PLACE bytes.
enum { MP_PLACE = 32 };
int mp_gpu_place(int gpu, char *place, char *err);
int mp_synchronize(int device, char *err);
// GPU memory in bytes: allocated now, peak since the last reset, free on the device, total.
int mp_cuda_memory(int gpu, int64_t out[4], char *err);

// The CPU allocator: blocks are kept and used again, so that a training step after the first asks nothing of the kernel.
void mp_memory_install(void);
void mp_memory_stats(int64_t *used, int64_t *peak, int64_t *cached);
void mp_memory_reset_peak(void);
void mp_memory_trim(void);

// Dropout: y = x * keep(key, i) / (1 - p), where keep is true with probability 1-p and depends on the sample's key and on
// the position i in the sample (C-order of the logical shape). keys: one per sample (first dimension). mask: new, in x's
// dtype and layout.
int mp_dropout_mask(mp_tensor x, const uint64_t *keys, int n, double p, mp_tensor *mask, char *err);

// One optimizer step over flat float32 buffers [length], length a multiple of MP_BLOCK. Every formula is in update.h.
enum { MP_BLOCK = 16 };
enum { MP_SGD, MP_ADAMW };
typedef struct {
  int32_t kind;
  int32_t nesterov;   // SGD
  float rate;         // SGD: learning rate; AdamW: learning rate / (1 - beta1^t)
  float decay_rate;   // AdamW: learning rate
  float beta1;        // SGD: momentum
  float beta2, root, eps;  // AdamW; root is sqrt(1 - beta2^t)
  float rest1, rest2;      // AdamW: 1 - beta1 and 1 - beta2, rounded once
  float follow;       // share by which the average moves towards the weights
  double scale;       // factor of the gradient
  double max_norm;    // limit of the scaled gradient's norm; only where a norm is given
} mp_rule;
typedef struct {
  mp_tensor weights, grads;  // [length]
  mp_tensor decay;           // [length / MP_BLOCK]: weight decay of a block
  mp_tensor first, second;   // [length]: the rule's state; SGD has no second
  mp_tensor average;         // [length] or null
  mp_tensor norm;            // float64 [1], the gradient's norm before scaling, or null
} mp_flats;
int mp_update(const mp_rule *rule, const mp_flats *flats, char *err);
// norm (new): float64 [1], the Euclidean norm of grads, in an order of summation that no thread count changes.
int mp_norm(mp_tensor grads, mp_tensor *norm, char *err);
// Whether mp_update and mp_norm have a kernel for the device of t.
int mp_update_kernel(mp_tensor t);

// Whether our CUDA library makes images of records.
int mp_gather_kernel(void);
// mpp_gather on a GPU, into images (as *out says). records: uint8; orders: uint8, n times an index (int32), then n times an
// mpp_warp, which the caller has given to mpp_check. All on one GPU.
int mp_gather(mp_tensor records, mp_tensor orders, int64_t n, const mpp_out *out, mp_tensor images, char *err);

// Host memory (new, uint8) from which a GPU copies by itself.
int mp_stage_room(int64_t bytes, mp_tensor *room, char *err);
// A copy of such memory to a GPU, beside what that computes; from any thread. *stage is new. The memory may change when the copy
// has arrived, or is of no more use.
typedef struct mp_stage mp_stage;
int mp_stage_copy(const void *from, int64_t bytes, int gpu, mp_stage **stage, char *err);
// The copy (new, uint8), for what the calling thread asks the GPU for from now on: that waits for its arrival.
int mp_stage_take(mp_stage *stage, mp_tensor *records, char *err);
void mp_stage_free(mp_stage *stage);

// Our own convolution: y [N Co Ho Wo] (new) = x [N Ci H W] cross-correlated with w [Co Ci Kh Kw], plus b [Co] (may be
// null), with a graph. MP_CONV_AUTO picks the implementation; the others are for comparisons: a composition of ATen
// operations, and on the CPU bfloat16 columns widened to float32 or left as they are. MP_CONV_IMAGES is the library's
// convolution on the CPU with our own gradient of x.
enum { MP_CONV_AUTO, MP_CONV_COMPOSED, MP_CONV_WIDE, MP_CONV_NARROW, MP_CONV_IMAGES };
int mp_own_conv2d(mp_tensor x, mp_tensor w, mp_tensor b, int64_t stride, int64_t padding, int how, mp_tensor *y, char *err);

// y [N Co H W] (new) = x [N Ci H W] cross-correlated with w [Co Ci 3 3] at stride 1 and padding 1, plus b [Co] (may be null), by
// Winograd's algorithm with tiles of tile x tile pixels, 2 or 4, with a graph of one node. y is null where there is no
// implementation: the caller asks the library. There is one for float32 on the CPU that lies N H W C, and for such bfloat16 where
// the processor multiplies it and Ci and Co are multiples of 16; w and b are float32. For tile 0 it takes the fastest, and y is
// null where that is the library's. No bit depends on the number of threads.
int mp_winograd_conv2d(mp_tensor x, mp_tensor w, mp_tensor b, int64_t tile, mp_tensor *y, char *err);

// What each of ATen's operations and each node of a backward pass takes, of all threads, from start to stop: the dearest max
// of them, without what they call in turn. On a GPU that is the asking, not the work.
typedef struct {
  char name[120];
  int64_t calls, nanoseconds;
} mp_cost;
int mp_profile_start(char *err);
int mp_profile_stop(mp_cost *rows, int max, int *n, char *err);

// The loops of the sum over shards (package allreduce, Kernels), on host memory; n elements in blocks of MP_FIXED_BLOCK that
// share an exponent, the last perhaps short. They cannot fail. No two vectors overlap.
enum { MP_FIXED_BLOCK = 256 };
void mp_fixed_exponents(uint8_t *exponents, const float *x, int64_t n);
void mp_fixed_quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits, int add);
void mp_fixed_dequantize(float *x, const int32_t *q, const uint8_t *exponents, int64_t n, int bits);
void mp_fixed_add(int32_t *dst, const int32_t *src, int64_t n);
void mp_fixed_accumulate(float *dst, const float *src, int64_t n);
void mp_fixed_shorten(int32_t *pairs, float *x, const uint8_t *exponents, int64_t n, int bits);
void mp_fixed_lengthen(float *x, const int32_t *pairs, const uint8_t *exponents, int64_t n, int bits);

// The same of elements lo to hi of n vectors, float32 on one device: exponents raised to those of all vectors, and q the sum of their
// integers. exponents and q are host memory; lo is a multiple of MP_FIXED_BLOCK.
int mp_fixed_vectors_exponents(uint8_t *exponents, const mp_tensor *vectors, int n, int64_t lo, int64_t hi, char *err);
int mp_fixed_vectors_quantize(int32_t *q, const uint8_t *exponents, const mp_tensor *vectors, int n, int64_t lo, int64_t hi, int bits,
                              char *err);

#ifdef __cplusplus
}
#endif
