// The arithmetic of one pixel, for CPU and GPU: what mpp_warp means. Integers up to the last subtraction and product, so
// that every launcher on every processor gives the same bits.
//
// Q11: weights of interpolation, 2048 = 1.  Q20: coordinates.
#pragma once

#include "pixel.h"

#ifdef __CUDACC__
#define MPP_FN __host__ __device__ inline
#else
#define MPP_FN inline
#endif

namespace mpp {

constexpr int kCoordBits = 20, kWeightBits = 11, kWeightOne = 1 << kWeightBits;

// One image, with what has to be known of its whole record.
struct Prepared {
  const uint8_t *record;
  const mpp_warp *warp;
  int32_t offset[3];       // of the matrix: mean grey and rounding, Q16
  const uint8_t *table;    // 3 x 256, where there is a tone
};

MPP_FN int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

// The pixel (x, y) of the record, wherever it is, into rgb.
MPP_FN void source(const Prepared &p, int x, int y, int *rgb) {
  const mpp_warp &w = *p.warp;
  bool inside = x >= 0 && x < MPP_SIDE && y >= 0 && y < MPP_SIDE;
  if (!inside && w.border == MPP_FILL) {
    for (int c = 0; c < 3; c++) rgb[c] = w.fill[c];
    return;
  }
  x = clamp(x, 0, MPP_SIDE - 1);
  y = clamp(y, 0, MPP_SIDE - 1);
  const uint8_t *at = p.record + (y * MPP_SIDE + x) * 3;
  for (int c = 0; c < 3; c++) rgb[c] = at[c];
  // The outermost pixels have no smooth version (as in PIL's ImageFilter.SMOOTH, whose kernel this is).
  if ((w.steps & MPP_DO_SHARPEN) && x > 0 && x < MPP_SIDE - 1 && y > 0 && y < MPP_SIDE - 1) {
    for (int c = 0; c < 3; c++) {
      int sum = 4 * at[c];
      for (int dy = -1; dy <= 1; dy++) {
        for (int dx = -1; dx <= 1; dx++) sum += at[(dy * MPP_SIDE + dx) * 3 + c];
      }
      int smooth = (sum * 2 + 13) / 26;
      rgb[c] = clamp((smooth * 256 + w.sharpen * (at[c] - smooth) + 128) >> 8, 0, 255);
    }
  }
}

// The weights, Q11, of the four pixels about a point that lies fraction (Q11) behind the second: OpenCV's cubic
// convolution with a = -3/4.
MPP_FN void cubic(int fraction, int *weight) {
  const int64_t one = kWeightOne, f = fraction, g = one - f;
  const int64_t half = one * one / 2;
  // a (f^3 - 2 f^2 + f) = -3/4 f g^2, and (a + 2) f^3 - (a + 3) f^2 + 1 with f and with g.
  weight[0] = static_cast<int>(-((3 * f * g * g + 2 * one * one) / (4 * one * one)));
  weight[1] = static_cast<int>((((5 * f - 9 * one) * f * f / 4 + half) >> (2 * kWeightBits)) + one);
  weight[2] = static_cast<int>((((5 * g - 9 * one) * g * g / 4 + half) >> (2 * kWeightBits)) + one);
  weight[3] = kWeightOne - weight[0] - weight[1] - weight[2];
}

// The record at (u, v), Q20, by the interpolation of the warp.
MPP_FN void sample(const Prepared &p, int32_t u, int32_t v, int *rgb) {
  const int interpolation = p.warp->interpolation;
  if (interpolation == MPP_NEAREST) {
    const int half = 1 << (kCoordBits - 1);
    source(p, (u + half) >> kCoordBits, (v + half) >> kCoordBits, rgb);
    return;
  }
  const int x = u >> kCoordBits, y = v >> kCoordBits;
  const int fx = (u >> (kCoordBits - kWeightBits)) & (kWeightOne - 1);
  const int fy = (v >> (kCoordBits - kWeightBits)) & (kWeightOne - 1);
  int wx[4] = {0, kWeightOne - fx, fx, 0}, wy[4] = {0, kWeightOne - fy, fy, 0};
  int from = 1, to = 2;
  if (interpolation == MPP_BICUBIC) {
    cubic(fx, wx);
    cubic(fy, wy);
    from = 0;
    to = 3;
  }
  int sum[3] = {1 << (2 * kWeightBits - 1), 1 << (2 * kWeightBits - 1), 1 << (2 * kWeightBits - 1)};
  for (int j = from; j <= to; j++) {
    int row[3] = {0, 0, 0};
    for (int i = from; i <= to; i++) {
      int tap[3];
      source(p, x + i - 1, y + j - 1, tap);
      for (int c = 0; c < 3; c++) row[c] += wx[i] * tap[c];
    }
    for (int c = 0; c < 3; c++) sum[c] += wy[j] * row[c];
  }
  for (int c = 0; c < 3; c++) rgb[c] = clamp(sum[c] >> (2 * kWeightBits), 0, 255);
}

// v times gain (Q15), clipped, truncated.
MPP_FN int gained(int v, int gain) {
  int g = (v * gain) >> 15;
  return g > 255 ? 255 : g;
}

MPP_FN void colour(const Prepared &p, int *rgb) {
  const mpp_warp &w = *p.warp;
  if (w.steps & MPP_DO_GAIN) {
    for (int c = 0; c < 3; c++) rgb[c] = gained(rgb[c], w.gain[c]);
  }
  if (w.steps & MPP_DO_MATRIX) {
    const int r = rgb[0], g = rgb[1], b = rgb[2];
    for (int c = 0; c < 3; c++) {
      const int32_t *m = w.matrix + 4 * c;
      rgb[c] = clamp((m[0] * r + m[1] * g + m[2] * b + p.offset[c]) >> 16, 0, 255);
    }
  }
  if (w.tone != MPP_TONE_NONE) {
    for (int c = 0; c < 3; c++) rgb[c] = p.table[256 * c + rgb[c]];
  }
}

MPP_FN bool within(const int16_t *box, int x, int y) {
  return x >= box[0] && x < box[2] && y >= box[1] && y < box[3];
}

// The output pixel (x, y) of one image, before mixing.
MPP_FN void pixel(const Prepared &p, int x, int y, int *rgb) {
  const mpp_warp &w = *p.warp;
  if ((w.steps & MPP_DO_ERASE) && within(w.erase, x, y)) {
    for (int c = 0; c < 3; c++) rgb[c] = w.erase_rgb[c];
    return;
  }
  sample(p, w.map[0] * x + w.map[1] * y + w.map[2], w.map[3] * x + w.map[4] * y + w.map[5], rgb);
  colour(p, rgb);
}

// A value and its mate's, blended: Q15.
MPP_FN int blended(int own, int mate, int share) { return own * share + mate * (32768 - share); }

// The normalised value of v, Q15. A subtraction and a product cannot be contracted into one rounding, whatever the
// compiler; v / 32768 is exact.
MPP_FN float normalised(int v, float mean, float scale) {
  return (static_cast<float>(v) * (1.0f / 32768.0f) - mean) * scale;
}

// The nearest bfloat16, ties to even.
MPP_FN uint16_t bf16(float f) {
  union {
    float f;
    uint32_t u;
  } bits;
  bits.f = f;
  return static_cast<uint16_t>((bits.u + 0x7FFF + (bits.u >> 16 & 1)) >> 16);
}

// Whether the warp needs sums over its record: the histogram of each channel, and of grey.
MPP_FN bool wants_statistics(const mpp_warp &w) {
  return w.tone == MPP_AUTOCONTRAST || w.tone == MPP_EQUALIZE ||
         ((w.steps & MPP_DO_MATRIX) && (w.matrix[3] | w.matrix[7] | w.matrix[11]) != 0);
}

// The sum of grey, in thousandths, of a record with these sums.
MPP_FN uint64_t grey_sum(uint64_t r, uint64_t g, uint64_t b) { return 299 * r + 587 * g + 114 * b; }

// The offset of the matrix for channel c; grey is the record's grey_sum, whatever it is where the warp does not want it.
MPP_FN int32_t matrix_offset(const mpp_warp &w, uint64_t grey, int c) {
  const uint64_t n = 1000ull * MPP_SIDE * MPP_SIDE;
  return w.matrix[4 * c + 3] * static_cast<int32_t>((grey + n / 2) / n) + (1 << 15);
}

// Fills the 256 entries of one channel for a warp with a tone (PIL's ImageOps of the same names). count is the channel's
// histogram, whatever it is where the warp does not want it.
MPP_FN void tone_table(const mpp_warp &w, const uint32_t *count, uint8_t *table) {
  for (int v = 0; v < 256; v++) table[v] = static_cast<uint8_t>(v);
  if (w.tone == MPP_POSTERIZE) {
    for (int v = 0; v < 256; v++) table[v] = static_cast<uint8_t>(v & (0xFF00 >> w.tone_level));
  } else if (w.tone == MPP_SOLARIZE) {
    for (int v = w.tone_level; v < 256; v++) table[v] = static_cast<uint8_t>(255 - v);
  } else if (w.tone == MPP_AUTOCONTRAST) {
    int low = 0, high = 255;
    while (low < 255 && count[low] == 0) low++;
    while (high > 0 && count[high] == 0) high--;
    if (high <= low) return;
    for (int v = 0; v < 256; v++) table[v] = static_cast<uint8_t>(clamp((v - low) * 255 / (high - low), 0, 255));
  } else if (w.tone == MPP_EQUALIZE) {
    int last = 255;
    while (last > 0 && count[last] == 0) last--;
    uint32_t step = (MPP_SIDE * MPP_SIDE - count[last]) / 255, n = step / 2;
    if (step == 0) return;
    for (int v = 0; v < 256; v++) {
      table[v] = static_cast<uint8_t>(clamp(static_cast<int>(n / step), 0, 255));
      n += count[v];
    }
  }
}

}  // namespace mpp
