// The C boundary of package pixel: plain integers, floats and pointers; every call returns a status and never throws,
// aborts or prints. A status other than MPP_OK comes with a message in error, a buffer of MPP_ERROR_BYTES that the caller
// supplies. All calls may run on any number of threads at once; none keeps a pointer after it returns.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  MPP_OK = 0,
  MPP_DATA = 1,      // the bytes given are not what they should be: truncated, damaged, another format or size
  MPP_ARGUMENT = 2,  // the caller asked for something impossible
  MPP_MEMORY = 3,    // no memory
};
enum { MPP_ERROR_BYTES = 256 };
enum { MPP_MAX_PIXELS = 64 << 20 };  // the largest image mpp_jpeg_decode and mpp_jpeg_size accept

// Decodes count JPEGs, each width x height, one after another into rgb (count x height x width x 3). Grey images become
// RGB; CMYK is refused. Any warning of libjpeg (truncated or damaged data) is an error. Stops at the first bad image:
// *done is then the number of good ones before it. plain: libjpeg does all of it, without our entropy decoder.
int mpp_jpeg_decode(const uint8_t *const *jpegs, const int64_t *sizes, int64_t count, int32_t width, int32_t height,
                    int32_t plain, uint8_t *rgb, int64_t *done, char *error);

// Width and height of a JPEG, from its header.
int mpp_jpeg_size(const uint8_t *jpeg, int64_t size, int32_t *width, int32_t *height, char *error);

enum { MPP_SIDE = 128, MPP_RECORD = MPP_SIDE * MPP_SIDE * 3 };  // a record: 128 x 128 RGB, interleaved
enum { MPP_MAX_SIZE = 1024 };                                  // the largest output side

enum { MPP_NEAREST = 0, MPP_BILINEAR = 1, MPP_BICUBIC = 2 };
enum { MPP_CLAMP = 0, MPP_FILL = 1 };
enum { MPP_DO_SHARPEN = 1, MPP_DO_GAIN = 2, MPP_DO_MATRIX = 4, MPP_DO_ERASE = 8 };
enum { MPP_TONE_NONE = 0, MPP_POSTERIZE = 1, MPP_SOLARIZE = 2, MPP_AUTOCONTRAST = 3, MPP_EQUALIZE = 4 };
enum { MPP_MIX_NONE = 0, MPP_MIX_BLEND = 1, MPP_MIX_PASTE = 2 };

// What happens to one image, in this order. Everything is an integer, so that every processor computes the same bits.
typedef struct {
  // Pixel (X, Y) of the output is taken from (map[0] X + map[1] Y + map[2], map[3] X + map[4] Y + map[5]) of the record,
  // in units of 2^-20 pixels; whole numbers are the centres of pixels.
  int32_t map[6];
  uint8_t interpolation;
  uint8_t border;  // beyond the record: its nearest pixel, or fill
  uint8_t fill[3];
  uint8_t steps;  // MPP_DO_*: which of sharpen, gain, matrix and erase are wanted
  uint8_t tone;   // MPP_TONE_*
  uint8_t mix;    // MPP_MIX_*
  int32_t sharpen;      // 2^-8: 0 is smooth, 256 as it is; on the record, before it is sampled
  uint16_t gain[3];     // 2^-15: v becomes v times gain, clipped, truncated
  uint8_t tone_level;   // posterize: bits that stay; solarize: the first value turned round
  uint8_t erase_rgb[3];
  uint16_t share;       // 2^-15: weight of this image where it is blended with its mate
  int32_t matrix[12];   // 2^-16: three rows of r, g, b and of the record's mean grey; the sum is rounded and clipped
  int16_t erase[4];     // left, top, right, bottom (beyond) of output pixels replaced by erase_rgb
  int16_t paste[4];     // the same, of output pixels that show the mate
  int32_t mate;         // position in the batch of the image to mix with, done to it all but its own mixing
} mpp_warp;

enum { MPP_F32 = 0, MPP_BF16 = 1 };
enum { MPP_NHWC = 0, MPP_NCHW = 1 };

// What is written: (v - mean) * scale for every value v of 0..255.
typedef struct {
  int32_t size;  // output is size x size pixels
  int32_t dtype, layout;
  float mean[3], scale[3];
} mpp_out;

// Whether mpp_gather can do this: every index below count, every warp in range.
int mpp_check(int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n, const mpp_out *out, char *error);

// Gathers records index[0..n), warps each and writes n x size x size x 3 (or n x 3 x size x size) values to dst.
// records: count records one after another.
int mpp_gather(const uint8_t *records, int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n,
               const mpp_out *out, void *dst, char *error);
// The same before normalisation: n x size x size x 3 bytes. Of out only size counts.
int mpp_gather_u8(const uint8_t *records, int64_t count, const int32_t *index, const mpp_warp *warps, int64_t n,
                  const mpp_out *out, uint8_t *dst, char *error);

// mpp_gather on a GPU: records, index, warps and dst are its memory, out is not. It only launches, on the stream (a
// cudaStream_t) of that GPU; the caller has checked index and warps with mpp_check. In our CUDA library, found by dlsym.
int mpp_cuda_gather(const uint8_t *records, const int32_t *index, const mpp_warp *warps, int64_t n, const mpp_out *out,
                    void *dst, int gpu, void *stream, char *error);

// Resizes an RGB image as OpenCV's resize does: nearest (its INTER_NEAREST_EXACT), bilinear or bicubic (a = -0.75), pixel
// centres at halves, no smoothing before. rgb: new_height x new_width x 3.
int mpp_resize(const uint8_t *from, int32_t width, int32_t height, int32_t interpolation, uint8_t *rgb,
               int32_t new_width, int32_t new_height, char *error);

#ifdef __cplusplus
}
#endif
