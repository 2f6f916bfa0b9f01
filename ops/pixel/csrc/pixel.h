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
// *done is then the number of good ones before it.
int mpp_jpeg_decode(const uint8_t *const *jpegs, const int64_t *sizes, int64_t count, int32_t width, int32_t height,
                    uint8_t *rgb, int64_t *done, char *error);

// Width and height of a JPEG, from its header.
int mpp_jpeg_size(const uint8_t *jpeg, int64_t size, int32_t *width, int32_t *height, char *error);

#ifdef __cplusplus
}
#endif
