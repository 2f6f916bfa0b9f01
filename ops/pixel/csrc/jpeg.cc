// JPEG decoding by libjpeg-turbo: accurate integer DCT and smooth chroma upsampling, its defaults.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <new>

#include "entropy.h"
#include "pixel.h"

#include <jerror.h>

namespace mpp {
namespace {

void say(char *error, const char *text) { std::snprintf(error, MPP_ERROR_BYTES, "%s", text); }

// One decompressor, used for many images: libjpeg keeps its memory pools and tables, the entropy decoder its own.
class Decompressor {
 public:
  Decompressor() {
    std::memset(&cinfo_, 0, sizeof cinfo_);
    cinfo_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = [](j_common_ptr c) { fail(c); };
    errors_.base.emit_message = [](j_common_ptr c, int level) {
      if (level < 0) fail(c);  // a warning: the data is damaged, and libjpeg would make pixels up
    };
    errors_.base.output_message = [](j_common_ptr) {};
    if (setjmp(errors_.back) == 0) {
      jpeg_create_decompress(&cinfo_);
      cinfo_.client_data = &entropy_;
      created_ = true;
    }
  }
  ~Decompressor() {
    if (created_) jpeg_destroy_decompress(&cinfo_);
  }
  Decompressor(const Decompressor &) = delete;
  Decompressor &operator=(const Decompressor &) = delete;

  int size(const uint8_t *jpeg, int64_t bytes, int32_t *width, int32_t *height, char *error) {
    if (!created_) return say(error, "no memory for libjpeg"), MPP_MEMORY;
    if (setjmp(errors_.back) != 0) return failed(error);
    read_header(jpeg, bytes);
    *width = static_cast<int32_t>(cinfo_.image_width);
    *height = static_cast<int32_t>(cinfo_.image_height);
    jpeg_abort_decompress(&cinfo_);
    return check_kind(error);
  }

  // Decodes with the fast entropy decoder unless plain, and again without where that gives up.
  int decode(const uint8_t *jpeg, int64_t bytes, int32_t width, int32_t height, bool plain, uint8_t *rgb, char *error) {
    if (!created_) return say(error, "no memory for libjpeg"), MPP_MEMORY;
    bool again = false;
    int status = decode_once(jpeg, bytes, width, height, rgb, error, !plain, &again);
    return again ? decode_once(jpeg, bytes, width, height, rgb, error, false, &again) : status;
  }

 private:
  struct Errors {
    jpeg_error_mgr base;
    std::jmp_buf back;
  };

  [[noreturn]] static void fail(j_common_ptr c) {
    // base is the first member of Errors, as libjpeg's own example has it.
    std::longjmp(reinterpret_cast<Errors *>(c->err)->back, 1);
  }

  int failed(char *error) {
    char text[JMSG_LENGTH_MAX];
    errors_.base.format_message(reinterpret_cast<j_common_ptr>(&cinfo_), text);
    bool memory = errors_.base.msg_code == JERR_OUT_OF_MEMORY;
    say(error, text);
    stop();
    return memory ? MPP_MEMORY : MPP_DATA;
  }

  void read_header(const uint8_t *jpeg, int64_t bytes) {
    jpeg_mem_src(&cinfo_, jpeg, static_cast<unsigned long>(bytes));
    jpeg_read_header(&cinfo_, TRUE);
  }

  int check_kind(char *error) {
    switch (cinfo_.jpeg_color_space) {
      case JCS_GRAYSCALE:
      case JCS_YCbCr:
      case JCS_RGB:
        break;
      case JCS_CMYK:
      case JCS_YCCK:
        say(error, "a CMYK image, want RGB or grey: convert it first");
        return MPP_DATA;
      default:
        std::snprintf(error, MPP_ERROR_BYTES, "%d channels of no known colour space, want RGB or grey",
                      cinfo_.num_components);
        return MPP_DATA;
    }
    if (static_cast<int64_t>(cinfo_.image_width) * cinfo_.image_height > MPP_MAX_PIXELS) {
      std::snprintf(error, MPP_ERROR_BYTES, "%u x %u pixels, more than the %d allowed", cinfo_.image_width,
                    cinfo_.image_height, MPP_MAX_PIXELS);
      return MPP_DATA;
    }
    return MPP_OK;
  }

  // Reads everything up to the compressed data. Returns MPP_OK if the image can be decoded as what is wanted.
  int start(const uint8_t *jpeg, int64_t bytes, int32_t width, int32_t height, char *error, bool fast) {
    read_header(jpeg, bytes);
    if (int status = check_kind(error); status != MPP_OK) return status;
    if (static_cast<int32_t>(cinfo_.image_width) != width || static_cast<int32_t>(cinfo_.image_height) != height) {
      std::snprintf(error, MPP_ERROR_BYTES, "%u x %u pixels, want %d x %d", cinfo_.image_width, cinfo_.image_height,
                    width, height);
      return MPP_DATA;
    }
    cinfo_.out_color_space = JCS_RGB;
    const size_t header = static_cast<size_t>(bytes) - cinfo_.src->bytes_in_buffer;
    mine_ = fast && entropy_.prepare(&cinfo_);
    jpeg_start_decompress(&cinfo_);
    if (mine_) {
      entropy_.take_over(&cinfo_);
      header_.assign(jpeg, jpeg + header);
    }
    return MPP_OK;
  }

