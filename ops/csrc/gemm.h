// Matrix products of raw memory, by the BLAS that libtorch carries.
//
// Inside a parallel region a product uses one thread, outside it uses all of them.
#pragma once

#include <ATen/native/CPUBlas.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <vector>

extern "C" {
void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha, const float *a,
            const int *lda, const float *b, const int *ldb, const float *beta, float *c, const int *ldc);
void dgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const double *alpha, const double *a,
            const int *lda, const double *b, const int *ldb, const double *beta, double *c, const int *ldc);
// MKL's; other BLAS libraries lack it.
__attribute__((weak)) void gemm_bf16bf16f32_(const char *ta, const char *tb, const int *m, const int *n, const int *k,
                                             const float *alpha, const c10::BFloat16 *a, const int *lda,
                                             const c10::BFloat16 *b, const int *ldb, const float *beta, float *c,
                                             const int *ldc);
}

namespace mp {

inline void blas(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
                 const float *a, const int *lda, const float *b, const int *ldb, const float *beta, float *c,
                 const int *ldc) {
  sgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void blas(const char *ta, const char *tb, const int *m, const int *n, const int *k, const double *alpha,
                 const double *a, const int *lda, const double *b, const int *ldb, const double *beta, double *c,
                 const int *ldc) {
  dgemm_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline void blas(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha,
                 const c10::BFloat16 *a, const int *lda, const c10::BFloat16 *b, const int *ldb, const float *beta,
                 float *c, const int *ldc) {
  gemm_bf16bf16f32_(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
inline bool has_bf16_gemm() { return &gemm_bf16bf16f32_ != nullptr; }

// Weights [k n], row by row, as the instructions for bfloat16 take them: two rows interleaved, each padded to whole registers.
// k is even.
class Pairs {
 public:
  Pairs(const c10::BFloat16 *w, int64_t k, int64_t n) : k_(k), n_(n), ld_((n + 15) / 16 * 16), data_(k * ld_, c10::BFloat16(0.f)) {
    for (int64_t i = 0; i < k; i++) {
      for (int64_t j = 0; j < n; j++) data_[i / 2 * ld_ * 2 + j * 2 + i % 2] = w[i * n + j];
    }
  }

  // c [m n] = a [m k] times the weights, both row by row without gaps. It uses one thread.
  void product(int64_t m, const c10::BFloat16 *a, float *c) const {
    constexpr int64_t kRows = 128;  // of a call, for which a kernel is compiled once
    for (int64_t i = 0; i < m; i += kRows) {
      at::native::cpublas::brgemm(std::min(kRows, m - i), n_, k_, k_, ld_, n_, false, a + i * k_, data_.data(), c + i * n_);
    }
    at::native::cpublas::brgemm_release();
  }

 private:
  int64_t k_, n_, ld_;
  std::vector<c10::BFloat16> data_;
};

// A matrix as BLAS sees it: column by column, ld elements from one column to the next; op is 'T' to take it transposed.
template <class E>
struct Matrix {
  const E *data;
  int64_t ld;
  char op = 'N';
};

// c [m n] = a [m k] b [k n] + beta c, all column by column, ldc from one column of c to the next.
template <class E, class S>
void gemm(int64_t m, int64_t n, int64_t k, Matrix<E> a, Matrix<E> b, S beta, S *c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  TORCH_CHECK(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && a.ld <= INT_MAX && b.ld <= INT_MAX && ldc <= INT_MAX,
              "matrix product of ", m, " x ", k, " and ", k, " x ", n, ": BLAS counts in 32 bits");
  int im = m, in = n, ik = k, ia = a.ld, ib = b.ld, ic = ldc;
  S one = 1;
  blas(&a.op, &b.op, &im, &in, &ik, &one, a.data, &ia, b.data, &ib, &beta, c, &ic);
}

}  // namespace mp
