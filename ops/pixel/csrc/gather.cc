// The launcher for the CPU: one image after another, a row at a time, on the calling thread.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "pixel.h"
#include "rows.h"
#include "warp.h"

namespace mpp {
namespace {

constexpr int32_t kOne = 1 << kCoordBits, kHalfPixel = kOne / 2;

int bad(char *error, int64_t i, const char *what) {
  std::snprintf(error, MPP_ERROR_BYTES, "warp %lld: %s", static_cast<long long>(i), what);
  return MPP_ARGUMENT;
}

// Everything that the arithmetic of warp.h relies on.
int check(const mpp_warp &w, int64_t i, int64_t n, int size, char *error) {
  for (int a = 0; a < 6; a += 3) {
    int64_t reach = (std::llabs(w.map[a]) + std::llabs(w.map[a + 1])) * static_cast<int64_t>(size) + std::llabs(w.map[a + 2]);
    if (reach + 4 * kOne > INT32_MAX) return bad(error, i, "its map leads more than 2000 pixels away");
  }
  if (w.interpolation > MPP_BICUBIC) return bad(error, i, "no such interpolation");
  if (w.border > MPP_FILL) return bad(error, i, "no such border");
  if (w.tone > MPP_EQUALIZE) return bad(error, i, "no such tone");
  if (w.tone == MPP_POSTERIZE && w.tone_level > 8) return bad(error, i, "posterize to more than 8 bits");
  if (w.sharpen < -4096 || w.sharpen > 4096) return bad(error, i, "sharpen beyond 16");
  if (w.share > 32768) return bad(error, i, "share above 1");
  for (int32_t m : w.matrix) {
    if (m < -(1 << 20) || m > 1 << 20) return bad(error, i, "matrix beyond 16");
  }
  if (w.mix > MPP_MIX_PASTE) return bad(error, i, "no such mix");
  if (w.mix != MPP_MIX_NONE && (w.mate < 0 || w.mate >= n)) return bad(error, i, "its mate is not in the batch");
  return MPP_OK;
}

// Sums over a record, from which tables and offsets come.
struct Statistics {
  uint32_t count[3][256];
  uint64_t grey;

  void take(const uint8_t *record) {
    std::memset(count, 0, sizeof count);
    for (int i = 0; i < MPP_RECORD; i += 3) {
      for (int c = 0; c < 3; c++) count[c][record[i + c]]++;
    }
    uint64_t sum[3] = {0, 0, 0};
    for (int c = 0; c < 3; c++) {
      for (uint32_t v = 0; v < 256; v++) sum[c] += static_cast<uint64_t>(v) * count[c][v];
    }
    grey = grey_sum(sum[0], sum[1], sum[2]);
  }
};

// An image about to be warped, with memory for what it needs.
class Image {
 public:
  void prepare(const uint8_t *record, bool last, const mpp_warp &warp) {
    warp_ = warp;
    p_.record = record;
    p_.warp = &warp_;
    p_.table = table_;
    if (wants_statistics(warp)) statistics_.take(record);
    for (int c = 0; c < 3; c++) {
      if (warp.steps & MPP_DO_MATRIX) p_.offset[c] = matrix_offset(warp, statistics_.grey, c);
      if (warp.tone != MPP_TONE_NONE) tone_table(warp, statistics_.count[c], table_ + 256 * c);
    }
    if (warp.steps & MPP_DO_SHARPEN) {
      // Once a pixel of the record, not once a tap.
      for (int i = 0; i < MPP_SIDE * MPP_SIDE; i++) {
        int rgb[3];
        source(p_, i % MPP_SIDE, i / MPP_SIDE, rgb);
        for (int c = 0; c < 3; c++) copy_[3 * i + c] = static_cast<uint8_t>(rgb[c]);
      }
      warp_.steps &= static_cast<uint8_t>(~MPP_DO_SHARPEN);
      p_.record = copy_;
    } else if (last) {
      std::memcpy(copy_, record, MPP_RECORD);  // vectors read a little further
      p_.record = copy_;
    }
    const int32_t *m = warp_.map;
    straight_ = m[1] == 0 && m[3] == 0 && std::abs(m[0]) == kOne && std::abs(m[4]) == kOne &&
                (warp_.interpolation == MPP_NEAREST || ((m[2] | m[5]) & (kOne - 1)) == 0);
  }

