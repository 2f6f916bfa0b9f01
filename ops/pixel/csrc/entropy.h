// A Huffman decoder for one-scan baseline JPEGs, for libjpeg to use in place of its own, which takes half of its time.
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
  // What the next kLook bits mean where they hold a code and its value, and perhaps another code and value after them.
  // Where they do not, take is 0. As one word, low to high:
  struct Pair {
    uint8_t take;    // bits of both; low, so that a shift can use the word as it is
    uint8_t step;    // of the first: coefficients to move on, run + 1 or kEnd
    uint8_t next;    // of the second; 0: there is none, and its value is the first's again
    uint8_t single;  // bits of the first
    int16_t value, next_value;
  };
  static_assert(sizeof(Pair) == 8);
  Pair pairs[1 << kLook];
  // What they mean where they hold a code: step << 24 | size << 16 | length << 8 | take, else 0. size: bits of the value;
  // length: bits of the code; take: both.
  uint32_t code[1 << kLook];

  // Returns false if the table is not a Huffman code, or not one for DC (symbols are sizes alone) where dc is set.
  bool build(const JHUFF_TBL &table, bool dc);
  // The entry, as in code, of the code of more than kLook bits at the top of bits, or 0 if there is none.
  uint32_t longer(uint64_t bits) const;

 private:
  void pair();  // looks for second symbols

  UINT8 bits_[17] = {};  // what the table was built from, to skip the work when the next image has the same
  UINT8 values_[256] = {};
  bool built_ = false;
  int32_t last_[17];   // largest code of each length, -1 if none
  int32_t first_[17];  // index in values_ of a length's first code, less that code
};

// The state that one jpeg_decompress_struct needs; reached through its client_data, which must point at it.
class EntropyDecoder {
 public:
  EntropyDecoder() {
    one_code_.bits[1] = 1;
  }
  // Before jpeg_start_decompress: returns false and changes nothing if the scan that follows is not of the plain kind or its
  // tables are not codes. Else libjpeg's tables are set aside until take_over or restore.
  bool prepare(j_decompress_ptr cinfo);
  // Takes the scan that cinfo reads next; prepare does so too. Returns false if no marker ends it.
  bool unstuff(j_decompress_ptr cinfo);
  // When the scan has started, after prepare or unstuff: takes over entropy decoding.
  void take_over(j_decompress_ptr cinfo);
  // Gives libjpeg its tables back, where they are set aside.
  void restore(j_decompress_ptr cinfo);
  // Whether the next marker is the end of the image.
  static bool at_end(j_decompress_ptr cinfo) {
    const jpeg_source_mgr &src = *cinfo->src;
    return src.bytes_in_buffer >= 2 && src.next_input_byte[0] == 0xFF && src.next_input_byte[1] == JPEG_EOI;
  }
  // Whether the last image met something it could not read: its pixels are then worthless.
  bool gave_up() const { return gave_up_; }

 private:
  static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks);
  bool decode_block(JCOEF *block, int component);

  HuffmanTable dc_[2], ac_[2];
  JHUFF_TBL one_code_ = {};  // what libjpeg gets instead, and derives in no time
  JHUFF_TBL *held_dc_[2], *held_ac_[2];
  bool holding_ = false;
  struct Block {
    int *previous;  // DC of the component's block before
    const HuffmanTable *dc, *ac;
  } layout_[D_MAX_BLOCKS_IN_MCU];
  int blocks_ = 0;
  int previous_[MAX_COMPS_IN_SCAN];  // DC of the block before, by component
  std::vector<uint8_t> data_;        // the scan without stuffed zeros, padded
  size_t data_size_ = 0, scan_size_ = 0;
  const uint8_t *at_ = nullptr;  // the word ahead
  uint64_t ahead_ = 0;           // 32 bits that follow those in buffer
  uint64_t buffer_ = 0;  // bits not yet used, the next on top
  int count_ = 0;        // how many; below them zeros
  int64_t mcus_left_ = 0;
  bool gave_up_ = false;
};

}  // namespace mpp
