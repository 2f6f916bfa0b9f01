// Resizing of images of any size, as OpenCV's resize does for uint8 (INTER_NEAREST_EXACT, INTER_LINEAR, INTER_CUBIC):
// weights of 11 bits, no smoothing before shrinking.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "pixel.h"

namespace mpp {
namespace {

constexpr int kBits = 11, kOne = 1 << kBits;

// Where the pixels of one axis come from: taps positions and weights for each.
struct Axis {
  int taps;
  std::vector<int> at, weight;

  Axis(int from, int to, int interpolation) : taps(interpolation == MPP_BICUBIC ? 4 : interpolation == MPP_BILINEAR ? 2 : 1) {
    at.reserve(static_cast<size_t>(to) * taps);
    weight.reserve(static_cast<size_t>(to) * taps);
    const double scale = 1.0 / (static_cast<double>(to) / from);
    for (int i = 0; i < to; i++) {
      if (interpolation == MPP_NEAREST) {
        // In OpenCV's own arithmetic, where a centre falls between two pixels.
        const int64_t step = ((static_cast<int64_t>(from) << 16) + to / 2) / to;
        push(static_cast<int>(std::min<int64_t>((step * i + step / 2 - from % 2) >> 16, from - 1)), kOne);
        continue;
      }
      double where = (i + 0.5) * scale - 0.5;
      int first = static_cast<int>(std::floor(where));
      double f = where - first;
      if (interpolation == MPP_BILINEAR) {
        int w = static_cast<int>(std::lrint(f * kOne));
        push(std::clamp(first, 0, from - 1), kOne - w);
        push(std::clamp(first + 1, 0, from - 1), w);
        continue;
      }
      const double a = -0.75, g = 1 - f;
      int w[4];
      w[0] = static_cast<int>(std::lrint(a * f * g * g * kOne));
      w[1] = static_cast<int>(std::lrint((((a + 2) * f - (a + 3)) * f * f + 1) * kOne));
      w[2] = static_cast<int>(std::lrint((((a + 2) * g - (a + 3)) * g * g + 1) * kOne));
      w[3] = kOne - w[0] - w[1] - w[2];
      for (int k = 0; k < 4; k++) push(std::clamp(first + k - 1, 0, from - 1), w[k]);
    }
  }

 private:
  void push(int a, int w) {
    at.push_back(a);
    weight.push_back(w);
  }
};

void resize(const uint8_t *from, int width, int height, int interpolation, uint8_t *rgb, int new_width, int new_height) {
  const Axis across(width, new_width, interpolation), down(height, new_height, interpolation);
  const size_t line = static_cast<size_t>(new_width) * 3;
  std::vector<int> rows(line * static_cast<size_t>(down.taps));  // rows of the source, resized across, Q11
  std::vector<int> held(static_cast<size_t>(down.taps), -1);     // which
  std::vector<int> sum(line);
  for (int y = 0; y < new_height; y++) {
    std::fill(sum.begin(), sum.end(), 1 << (2 * kBits - 1));
    for (int j = 0; j < down.taps; j++) {
      const int source = down.at[static_cast<size_t>(y * down.taps + j)];
      const size_t slot = static_cast<size_t>(source % down.taps);
      int *row = rows.data() + slot * line;
      if (held[slot] != source) {
        held[slot] = source;
        const uint8_t *pixels = from + static_cast<size_t>(source) * static_cast<size_t>(width) * 3;
        for (int x = 0; x < new_width; x++) {
          for (int c = 0; c < 3; c++) {
            int v = 0;
            for (int k = 0; k < across.taps; k++) {
              size_t tap = static_cast<size_t>(x * across.taps + k);
              v += across.weight[tap] * pixels[across.at[tap] * 3 + c];
            }
            row[x * 3 + c] = v;
          }
        }
      }
      const int w = down.weight[static_cast<size_t>(y * down.taps + j)];
      for (size_t i = 0; i < line; i++) sum[i] += w * row[i];
    }
    uint8_t *to = rgb + static_cast<size_t>(y) * line;
    for (size_t i = 0; i < line; i++) to[i] = static_cast<uint8_t>(std::clamp(sum[i] >> (2 * kBits), 0, 255));
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
    mpp::resize(from, width, height, interpolation, rgb, new_width, new_height);
    return MPP_OK;
  } catch (const std::bad_alloc &) {
    std::snprintf(error, MPP_ERROR_BYTES, "no memory for a row of %d pixels", new_width);
    return MPP_MEMORY;
  }
}