  // Row y of the image before mixing: size pixels and kSpare bytes.
  void row(int y, int size, uint8_t *rgb) {
    if ((warp_.steps & MPP_DO_ERASE) && y >= warp_.erase[1] && y < warp_.erase[3] && warp_.erase[0] <= 0 && warp_.erase[2] >= size) {
      erase(0, size, rgb);
      return;
    }
    sampled(y, size, rgb);
    if (warp_.steps & MPP_DO_GAIN) gain_row(warp_.gain, size, rgb);
    if (warp_.steps & MPP_DO_MATRIX) matrix_row(warp_.matrix, p_.offset, size, rgb);
    if (warp_.tone != MPP_TONE_NONE) {
      for (int i = 0; i < size; i++) {
        for (int c = 0; c < 3; c++) rgb[3 * i + c] = table_[256 * c + rgb[3 * i + c]];
      }
    }
    if ((warp_.steps & MPP_DO_ERASE) && y >= warp_.erase[1] && y < warp_.erase[3]) {
      erase(clamp(warp_.erase[0], 0, size), clamp(warp_.erase[2], 0, size), rgb);
    }
  }

  // A row of the record, one way or the other, whose ends repeat a pixel.
  struct Run {
    const uint8_t *first;  // pixel 0; all pixels can be read, but only those of from..to-1 are meant
    bool forwards;
    int from, to;
    const uint8_t *before, *after;  // the pixels that stand for the others
  };

  // Whether row y is one.
  bool run(int y, int size, Run *run) const {
    if (!straight_ || warp_.steps != 0 || warp_.tone != MPP_TONE_NONE) return false;
    const int32_t *m = warp_.map;
    const int x = (m[2] + kHalfPixel) >> kCoordBits, line = (m[4] * y + m[5] + kHalfPixel) >> kCoordBits;
    if (warp_.border == MPP_FILL && (line < 0 || line >= MPP_SIDE)) return false;
    const int at = clamp(line, 0, MPP_SIDE - 1) * MPP_SIDE, low = at + (m[0] > 0 ? x : x - size + 1);
    if (low < 0 || low + size > MPP_SIDE * MPP_SIDE) return false;
    const uint8_t *left = p_.record + at * 3, *right = left + (MPP_SIDE - 1) * 3;
    if (warp_.border == MPP_FILL) left = right = warp_.fill;
    if (m[0] > 0) {
      const int from = clamp(-x, 0, size);
      *run = {p_.record + (at + x) * 3, true, from, clamp(MPP_SIDE - x, from, size), left, right};
    } else {
      const int from = clamp(x - (MPP_SIDE - 1), 0, size);
      *run = {p_.record + (at + x) * 3, false, from, clamp(x + 1, from, size), right, left};
    }
    return true;
  }

  // A row that is one of the record's as it stands, or null.
  const uint8_t *same_row(int y, int size) const {
    const int32_t *m = warp_.map;
    if (!straight_ || m[0] != kOne || warp_.steps != 0 || warp_.tone != MPP_TONE_NONE) return nullptr;
    int x = (m[2] + kHalfPixel) >> kCoordBits, line = (m[4] * y + m[5] + kHalfPixel) >> kCoordBits;
    if (x < 0 || x + size > MPP_SIDE || line < 0 || line >= MPP_SIDE) return nullptr;
    return p_.record + (line * MPP_SIDE + x) * 3;
  }

