// Patches of channels-last images as rows of a matrix (im2col), and back (col2im).
//
// Legend: images [n h w c] in memory, output positions ho by wo for each; a patch is K = kh*kw*c elements in the order
// (u, v, c), so that for each u it is one run of kw*c elements of the image.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace mp::conv {

// Where patches lie. The padding may be negative (an image cropped rather than padded) and need not be the same both ways.
struct Patches {
  int64_t h, w, c, kh, kw, stride, pad_h, pad_w, ho, wo;
  int64_t columns() const { return kh * kw * c; }
};

template <class From, class To>
inline void copy_run(const From *from, int64_t n, To *to) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, n * sizeof(To));
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = static_cast<To>(from[i]);
  }
}

// Rows of output positions first..last, counted through all images (row r is row r%ho of image r/ho), as
// cols [(last-first)*wo K]. images is image 0; nothing from end on is read.
template <class From, class To>
void unfold(const From *images, const From *end, const Patches &p, int64_t first, int64_t last, To *cols) {
  constexpr int64_t kStep = 16 / sizeof(To);  // short runs are copied in steps that may write past them
  const int64_t run = p.kw * p.c, k = p.columns();
  const bool hop = std::is_same_v<From, To> && run * sizeof(To) <= 256;
  at::parallel_for(first, last, 1, [&](int64_t begin, int64_t stop) {
    for (int64_t r = begin; r < stop; r++) {
      const From *image = images + (r / p.ho) * p.h * p.w * p.c;
      const int64_t top = (r % p.ho) * p.stride - p.pad_h;
      To *to = cols + (r - first) * p.wo * k, *row_end = to + p.wo * k;
      for (int64_t j = 0; j < p.wo; j++) {
        const int64_t left = j * p.stride - p.pad_w;
        const int64_t lo = std::clamp<int64_t>(-left, 0, p.kw), hi = std::clamp<int64_t>(p.w - left, lo, p.kw);
        for (int64_t u = 0; u < p.kh; u++, to += run) {
          if (top + u < 0 || top + u >= p.h || lo == hi) {
            std::memset(static_cast<void *>(to), 0, run * sizeof(To));
            continue;
          }
          const From *from = image + ((top + u) * p.w + left) * p.c;
          if (lo != 0 || hi != p.kw) {
            std::memset(static_cast<void *>(to), 0, lo * p.c * sizeof(To));
            copy_run(from + lo * p.c, (hi - lo) * p.c, to + lo * p.c);
            std::memset(static_cast<void *>(to + hi * p.c), 0, (p.kw - hi) * p.c * sizeof(To));
          } else if (hop && from + run + kStep <= end && to + run + kStep <= row_end) {
            for (int64_t i = 0; i < run; i += kStep) std::memcpy(static_cast<void *>(to + i), from + i, 16);
          } else {
            copy_run(from, run, to);
          }
        }
      }
    }
  });
}

// Adds rows first..last of patches, cols as above, up into images. Parallel over the rows of the images, each of which
// gathers what belongs to it in a fixed order.
template <class S>
void fold(const S *cols, const Patches &p, int64_t first, int64_t last, S *images) {
  const int64_t k = p.columns();
  for (int64_t r = first; r < last;) {
    const int64_t image = r / p.ho, i0 = r % p.ho, i1 = std::min(p.ho, i0 + last - r);
    const S *from = cols + (r - first) * p.wo * k;
    S *to = images + image * p.h * p.w * p.c;
    r += i1 - i0;
    const int64_t top = std::max<int64_t>(0, i0 * p.stride - p.pad_h);
    const int64_t bottom = std::min(p.h, (i1 - 1) * p.stride - p.pad_h + p.kh);
    if (top >= bottom) continue;
    at::parallel_for(top, bottom, 1, [&](int64_t begin, int64_t stop) {
      for (int64_t y = begin; y < stop; y++) {
        S *row = to + y * p.w * p.c;
        for (int64_t u = 0; u < p.kh; u++) {
          const int64_t at = y + p.pad_h - u;  // i * stride
          if (at < 0 || at % p.stride != 0 || at / p.stride < i0 || at / p.stride >= i1) continue;
          const S *patch = from + (at / p.stride - i0) * p.wo * k + u * p.kw * p.c;
          for (int64_t j = 0; j < p.wo; j++, patch += k) {
            const int64_t left = j * p.stride - p.pad_w;
            const int64_t lo = std::clamp<int64_t>(-left, 0, p.kw), hi = std::clamp<int64_t>(p.w - left, lo, p.kw);
            for (int64_t e = lo * p.c; e < hi * p.c; e++) row[left * p.c + e] += patch[e];
          }
        }
      }
    });
  }
}

// from [rows cols] into to [cols rows].
template <class From, class To>
void transpose(const From *from, int64_t rows, int64_t cols, To *to) {
  constexpr int64_t kTile = 16;
  at::parallel_for(0, (rows + kTile - 1) / kTile, 16, [&](int64_t begin, int64_t stop) {
    for (int64_t i0 = begin * kTile; i0 < std::min(rows, stop * kTile); i0 += kTile) {
      const int64_t i1 = std::min(rows, i0 + kTile);
      for (int64_t j0 = 0; j0 < cols; j0 += kTile) {
        const int64_t j1 = std::min(cols, j0 + kTile);
        for (int64_t j = j0; j < j1; j++) {
          for (int64_t i = i0; i < i1; i++) to[j * rows + i] = static_cast<To>(from[i * cols + j]);
        }
      }
    }
  });
}

}  // namespace mp::conv
