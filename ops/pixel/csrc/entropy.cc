#include "entropy.h"

#include <algorithm>

namespace mpp {
namespace {

constexpr int kPad = 4096;  // zeros after the data: more than the blocks of one MCU can read
// Where the k-th coefficient of the zigzag order stands.
constexpr uint8_t kNatural[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                  41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                  30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};
// The next 32 bits of the scan.
inline uint64_t load(const uint8_t *at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return __builtin_bswap32(word);
}

// The entry of a symbol in HuffmanTable::code.
constexpr uint32_t pack(uint32_t symbol, uint32_t length) {
  uint32_t size = symbol & 15, run = symbol >> 4;
  uint32_t step = size == 0 && run != 15 ? HuffmanTable::kEnd : run + 1;
  return step << 24 | size << 16 | length << 8 | (length + size);
}

// The value of entry e (T.81, figure F.12), whose code is at the top of bits.
inline int value_of(uint32_t e, uint64_t bits) {
  bits <<= e >> 8 & 31;
  uint32_t size = e >> 16 & 15;
  int raw = static_cast<int>(bits >> 1 >> (63 - size));
  int negative = ~static_cast<int>(static_cast<int64_t>(bits) >> 63);
  return raw - (negative & ((1 << size) - 1));
}

}  // namespace

bool HuffmanTable::build(const JHUFF_TBL &table, bool dc) {
  if (built_ && !std::memcmp(bits_, table.bits, sizeof bits_) && !std::memcmp(values_, table.huffval, sizeof values_)) {
    return true;
  }
  built_ = false;
  std::memcpy(bits_, table.bits, sizeof bits_);
  std::memcpy(values_, table.huffval, sizeof values_);
  std::fill_n(pairs, 1 << kLook, Pair{});
  std::memset(code, 0, sizeof code);
  int32_t next = 0, index = 0;
  for (int n = 1; n <= 16; n++, next <<= 1) {
    first_[n] = index - next;
    last_[n] = bits_[n] ? next + bits_[n] - 1 : -1;
    if (next + bits_[n] > 1 << n || index + bits_[n] > 256) return false;
    for (int i = 0; i < bits_[n]; i++, next++, index++) {
      if (values_[index] > (dc ? 11 : 255) || (values_[index] & 15) > 11) return false;
      for (int rest = 0; n <= kLook && rest < 1 << (kLook - n); rest++) {
        uint32_t bits = static_cast<uint32_t>(next << (kLook - n) | rest);
        uint32_t e = code[bits] = pack(values_[index], static_cast<uint32_t>(n)), take = e & 255;
        if (take > kLook) continue;
        auto value = static_cast<int16_t>(value_of(e, static_cast<uint64_t>(bits) << (64 - kLook)));
        auto step = static_cast<uint8_t>(e >> 24), single = static_cast<uint8_t>(take);
        pairs[bits] = {single, step, 0, single, value, value};
      }
    }
  }
  built_ = true;
  if (!dc) pair();
  return true;
}

void HuffmanTable::pair() {
  Pair first[1 << kLook];
  std::copy_n(pairs, 1 << kLook, first);
  for (uint32_t bits = 0; bits < 1 << kLook; bits++) {
    Pair &p = pairs[bits];
    if (p.take == 0 || p.step == kEnd) continue;
    const Pair &q = first[bits << p.take & ((1 << kLook) - 1)];
    if (q.take == 0 || p.take + q.take > kLook) continue;
    p.take = static_cast<uint8_t>(p.take + q.take);
    p.next = q.step;
    p.next_value = q.value;
  }
}

uint32_t HuffmanTable::longer(uint64_t bits) const {
  int32_t top = static_cast<int32_t>(bits >> 48);
  for (int n = kLook + 1; n <= 16; n++) {
    int32_t c = top >> (16 - n);
    if (c <= last_[n]) return pack(values_[(first_[n] + c) & 255], static_cast<uint32_t>(n));
  }
  return 0;
}

bool EntropyDecoder::unstuff(j_decompress_ptr cinfo) {
  const uint8_t *from = cinfo->src->next_input_byte;
  const size_t size = cinfo->src->bytes_in_buffer;
  if (data_.size() < size + kPad) data_.resize(size + kPad);
  uint8_t *to = data_.data();
  size_t at = 0;
  while (at < size) {
    const void *found = std::memchr(from + at, 0xFF, size - at);
    size_t run = found ? static_cast<size_t>(static_cast<const uint8_t *>(found) - from) - at : size - at;
    std::memcpy(to, from + at, run);
    to += run;
    at += run;
    if (!found) return false;  // no marker ends the scan
    if (at + 1 >= size) return false;
    if (from[at + 1] != 0) break;
    *to++ = 0xFF;
    at += 2;
  }
  scan_size_ = at;
  data_size_ = static_cast<size_t>(to - data_.data());
  std::memset(to, 0, kPad);
  return at < size;
}

bool EntropyDecoder::prepare(j_decompress_ptr cinfo) {
  if (cinfo->progressive_mode || cinfo->arith_code || cinfo->restart_interval != 0 || cinfo->data_precision != 8 ||
      cinfo->comps_in_scan != cinfo->num_components || cinfo->input_scan_number != 1 || cinfo->unread_marker != 0) {
    return false;
  }
  for (int i = 0; i < cinfo->comps_in_scan; i++) {
    const int dc = cinfo->cur_comp_info[i]->dc_tbl_no, ac = cinfo->cur_comp_info[i]->ac_tbl_no;
    if (dc > 1 || ac > 1 || !cinfo->dc_huff_tbl_ptrs[dc] || !cinfo->ac_huff_tbl_ptrs[ac] ||
        !dc_[dc].build(*cinfo->dc_huff_tbl_ptrs[dc], true) || !ac_[ac].build(*cinfo->ac_huff_tbl_ptrs[ac], false)) {
      return false;
    }
  }
  if (!unstuff(cinfo)) return false;
  // libjpeg would derive its own tables now, once a component, at a tenth of the time that all the rest takes.
  for (int t = 0; t < 2; t++) {
    held_dc_[t] = cinfo->dc_huff_tbl_ptrs[t];
    held_ac_[t] = cinfo->ac_huff_tbl_ptrs[t];
    cinfo->dc_huff_tbl_ptrs[t] = cinfo->ac_huff_tbl_ptrs[t] = &one_code_;
  }
  holding_ = true;
  return true;
}

void EntropyDecoder::restore(j_decompress_ptr cinfo) {
  if (!holding_) return;
  for (int t = 0; t < 2; t++) {
    cinfo->dc_huff_tbl_ptrs[t] = held_dc_[t];
    cinfo->ac_huff_tbl_ptrs[t] = held_ac_[t];
  }
  holding_ = false;
}

void EntropyDecoder::take_over(j_decompress_ptr cinfo) {
  restore(cinfo);
  gave_up_ = false;
  blocks_ = 0;
  for (int i = 0; i < cinfo->blocks_in_MCU; i++) {
    const int c = cinfo->MCU_membership[i];
    const jpeg_component_info *info = cinfo->cur_comp_info[c];
    layout_[blocks_++] = {previous_ + c, dc_ + info->dc_tbl_no, ac_ + info->ac_tbl_no};
  }
  at_ = data_.data();
  ahead_ = load(at_);
  buffer_ = 0;
  count_ = 0;
  std::fill_n(previous_, MAX_COMPS_IN_SCAN, 0);
  mcus_left_ = static_cast<int64_t>(cinfo->MCUs_per_row) * cinfo->MCU_rows_in_scan;
  cinfo->entropy->decode_mcu = decode_mcu;
}

// One block of 64 coefficients, zero before, in natural order. Returns false on a code that does not exist or a run that
// leaves the block. What each symbol waits for is the one before it: a lookup and a shift; the rest happens meanwhile.
inline bool EntropyDecoder::decode_block(JCOEF *block, int index) {
  constexpr int kShift = 64 - HuffmanTable::kLook;
  const Block &where = layout_[index];
  // Copies, which stay in registers: as members, each store to block would send them to memory.
  uint64_t buffer = buffer_;
  int count = count_;
  const uint8_t *at = at_;
  uint64_t ahead = ahead_;
  // Makes it at least 33 bits, without a branch, from a word that was loaded long before it is waited for.
  auto fill = [&]() __attribute__((always_inline)) {
    const uint64_t few = count <= 32;
    buffer |= (ahead << ((32 - count) & 63)) & (0 - few);
    count += static_cast<int>(few << 5);
    at += few << 2;
    ahead = load(at);
  };
  auto drop = [&](uint64_t e) __attribute__((always_inline)) {
    buffer <<= e & 63;
    count -= static_cast<int>(e & 63);
  };
  int value = 0;
  // A symbol of any length: its step, or 0 if it is no code.
  auto any = [&](const HuffmanTable &table) -> uint32_t {
    fill();  // for 16 + 11 bits
    uint32_t e = table.code[buffer >> kShift];
    if (!e) e = table.longer(buffer);
    value = value_of(e, buffer);
    drop(e & 255);
    fill();
    return e >> 24;
  };
  fill();
  const HuffmanTable &dc = *where.dc;
  uint32_t difference = dc.code[buffer >> kShift];
  if (!difference) [[unlikely]] {
    if (!(difference = dc.longer(buffer))) return false;
  }
  value = value_of(difference, buffer);
  drop(difference & 255);
  block[0] = static_cast<JCOEF>(*where.previous += value);

  const HuffmanTable &table = *where.ac;
  uint32_t k = 0;  // the coefficient that stands last
  // Reads one or two AC symbols and says whether the block goes on.
  auto next = [&]() __attribute__((always_inline)) -> bool {
    uint64_t e;
    std::memcpy(&e, &table.pairs[buffer >> kShift], 8);
    if (!(e & 255)) [[unlikely]] {
      uint32_t step = any(table);
      k += step ? step : 2 * HuffmanTable::kEnd;
      if (k >= 63) {
        if (k == 63) block[63] = static_cast<JCOEF>(value);
        return false;
      }
      block[kNatural[k]] = static_cast<JCOEF>(value);
      return true;
    }
    const uint64_t before = buffer;
    drop(e);
    uint32_t first = k + (e >> 8 & 255);
    k = first + (e >> 16 & 255);
    if (k >= 63) [[unlikely]] {
      if (first > 63) return k = first, false;
      block[kNatural[first]] = static_cast<JCOEF>(e >> 32);
      if (k == 63) block[63] = static_cast<JCOEF>(e >> 48);
      if (first == 63 && k > 63) {  // the second symbol is not of this block: give it back
        int back = static_cast<int>((e & 255) - (e >> 24 & 255));
        buffer = before << (e >> 24 & 63);
        count += back;
        k = 63;
      }
      return false;
    }
    block[kNatural[first]] = static_cast<JCOEF>(e >> 32);
    block[kNatural[k]] = static_cast<JCOEF>(e >> 48);
    return true;
  };
  do {
    fill();  // for two lookups of kLook bits, and kLook bits for a third
  } while (next() && next() && next());
  buffer_ = buffer;
  count_ = count;
  at_ = at;
  ahead_ = ahead;
  return k == 63 || (k >= HuffmanTable::kEnd && k < 2 * HuffmanTable::kEnd);
}

// libjpeg calls this for each MCU in order; blocks are zeroed.
boolean EntropyDecoder::decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
  EntropyDecoder &d = *static_cast<EntropyDecoder *>(cinfo->client_data);
  if (d.gave_up_) return TRUE;
  for (int i = 0; i < d.blocks_; i++) {
    if (!d.decode_block(blocks[i][0], i)) {
      d.gave_up_ = true;
      return TRUE;
    }
  }
  // Past the end by more than the zeros can tell: stop before reading further than the padding.
  int64_t used = (d.at_ - d.data_.data()) * 8 - d.count_, have = static_cast<int64_t>(d.data_size_) * 8;
  if (used > have) {
    d.gave_up_ = true;
    return TRUE;
  }
  if (--d.mcus_left_ == 0) {
    if (have - used >= 8) d.gave_up_ = true;  // bytes that no block accounts for
    cinfo->src->next_input_byte += d.scan_size_;
    cinfo->src->bytes_in_buffer -= d.scan_size_;
  }
  return TRUE;
}

}  // namespace mpp