 private:
  void erase(int from, int to, uint8_t *rgb) const {
    for (int i = from; i < to; i++) {
      for (int c = 0; c < 3; c++) rgb[3 * i + c] = warp_.erase_rgb[c];
    }
  }

  void sampled(int y, int size, uint8_t *rgb) const {
    const int32_t *m = warp_.map;
    Line line = {m[1] * y + m[2], m[4] * y + m[5], m[0], m[3]};
    if (straight_) {
      straight(line, size, rgb);
      return;
    }
    if (warp_.border == MPP_CLAMP || inside(line, size)) {
      (warp_.interpolation == MPP_NEAREST    ? nearest_row
       : warp_.interpolation == MPP_BILINEAR ? bilinear_row
                                             : bicubic_row)(p_.record, line, size, rgb);
      return;
    }
    for (int x = 0; x < size; x++) {
      int v[3];
      sample(p_, line.u + x * line.du, line.v + x * line.dv, v);
      for (int c = 0; c < 3; c++) rgb[3 * x + c] = static_cast<uint8_t>(v[c]);
    }
  }

  // Whether all taps of a row are in the record: both ends are, so all between.
  static bool inside(const Line &l, int size) {
    auto in = [](int32_t u) { return u >= kOne && u < (MPP_SIDE - 2) * kOne; };
    return in(l.u) && in(l.v) && in(l.u + (size - 1) * l.du) && in(l.v + (size - 1) * l.dv);
  }

  // A row of whole pixels, forwards or backwards.
  void straight(const Line &line, int size, uint8_t *rgb) const {
    int y = (line.v + kHalfPixel) >> kCoordBits, x = (line.u + kHalfPixel) >> kCoordBits, step = line.du < 0 ? -1 : 1;
    // Output pixels from..to-1 lie in the record.
    int from = clamp(step > 0 ? -x : x - (MPP_SIDE - 1), 0, size), to = clamp(step > 0 ? MPP_SIDE - x : x + 1, from, size);
    if (y < 0 || y >= MPP_SIDE) {
      if (warp_.border == MPP_FILL) from = to = size;
      y = clamp(y, 0, MPP_SIDE - 1);
    }
    const uint8_t *record = p_.record + y * MPP_SIDE * 3, *first = record, *last = record + (MPP_SIDE - 1) * 3;
    if (warp_.border == MPP_FILL) first = last = warp_.fill;
    if (step < 0) std::swap(first, last);
    repeat_row(first, from, rgb);
    if (step > 0) {
      std::memcpy(rgb + 3 * from, record + (x + from) * 3, static_cast<size_t>(to - from) * 3);
    } else {
      reverse_row(record + (x - to + 1) * 3, to - from, rgb + 3 * from);
    }
    repeat_row(last, size - to, rgb + 3 * to);
  }

  Prepared p_;
  mpp_warp warp_;
  bool straight_ = false;
  Statistics statistics_{};
  uint8_t table_[3 * 256];
  uint8_t copy_[MPP_RECORD + kSpare];
};

// Memory for one call.
class Scratch {
 public:
  Image own, mate;
  uint8_t row[MPP_MAX_SIZE * 3 + kSpare], mate_row[MPP_MAX_SIZE * 3 + kSpare], plane[MPP_MAX_SIZE + kSpare];
  int32_t blend[MPP_MAX_SIZE * 3], blend_plane[MPP_MAX_SIZE];
  Norm norm, plane_norm[3];  // of a row of interleaved pixels, and of a row of each channel

