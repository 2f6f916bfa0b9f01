// A Huffman decoder for one-scan baseline JPEGs, three times as fast as libjpeg's, for libjpeg to use in place of its own.
//
// libjpeg keeps everything else: markers, dequantisation, inverse DCT, upsampling, colour. Entropy decoding is lossless,
// so pixels are the same bits. Where this decoder meets anything unusual it gives up, and the caller decodes the image
// again with libjpeg alone, which knows how to say what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <cstdio>
#define JPEG_INTERNALS
#include <jpeglib.h>

namespace mpp {

// One Huffman table (T.81, annexes C and F).
class HuffmanTable {
 public:
  static constexpr int kLook = 10;
  static constexpr uint32_t kEnd = 128;  // a step that leads out of any block
  // What the next kLook bits mean where they hold a code and its value: value << 16 | step << 8 | take, else 0.
  // step: coefficients to move on, run + 1 or kEnd; take: bits of both, low so that a shift can use the entry as it is.
  uint32_t whole[1 << kLook];
  // What they mean where they hold a code: step << 24 | size << 16 | length << 8 | take, else 0. size: bits of the value;
  // length: bits of the code; take: both.
  uint32_t code[1 << kLook];

  // Returns false if the table is not a Huffman code, or not one for DC (symbols are sizes alone) where dc is set.
  bool build(const JHUFF_TBL &table, bool dc);
  // The entry, as in code, of the code of more than kLook bits at the top of bits, or 0 if there is none.
  uint32_t longer(uint64_t bits) const;

 private:
  UINT8 bits_[17] = {};  // what the table was built from, to skip the work when the next image has the same
  UINT8 values_[256] = {};
  bool built_ = false;
  int32_t last_[17];   // largest code of each length, -1 if none
  int32_t first_[17];  // index in values_ of a length's first code, less that code
};

// The state that one jpeg_decompress_struct needs; reached through its client_data, which must point at it.
class EntropyDecoder {
 public:
  // Takes over entropy decoding of the scan that cinfo has just started (after jpeg_start_decompress). Returns false
  // and changes nothing if the scan is not of the plain kind or its tables are not codes.
  bool take_over(j_decompress_ptr cinfo);
  // Whether the last image met something it could not read: its pixels are then worthless.
  bool gave_up() const { return gave_up_; }

 private:
  static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks);
  bool decode_block(JCOEF *block, int component);
  bool unstuff(const uint8_t *from, size_t size);

  HuffmanTable dc_[2], ac_[2];
  struct Block {
    int component, dc, ac;
  } layout_[D_MAX_BLOCKS_IN_MCU];
  int blocks_ = 0;
  int previous_[MAX_COMPS_IN_SCAN];  // DC of the block before, by component
  std::vector<uint8_t> data_;        // the scan without stuffed zeros, padded
  size_t data_size_ = 0, scan_size_ = 0;
  const uint8_t *at_ = nullptr;
  uint64_t buffer_ = 0;  // bits not yet used, the next on top
  int count_ = 0;        // how many of them are certain
  int64_t mcus_left_ = 0;
  bool gave_up_ = false;
};

}  // namespace mpp