  // Starts again on an image whose header is the last one's to the byte, as nearly all are in a set made by one program:
  // the tables, buffers and methods that libjpeg has chosen are still right, only its counters go back. This is what
  // jpeg_start_decompress does last.
  bool restart(const uint8_t *jpeg, int64_t bytes) {
    if (header_.empty() || static_cast<size_t>(bytes) <= header_.size() ||
        std::memcmp(jpeg, header_.data(), header_.size()) != 0) {
      return false;
    }
    cinfo_.src->next_input_byte = jpeg + header_.size();
    cinfo_.src->bytes_in_buffer = static_cast<size_t>(bytes) - header_.size();
    if (!entropy_.unstuff(&cinfo_)) return false;
    cinfo_.entropy->start_pass = [](j_decompress_ptr) {};  // its tables are not used
    (*cinfo_.inputctl->start_input_pass)(&cinfo_);
    (*cinfo_.master->prepare_for_output_pass)(&cinfo_);
    cinfo_.output_scanline = 0;
    entropy_.take_over(&cinfo_);
    return true;
  }

  void stop() {
    header_.clear();
    entropy_.restore(&cinfo_);
    jpeg_abort_decompress(&cinfo_);
  }

  // No object with a destructor may live in here: longjmp passes by.
  int decode_once(const uint8_t *jpeg, int64_t bytes, int32_t width, int32_t height, uint8_t *rgb, char *error, bool fast,
                  bool *again) {
    *again = false;
    if (setjmp(errors_.back) != 0) return failed(error);
    if (!(fast && restart(jpeg, bytes))) {
      stop();
      if (int status = start(jpeg, bytes, width, height, error, fast); status != MPP_OK) {
        stop();
        return status;
      }
    }
    constexpr JDIMENSION kRows = 16;
    const size_t stride = static_cast<size_t>(width) * 3;
    // Where rows are aligned to 32 bytes, libjpeg-turbo writes them past the cache, which takes a tenth of all time longer; so
    // they come out a little further on and move back while the cache has them. Only the last one has no room for that.
    const bool aligned = reinterpret_cast<uintptr_t>(rgb) % 32 == 0 && stride % 32 == 0;
    const size_t further = aligned ? 16 : 0;
    if (aligned && last_.size() < stride + 64) last_.resize(stride + 64);
    uint8_t *beside = aligned ? last_.data() + 16 + (32 - reinterpret_cast<uintptr_t>(last_.data()) % 32) : nullptr;
    while (cinfo_.output_scanline < cinfo_.output_height) {
      JSAMPROW rows[kRows];
      uint8_t *to = rgb + cinfo_.output_scanline * stride;
      JDIMENSION n = std::min(kRows, cinfo_.output_height - cinfo_.output_scanline);
      for (JDIMENSION i = 0; i < n; i++) rows[i] = to + i * stride + further;
      if (aligned && cinfo_.output_scanline + n == cinfo_.output_height) rows[n - 1] = beside;
      n = jpeg_read_scanlines(&cinfo_, rows, n);
      if (!aligned) continue;
      const bool ends = cinfo_.output_scanline == cinfo_.output_height;
      std::memmove(to, to + further, (n - ends) * stride);
      if (ends) std::memcpy(to + (n - 1) * stride, beside, stride);
    }
    if (mine_ && entropy_.gave_up()) {
      *again = true;
      stop();
    } else if (!mine_ || !entropy_.at_end(&cinfo_)) {
      jpeg_finish_decompress(&cinfo_);
      header_.clear();
    }
    return MPP_OK;
  }

  jpeg_decompress_struct cinfo_;
  Errors errors_;
  EntropyDecoder entropy_;
  std::vector<uint8_t> header_;  // of the image decoded last, where its state is still there to start again from
  std::vector<uint8_t> last_;    // the last row on its way
  bool mine_ = false;            // the entropy decoder is ours
  bool created_ = false;
};

}  // namespace
}  // namespace mpp

int mpp_jpeg_decode(const uint8_t *const *jpegs, const int64_t *sizes, int64_t count, int32_t width, int32_t height,
                    int32_t plain, uint8_t *rgb, int64_t *done, char *error) {
  *done = 0;
  auto *d = new (std::nothrow) mpp::Decompressor;
  if (!d) return mpp::say(error, "no memory for a decoder"), MPP_MEMORY;
  int status = MPP_OK;
  size_t stride = static_cast<size_t>(width) * static_cast<size_t>(height) * 3;
  try {
    for (int64_t i = 0; i < count && status == MPP_OK; i++) {
      status = d->decode(jpegs[i], sizes[i], width, height, plain != 0, rgb + static_cast<size_t>(i) * stride, error);
      if (status == MPP_OK) *done = i + 1;
    }
  } catch (const std::bad_alloc &) {
    mpp::say(error, "no memory for the compressed data");
    status = MPP_MEMORY;
  }
  delete d;
  return status;
}

int mpp_jpeg_size(const uint8_t *jpeg, int64_t size, int32_t *width, int32_t *height, char *error) {
  auto *d = new (std::nothrow) mpp::Decompressor;
  if (!d) return mpp::say(error, "no memory for a decoder"), MPP_MEMORY;
  int status = d->size(jpeg, size, width, height, error);
  delete d;
  return status;
}