  explicit Scratch(const mpp_out &out) : norm{mean_, scale_, split_mean_, split_scale_, false} {
    for (int c = 0; c < 3; c++) {
      plane_norm[c] = {plane_mean_[c], plane_scale_[c], plane_mean_[c], plane_scale_[c], false};
      for (int i = 0; i < out.size; i++) {
        mean_[3 * i + c] = plane_mean_[c][i] = out.mean[c];
        scale_[3 * i + c] = plane_scale_[c][i] = out.scale[c];
      }
      for (int v = 0; v < 256; v++) {
        const float f = normalised(v << 15, out.mean[c], out.scale[c]);
        uint32_t bits;
        std::memcpy(&bits, &f, 4);
        if ((bits & 0xFFFF) == 0x8000) norm.ties = plane_norm[c].ties = true;
      }
    }
    for (int i = 0; i < 3 * out.size; i += 16) {
      for (int k = 0; k < 16; k++) {
        split_mean_[i + k % 2 * 8 + k / 2] = out.mean[(i + k) % 3];
        split_scale_[i + k % 2 * 8 + k / 2] = out.scale[(i + k) % 3];
      }
    }
  }

 private:
  float mean_[MPP_MAX_SIZE * 3], scale_[MPP_MAX_SIZE * 3], split_mean_[MPP_MAX_SIZE * 3], split_scale_[MPP_MAX_SIZE * 3];
  float plane_mean_[3][MPP_MAX_SIZE], plane_scale_[3][MPP_MAX_SIZE];
};

template <class Out>
void write_row(const Scratch &s, const uint8_t *rgb, uint8_t *plane, int y, int size, int layout, Out *image) {
  if (layout == MPP_NHWC) {
    normalise_row(rgb, s.norm, 3 * size, image + static_cast<size_t>(y) * size * 3);
    return;
  }
  for (int c = 0; c < 3; c++) {
    channel_row(rgb, c, size, plane);
    normalise_row(plane, s.plane_norm[c], size, image + (static_cast<size_t>(c) * size + y) * size);
  }
}

void write_run(const Scratch &s, const Image::Run &run, int size, uint16_t *to) {
  if (run.forwards) {
    normalise_row(run.first, s.norm, 3 * size, to);
  } else {
    normalise_reverse_row(run.first, s.norm, size, to);
  }
  if (run.from > 0) normalise_repeat_row(run.before, s.norm, run.from, to);
  if (run.to < size) normalise_repeat_row(run.after, s.norm, size - run.to, to + 3 * run.to);
}

template <class Out>
void write_blend(Scratch &s, int y, int size, int layout, Out *image) {
  if (layout == MPP_NHWC) {
    normalise_row(s.blend, s.norm, 3 * size, image + static_cast<size_t>(y) * size * 3);
    return;
  }
  for (int c = 0; c < 3; c++) {
    for (int i = 0; i < size; i++) s.blend_plane[i] = s.blend[3 * i + c];
    normalise_row(s.blend_plane, s.plane_norm[c], size, image + (static_cast<size_t>(c) * size + y) * size);
  }
}

// after: the record that is gathered next, or null. Its pages lie anywhere, so ask for a part of it with every row.
template <class Out>
void gather_one(Scratch &s, const mpp_warp &w, const mpp_out &out, const uint8_t *after, Out *image) {
  const int size = out.size;
  constexpr bool raw = sizeof(Out) == 1;
  constexpr int kLine = 64, kPart = MPP_SIDE * 3;
  for (int y = 0; y < size; y++) {
    if (after && y < MPP_SIDE) {
      for (int i = 0; i < kPart; i += kLine) __builtin_prefetch(after + y * kPart + i);
    }
    if constexpr (sizeof(Out) == 2) {
      if (Image::Run run; out.layout == MPP_NHWC && w.mix == MPP_MIX_NONE && s.own.run(y, size, &run)) {
        write_run(s, run, size, image + static_cast<size_t>(y) * size * 3);
        continue;
      }
    }
    if constexpr (!raw) {
      const uint8_t *same = w.mix == MPP_MIX_NONE ? s.own.same_row(y, size) : nullptr;
      if (same) {
        write_row(s, same, s.plane, y, size, out.layout, image);
        continue;
      }
    }
    s.own.row(y, size, s.row);
    bool pasted = w.mix == MPP_MIX_PASTE && y >= w.paste[1] && y < w.paste[3] && w.paste[2] > w.paste[0];
    if (pasted || w.mix == MPP_MIX_BLEND) s.mate.row(y, size, s.mate_row);
    if (pasted) {
      int from = clamp(w.paste[0], 0, size), to = clamp(w.paste[2], from, size);
      std::memcpy(s.row + 3 * from, s.mate_row + 3 * from, static_cast<size_t>(to - from) * 3);
    }
    if constexpr (raw) {
      if (w.mix == MPP_MIX_BLEND) {
        for (int i = 0; i < 3 * size; i++) s.row[i] = static_cast<uint8_t>((blended(s.row[i], s.mate_row[i], w.share) + 16384) >> 15);
      }
      std::memcpy(image + static_cast<size_t>(y) * size * 3, s.row, static_cast<size_t>(size) * 3);
    } else if (w.mix == MPP_MIX_BLEND) {
      for (int i = 0; i < 3 * size; i++) s.blend[i] = blended(s.row[i], s.mate_row[i], w.share);
      write_blend(s, y, size, out.layout, image);
    } else {
      write_row(s, s.row, s.plane, y, size, out.layout, image);
    }
  }
}

template <class Out>
int gather(const uint8_t *records, int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n,
           const mpp_out &out, Out *dst, char *error) {
  if (int status = mpp_check(count, index, warps, n, &out, error); status != MPP_OK) return status;
  std::unique_ptr<Scratch> s(new (std::nothrow) Scratch(out));
  if (!s) {
    std::snprintf(error, MPP_ERROR_BYTES, "no memory for a row of pixels");
    return MPP_MEMORY;
  }
  auto prepare = [&](Image &image, int64_t i) {
    image.prepare(records + static_cast<size_t>(index[i]) * MPP_RECORD, index[i] == count - 1, warps[i]);
  };
  for (int64_t i = 0; i < n; i++) {
    prepare(s->own, i);
    if (warps[i].mix != MPP_MIX_NONE) prepare(s->mate, warps[i].mate);
    const uint8_t *after = i + 1 < n ? records + static_cast<size_t>(index[i + 1]) * MPP_RECORD : nullptr;
    gather_one(*s, warps[i], out, after, dst + static_cast<size_t>(i) * out.size * out.size * 3);
  }
  return MPP_OK;
}

}  // namespace
}  // namespace mpp

