// Work on whole rows of output pixels, in vectors. Each function does to a row what one of warp.h does to a pixel, bit for
// bit; those that end in _row exist for AVX2 and for any processor, and the library picks when it is loaded.
#pragma once

#include "warp.h"

namespace mpp {

// Bytes that a row must have beyond its pixels, and a record beyond its end: vectors of four bytes hold three channels.
constexpr int kSpare = 16;

// A line through the record: pixel i of the row is at (u + i du, v + i dv), Q20.
struct Line {
  int32_t u, v, du, dv;
};

// n pixels by each interpolation, nearest pixels beyond the edge. record and rgb have kSpare bytes more.
void nearest_row(const uint8_t *record, Line line, int n, uint8_t *rgb);
void bilinear_row(const uint8_t *record, Line line, int n, uint8_t *rgb);
void bicubic_row(const uint8_t *record, Line line, int n, uint8_t *rgb);

// The stages of colour, in place.
void gain_row(const uint16_t *gain, int n, uint8_t *rgb);
void matrix_row(const int32_t *matrix, const int32_t *offset, int n, uint8_t *rgb);

// n pixels in reverse order; to has kSpare bytes more. The two may not overlap.
void reverse_row(const uint8_t *from, int n, uint8_t *to);
// The same pixel n times; to has kSpare bytes more.
void repeat_row(const uint8_t *pixel, int n, uint8_t *to);
// One of three channels of n pixels.
void channel_row(const uint8_t *rgb, int channel, int n, uint8_t *plane);

// What is taken from the values of a row, one by one, and what they are multiplied by.
struct Norm {
  const float *mean, *scale;
  const float *split_mean, *split_scale;  // the same, but of each sixteen those at even places first; at least sixteen
  bool ties;  // one of the 256 bytes becomes a number midway between two bfloat16
};

// n values, each v or, of blended ones, v / 32768, normalised.
void normalise_row(const uint8_t *v, const Norm &norm, int n, float *to);
void normalise_row(const uint8_t *v, const Norm &norm, int n, uint16_t *to);
void normalise_row(const int32_t *v, const Norm &norm, int n, float *to);
void normalise_row(const int32_t *v, const Norm &norm, int n, uint16_t *to);
// n pixels in reverse order, the first of them at from, and n times the same pixel; norm is one of interleaved pixels. Each reads
// a byte more.
void normalise_reverse_row(const uint8_t *from, const Norm &norm, int n, uint16_t *to);
void normalise_repeat_row(const uint8_t *pixel, const Norm &norm, int n, uint16_t *to);

}  // namespace mpp
