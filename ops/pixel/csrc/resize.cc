// Resizing of images of any size, as OpenCV's resize does for uint8, to the bit: INTER_NEAREST_EXACT, INTER_LINEAR and
// INTER_CUBIC as compiled for any x86-64 (setUseOptimized(False); its faster code rounds some cubic pixels otherwise).
// Weights of 11 bits, rows in integers, no smoothing before shrinking. The file is compiled without fused multiply-adds.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "pixel.h"

namespace mpp {
namespace {

constexpr int kBits = 11, kOne = 1 << kBits;

int rounded(float v) { return static_cast<int>(std::lrint(v)); }

// Where the pixels of one axis come from: kTaps positions and weights for each.
template <int kTaps>
struct Axis {
  std::vector<int> at, weight;

  // keep: a pixel beyond the last centre is that of the edge, with its whole weight. Columns are so, rows are not: their
  // weights share the edge's row between them, which rounds differently.
  Axis(int from, int to, bool keep) {
    at.reserve(static_cast<size_t>(to) * kTaps);
    weight.reserve(static_cast<size_t>(to) * kTaps);
    const double scale = 1.0 / (static_cast<double>(to) / from);
    for (int i = 0; i < to; i++) {
      if constexpr (kTaps == 1) {
        const int64_t step = ((static_cast<int64_t>(from) << 16) + to / 2) / to;
        push(static_cast<int>(std::min<int64_t>((step * i + step / 2 - from % 2) >> 16, from - 1)), kOne);
        continue;
      }
      float f = static_cast<float>((i + 0.5) * scale - 0.5);
      const int first = static_cast<int>(std::floor(f));
      f -= static_cast<float>(first);
      float w[4];
      if constexpr (kTaps == 2) {
        if (keep && (first < 0 || first >= from - 1)) f = 0;
        w[0] = 1.f - f;
        w[1] = f;
      } else {
        const float a = -0.75f, g = 1 - f;
        w[0] = ((a * (f + 1) - 5 * a) * (f + 1) + 8 * a) * (f + 1) - 4 * a;
        w[1] = ((a + 2) * f - (a + 3)) * f * f + 1;
        w[2] = ((a + 2) * g - (a + 3)) * g * g + 1;
        w[3] = 1.f - w[0] - w[1] - w[2];
      }
      for (int k = 0; k < kTaps; k++) push(std::clamp(first + k - (kTaps == 4), 0, from - 1), rounded(w[k] * kOne));
    }
  }

 private:
  void push(int a, int w) {
    at.push_back(a);
    weight.push_back(w);
  }
};

// A row of pixels, resized across: n pixels, Q11.
template <int kTaps>
void across_row(const uint8_t *pixels, const Axis<kTaps> &axis, int n, int *row) {
  const int *at = axis.at.data(), *weight = axis.weight.data();
  for (int x = 0; x < n; x++, at += kTaps, weight += kTaps, row += 3) {
    int r = 0, g = 0, b = 0;
    for (int k = 0; k < kTaps; k++) {
      const uint8_t *p = pixels + at[k] * 3;
      r += weight[k] * p[0];
      g += weight[k] * p[1];
      b += weight[k] * p[2];
    }
    row[0] = r;
    row[1] = g;
    row[2] = b;
  }
}

// A small float plus this has the nearest integer, ties to even, in its last bits.
constexpr float kMagic = 0x1.8p23f;

float real(int v) { return static_cast<float>(v); }
uint8_t byte(int v) { return static_cast<uint8_t>(std::clamp(v, 0, 255)); }

// n values of kTaps rows, weighted.
template <int kTaps>
void down_row(int *const *rows, const int *weight, int n, uint8_t *to) {
  const int *a = rows[0], *b = rows[1];
  if constexpr (kTaps == 2) {
    const int wa = weight[0], wb = weight[1];
    for (int i = 0; i < n; i++) to[i] = byte(((wa * (a[i] >> 4) >> 16) + (wb * (b[i] >> 4) >> 16) + 2) >> 2);
  } else {
    const int *c = rows[2], *d = rows[3];
    float w[4];
    for (int k = 0; k < 4; k++) w[k] = real(weight[k]) * (1.f / (kOne * kOne));
    int i = 0;
    for (; i < n / 8 * 8; i++) {
      const float v = w[0] * real(a[i]) + (w[1] * real(b[i]) + (w[2] * real(c[i]) + w[3] * real(d[i])));
      to[i] = byte(std::bit_cast<int>(v + kMagic) - std::bit_cast<int>(kMagic));
    }
    for (; i < n; i++) {  // OpenCV's vectors hold eight; what is left it sums in integers
      to[i] = byte((weight[0] * a[i] + weight[1] * b[i] + weight[2] * c[i] + weight[3] * d[i] + kOne * kOne / 2) >> (2 * kBits));
    }
  }
}

template <int kTaps>
void resize(const uint8_t *from, int width, int height, uint8_t *rgb, int new_width, int new_height) {
  const Axis<kTaps> across(width, new_width, true), down(height, new_height, false);
  const size_t line = static_cast<size_t>(new_width) * 3;
  if constexpr (kTaps == 1) {
    for (int y = 0; y < new_height; y++) {
      const uint8_t *pixels = from + static_cast<size_t>(down.at[y]) * width * 3;
      for (int x = 0; x < new_width; x++, rgb += 3) std::memcpy(rgb, pixels + across.at[x] * 3, 3);
    }
    return;
  }
  std::vector<int> memory(line * kTaps);  // rows of the source, resized across
  int held[kTaps];                        // which
  std::fill(held, held + kTaps, -1);
  for (int y = 0; y < new_height; y++) {
    int *rows[kTaps];
    for (int k = 0; k < kTaps; k++) {
      const int source = down.at[y * kTaps + k], slot = source % kTaps;
      rows[k] = memory.data() + static_cast<size_t>(slot) * line;
      if (held[slot] != source) {
        held[slot] = source;
        across_row<kTaps>(from + static_cast<size_t>(source) * width * 3, across, new_width, rows[k]);
      }
    }
    down_row<kTaps>(rows, down.weight.data() + y * kTaps, static_cast<int>(line), rgb + static_cast<size_t>(y) * line);
  }
}

}  // namespace
}  // namespace mpp

int mpp_resize(const uint8_t *from, int32_t width, int32_t height, int32_t interpolation, uint8_t *rgb,
               int32_t new_width, int32_t new_height, char *error) {
  auto fits = [](int64_t w, int64_t h) { return w > 0 && h > 0 && w <= MPP_MAX_PIXELS && h <= MPP_MAX_PIXELS && w * h <= MPP_MAX_PIXELS; };
  if (!fits(width, height) || !fits(new_width, new_height)) {
    std::snprintf(error, MPP_ERROR_BYTES, "from %d x %d to %d x %d pixels: want 1 to %d in all", width, height, new_width,
                  new_height, MPP_MAX_PIXELS);
    return MPP_ARGUMENT;
  }
  if (interpolation < MPP_NEAREST || interpolation > MPP_BICUBIC) {
    std::snprintf(error, MPP_ERROR_BYTES, "no such interpolation");
    return MPP_ARGUMENT;
  }
  try {
    (interpolation == MPP_NEAREST    ? mpp::resize<1>
     : interpolation == MPP_BILINEAR ? mpp::resize<2>
                                     : mpp::resize<4>)(from, width, height, rgb, new_width, new_height);
    return MPP_OK;
  } catch (const std::bad_alloc &) {
    std::snprintf(error, MPP_ERROR_BYTES, "no memory for a row of %d pixels", new_width);
    return MPP_MEMORY;
  }
}