int mpp_check(int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n, const mpp_out *out, char *error) {
  if (out->size < 1 || out->size > MPP_MAX_SIZE) {
    std::snprintf(error, MPP_ERROR_BYTES, "output of %d pixels a side, want 1 to %d", out->size, MPP_MAX_SIZE);
    return MPP_ARGUMENT;
  }
  for (int64_t i = 0; i < n; i++) {
    if (index[i] < 0 || index[i] >= count) {
      std::snprintf(error, MPP_ERROR_BYTES, "image %d of %lld", index[i], static_cast<long long>(count));
      return MPP_ARGUMENT;
    }
    if (int status = mpp::check(warps[i], i, n, out->size, error); status != MPP_OK) return status;
  }
  return MPP_OK;
}

int mpp_gather(const uint8_t *records, int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n,
               const mpp_out *out, void *dst, char *error) {
  if (out->dtype == MPP_F32) return mpp::gather(records, count, index, warps, n, *out, static_cast<float *>(dst), error);
  if (out->dtype == MPP_BF16) return mpp::gather(records, count, index, warps, n, *out, static_cast<uint16_t *>(dst), error);
  std::snprintf(error, MPP_ERROR_BYTES, "no such type of output");
  return MPP_ARGUMENT;
}

int mpp_gather_u8(const uint8_t *records, int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n,
                  const mpp_out *out, uint8_t *dst, char *error) {
  return mpp::gather(records, count, index, warps, n, *out, dst, error);
}
