// Our own convolution on the CPU.
//
// The output positions of all samples are cut into one part a thread and each part into chunks, whose columns stay in the
// processor's cache between being unfolded and multiplied (or, of large weights, are as large as those). Where a copy of
// the weights for each thread's gradient is too much, or there is too little to share out, there is one part, and the
// threads share the work of each chunk instead: the nested at::parallel_for and the BLAS run in parallel only outside a
// parallel region. That costs several waits a chunk, which hurts where other processes keep a core busy.
#include "ownconv.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <type_traits>

#include "gemm.h"
#include "patches.h"

#ifndef INTRA_OP_PARALLEL
#error "compile with -fopenmp: without it at::parallel_for is a plain loop, and the BLAS waits for its threads at every chunk"
#endif

namespace mp::conv {
namespace {

constexpr int64_t kChunk = 1 << 20;    // bytes of a thread's columns: in its share of the cache, and many rows to a product
constexpr int64_t kDeep = 32 << 20;    // bytes of weights, once for each thread, from which the threads share a chunk
constexpr int64_t kFlip = 16;          // input channels, and
constexpr int64_t kTurn = 512;         // pixels, from which dx at stride 1 is a correlation rather than folded

at::MemoryFormat format(bool last) { return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous; }

Patches patches_of(const Geometry &g) {
  return {g.h, g.w, g.c, g.kh, g.kw, g.stride, g.padding, g.padding, g.ho, g.wo};
}
bool pointwise(const Patches &p) { return p.kh == 1 && p.kw == 1 && p.stride == 1 && p.pad_h == 0 && p.pad_w == 0; }

// One thread's share of a scratch tensor.
class Arena {
 public:
  explicit Arena(char *at) : at_(at) {}
  template <class E>
  E *take(int64_t n) {
    E *out = reinterpret_cast<E *>(at_);
    at_ += bytes<E>(n);
    return out;
  }
  template <class E>
  static int64_t bytes(int64_t n) {
    return (n * static_cast<int64_t>(sizeof(E)) + 63) / 64 * 64;
  }

 private:
  char *at_;
};

// How the rows of output positions (ho a sample) are shared out.
struct Cut {
  int64_t rows, part, chunk;  // all; of one thread; at a time
  int64_t parts() const { return part ? (rows + part - 1) / part : 0; }

  // unit: rows that no cut may part; row: bytes that one row needs in the cache; weights: bytes that each is multiplied with.
  Cut(int64_t all, int64_t unit, int64_t row, int64_t weights) : rows(all) {
    const int64_t threads = at::get_num_threads(), units = all / std::max<int64_t>(unit, 1);
    const bool shared = units < threads || weights * threads >= kDeep;
    part = shared ? rows : (units + threads - 1) / threads * unit;
    const int64_t budget = std::max(shared ? kChunk * threads : kChunk, weights);
    chunk = std::clamp<int64_t>(budget / std::max<int64_t>(row, 1), 1, std::max<int64_t>(part, 1));
  }

  // Runs f(part, first row, last row, arena), one call a part, with bytes of scratch each.
  template <class F>
  void run(int64_t bytes, F &&f) const {
    if (parts() == 0) return;
    bytes = Arena::bytes<char>(bytes);
    at::Tensor scratch = at::empty({parts() * bytes}, at::TensorOptions().dtype(at::kByte));
    char *base = static_cast<char *>(scratch.data_ptr());
    at::parallel_for(0, parts(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) f(t, t * part, std::min(rows, (t + 1) * part), Arena(base + t * bytes));
    });
  }
};

template <class E>
Matrix<E> flip(Matrix<E> m) {
  return {m.data, m.ld, m.op == 'N' ? 'T' : 'N'};
}

// Images of elements T as matrices [K M] of elements Col: the M positions of some output rows, K elements of their patch.
template <class T, class Col>
class Rows {
 public:
  Rows(const at::Tensor &images, const Patches &p, bool last)
      : data_(images.const_data_ptr<T>()), end_(data_ + images.numel()), p_(p), last_(last) {}

  // What one thread needs and remembers.
  struct Buffer {
    Col *cols, *sample;
    int64_t held;  // the sample that lies in sample, -1 at first
  };
  int64_t bytes(int64_t chunk) const { return Arena::bytes<Col>(cols_size(chunk)) + Arena::bytes<Col>(sample_size()); }
  Buffer buffer(Arena &arena, int64_t chunk) const {
    Col *cols = arena.take<Col>(cols_size(chunk));
    return {cols, arena.take<Col>(sample_size()), -1};
  }

  // Rows r..r+len; of one sample only unless channels last.
  Matrix<Col> get(Buffer &to, int64_t r, int64_t len) const {
    const int64_t image = r / p_.ho, row = r % p_.ho, k = p_.columns();
    if constexpr (std::is_same_v<T, Col>) {
      if (pointwise(p_) && last_) return {data_ + r * p_.wo * p_.c, p_.c};
      if (pointwise(p_)) return {data_ + image * size() + row * p_.wo, p_.h * p_.w, 'T'};
    }
    if (last_) {
      unfold(data_, end_, p_, r, r + len, to.cols);
      return {to.cols, k};
    }
    if (to.held != image) transpose(data_ + image * size(), p_.c, p_.h * p_.w, to.sample);
    to.held = image;
    if (pointwise(p_)) return {to.sample + row * p_.wo * p_.c, p_.c};
    unfold<Col, Col>(to.sample, to.sample + size(), p_, row, row + len, to.cols);
    return {to.cols, k};
  }

 private:
  int64_t size() const { return p_.h * p_.w * p_.c; }
  bool direct() const { return pointwise(p_) && std::is_same_v<T, Col>; }
  int64_t cols_size(int64_t chunk) const {
    return direct() || (pointwise(p_) && !last_) ? 0 : chunk * p_.wo * p_.columns();
  }
  int64_t sample_size() const { return direct() || last_ ? 0 : size(); }

  const T *data_, *end_;
  Patches p_;
  bool last_;
};

// The algorithms for tensors of T, columns of Col and sums of S.
template <class T, class Col, class S>
struct Engine {
  static constexpr bool flat = std::is_same_v<T, S>;  // products need no conversion

  static at::Tensor as(const at::Tensor &t, at::ScalarType d) { return t.to(d).contiguous(at::MemoryFormat::ChannelsLast); }

  static int64_t length(int64_t r, int64_t end, int64_t chunk, const Patches &p, bool whole) {
    int64_t len = std::min(chunk, end - r);
    return whole ? std::min(len, p.ho - r % p.ho) : len;
  }

  // y [n o ho wo] = images [n c h w] correlated with weights [o K], plus bias [o] where not null.
  static void correlate(const at::Tensor &images, const Patches &p, const at::Tensor &weights, const S *bias, bool last,
                        at::Tensor &y) {
    const int64_t n = images.size(0), o = weights.size(0), k = p.columns(), area = p.ho * p.wo;
    const Col *w = weights.const_data_ptr<Col>();
    T *out = y.mutable_data_ptr<T>();
    Rows<T, Col> rows(images, p, last);
    Cut cut(n * p.ho, last ? 1 : p.ho, p.wo * (k * sizeof(Col) + o * sizeof(S)), o * k * sizeof(Col));
    const int64_t sums_size = flat ? 0 : cut.chunk * p.wo * o;
    cut.run(rows.bytes(cut.chunk) + Arena::bytes<S>(sums_size), [&](int64_t, int64_t begin, int64_t end, Arena arena) {
      auto buffer = rows.buffer(arena, cut.chunk);
      S *sums = arena.take<S>(sums_size);
      for (int64_t r = begin, len; r < end; r += len) {
        len = length(r, end, cut.chunk, p, !last);
        const int64_t m = len * p.wo;
        Matrix<Col> x = rows.get(buffer, r, len);
        T *to = last ? out + r * p.wo * o : out + r / p.ho * o * area + r % p.ho * p.wo;
        S *c = flat ? reinterpret_cast<S *>(to) : sums;
        const S beta = flat && bias ? 1 : 0;  // the bias lies there before the sums
        if (last) {
          if (beta) fill_rows(bias, m, o, c);
          gemm<Col, S>(o, m, k, {w, k, 'T'}, x, beta, c, o);
          if (flat) continue;
          for (int64_t i = 0; i < m; i++) finish_row(c + i * o, o, bias, to + i * o);
        } else {
          const int64_t ld = flat ? area : m;
          if (beta) fill_planes(bias, m, o, c, ld);
          gemm<Col, S>(m, o, k, flip(x), {w, k}, beta, c, ld);
          if (flat) continue;
          for (int64_t i = 0; i < o; i++) finish_plane(c + i * ld, m, bias ? bias[i] : S(0), to + i * area);
        }
      }
    });
  }

  static void fill_rows(const S *bias, int64_t m, int64_t o, S *to) {
    for (int64_t i = 0; i < m; i++) std::memcpy(to + i * o, bias, o * sizeof(S));
  }
  static void fill_planes(const S *bias, int64_t m, int64_t o, S *to, int64_t ld) {
    for (int64_t i = 0; i < o; i++) std::fill_n(to + i * ld, m, bias[i]);
  }
  static void finish_row(const S *sums, int64_t o, const S *bias, T *to) {
    if (bias) {
      for (int64_t i = 0; i < o; i++) to[i] = static_cast<T>(sums[i] + bias[i]);
    } else {
      for (int64_t i = 0; i < o; i++) to[i] = static_cast<T>(sums[i]);
    }
  }
  static void finish_plane(const S *sums, int64_t m, S bias, T *to) {
    for (int64_t i = 0; i < m; i++) to[i] = static_cast<T>(sums[i] + bias);
  }

  // dx [n c h w] = the columns dy w, folded. With pairs T is bfloat16 and channels are last.
  static void spread(const at::Tensor &dy, const Geometry &g, const at::Tensor &weights, bool last, at::Tensor &dx,
                     const Pairs *pairs = nullptr) {
    const Patches p = patches_of(g);
    const int64_t k = p.columns(), size = g.c * g.h * g.w;
    const bool in_place = flat && last;
    const Col *w = weights.const_data_ptr<Col>();
    T *out = dx.mutable_data_ptr<T>();
    Rows<T, Col> rows(dy, {g.ho, g.wo, g.o, 1, 1, 1, 0, 0, g.ho, g.wo}, last);
    Cut cut(g.n * g.ho, g.ho, g.wo * (k * sizeof(S) + g.o * sizeof(Col)), g.o * k * sizeof(Col));
    const int64_t cols_size = cut.chunk * p.wo * k, sample_size = in_place ? 0 : size;
    const int64_t bytes = rows.bytes(cut.chunk) + Arena::bytes<S>(cols_size) + Arena::bytes<S>(sample_size);
    cut.run(bytes, [&](int64_t, int64_t begin, int64_t end, Arena arena) {
      auto buffer = rows.buffer(arena, cut.chunk);
      S *cols = arena.take<S>(cols_size), *sample = arena.take<S>(sample_size);
      if (in_place) std::fill(out + begin / g.ho * size, out + end / g.ho * size, T(0));
      for (int64_t r = begin, len; r < end; r += len) {
        len = length(r, end, cut.chunk, p, !in_place);
        if constexpr (std::is_same_v<T, at::BFloat16>) {
          if (pairs) pairs->product(len * g.wo, dy.const_data_ptr<T>() + r * g.wo * g.o, cols);
        }
        if (!pairs) gemm<Col, S>(k, len * g.wo, g.o, {w, k}, rows.get(buffer, r, len), 0, cols, k);
        if (in_place) {
          fold(cols, p, r, r + len, reinterpret_cast<S *>(out));
          continue;
        }
        const int64_t row = r % g.ho;
        if (row == 0) std::fill(sample, sample + size, S(0));
        fold(cols, p, row, row + len, sample);
        if (row + len < g.ho) continue;
        T *to = out + r / g.ho * size;
        if (last) copy_run(sample, size, to);
        else transpose(sample, g.h * g.w, g.c, to);
      }
    });
  }

  // dw [o K] = dyT cols(x) and db [o] = the sums of dy: a partial sum for each part, added up in the parts' order.
  static void weigh(const at::Tensor &x, const at::Tensor &dy, const Geometry &g, bool last, at::Tensor dw, at::Tensor db) {
    const Patches p = patches_of(g);
    const int64_t k = p.columns();
    Cut cut(g.n * g.ho, last ? 1 : g.ho, g.wo * (k * sizeof(Col) + g.o * sizeof(Col)), g.o * k * sizeof(Col));
    const int64_t parts = cut.parts();
    // The BLAS is fastest when the long side comes first and is a multiple of its kernel's height: [K o] or [o K].
    const bool turned = g.o % 16 == 0 && (k % 16 != 0 || g.o > k);
    Rows<T, Col> gradients(dy, {g.ho, g.wo, g.o, 1, 1, 1, 0, 0, g.ho, g.wo}, last);
    Rows<T, Col> patches(dw.defined() ? x : dy, p, last);
    at::Tensor dws = dw.defined() ? at::empty({parts, dw.numel()}, dw.options()) : dw;
    at::Tensor dbs = at::zeros({parts, g.o}, dy.options().dtype(at::kDouble));
    const int64_t bytes = gradients.bytes(cut.chunk) + (dw.defined() ? patches.bytes(cut.chunk) : 0);
    cut.run(bytes, [&](int64_t part, int64_t begin, int64_t end, Arena arena) {
      auto from = gradients.buffer(arena, cut.chunk);
      typename Rows<T, Col>::Buffer buffer{};
      if (dw.defined()) buffer = patches.buffer(arena, cut.chunk);
      for (int64_t r = begin, len; r < end; r += len) {
        len = length(r, end, cut.chunk, p, !last);
        Matrix<Col> d = gradients.get(from, r, len);
        if (db.defined()) add_sums(d, g.o, len * g.wo, static_cast<double *>(dbs.data_ptr()) + part * g.o);
        if (!dw.defined()) continue;
        S *to = static_cast<S *>(dws.data_ptr()) + part * g.o * k;
        Matrix<Col> x = patches.get(buffer, r, len);
        const S beta = r == begin ? 0 : 1;
        if (turned) gemm<Col, S>(g.o, k, len * g.wo, d, flip(x), beta, to, g.o);
        else gemm<Col, S>(k, g.o, len * g.wo, x, flip(d), beta, to, k);
      }
    });
    if (db.defined()) db.copy_(dbs.sum(0));
    if (!dw.defined()) return;
    if (parts == 0) {
      dw.zero_();
      return;
    }
    const S *from = static_cast<const S *>(dws.data_ptr());
    S *to = dw.mutable_data_ptr<S>();
    at::parallel_for(0, g.o * k, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const S *at = from + (turned ? i % k * g.o + i / k : i);
        S sum = *at;
        for (int64_t part = 1; part < parts; part++) sum += at[part * g.o * k];
        to[i] = sum;
      }
    });
  }

  // Adds the sums over m positions of d [o m] to sums [o].
  static void add_sums(Matrix<Col> d, int64_t o, int64_t m, double *sums) {
    constexpr int64_t kLanes = 16;
    if (d.op == 'T') {  // a channel is a run of m elements
      for (int64_t i = 0; i < o; i++) {
        const Col *run = d.data + i * d.ld;
        S lane[kLanes] = {};
        int64_t j = 0;
        for (; j + kLanes <= m; j += kLanes) {
          for (int64_t l = 0; l < kLanes; l++) lane[l] += static_cast<S>(run[j + l]);
        }
        for (; j < m; j++) lane[0] += static_cast<S>(run[j]);
        for (S v : lane) sums[i] += v;
      }
      return;
    }
    for (int64_t i = 0; i < o; i += kLanes) {
      const int64_t lanes = std::min(kLanes, o - i);
      S lane[kLanes] = {};
      if (lanes == kLanes) {
        for (int64_t j = 0; j < m; j++) {
          const Col *at = d.data + j * d.ld + i;
          for (int64_t l = 0; l < kLanes; l++) lane[l] += static_cast<S>(at[l]);
        }
      } else {
        for (int64_t j = 0; j < m; j++) {
          for (int64_t l = 0; l < lanes; l++) lane[l] += static_cast<S>(d.data[j * d.ld + i + l]);
        }
      }
      for (int64_t l = 0; l < lanes; l++) sums[i + l] += lane[l];
    }
  }

  static at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const Geometry &g, bool last) {
    at::Tensor y = at::empty({g.n, g.o, g.ho, g.wo}, x.options(), format(last));
    at::Tensor bias = b.defined() ? b.to(c10::CppTypeToScalarType<S>::value).contiguous() : b;
    correlate(x, patches_of(g), as(w, c10::CppTypeToScalarType<Col>::value),
              bias.defined() ? bias.const_data_ptr<S>() : nullptr, last, y);
    return y;
  }

  static Gradients backward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &dy, const Geometry &g, bool last,
                            bool paired, Wanted wanted) {
    constexpr auto col = c10::CppTypeToScalarType<Col>::value, sum = c10::CppTypeToScalarType<S>::value;
    Gradients out;
    if (wanted[1] || wanted[2]) {
      at::Tensor dw, db;
      if (wanted[1]) dw = at::empty({g.o, g.c, g.kh, g.kw}, w.options().dtype(sum), at::MemoryFormat::ChannelsLast);
      if (wanted[2]) db = at::empty({g.o}, w.options().dtype(sum));
      weigh(x, dy, g, last, dw, db);
      if (wanted[1]) out.w = dw.to(w.scalar_type());
      if (wanted[2]) out.b = db.to(w.scalar_type());
    }
    if (!wanted[0]) return out;
    out.x = at::empty({g.n, g.c, g.h, g.w}, dy.options(), format(last));
    if (g.stride == 1 && g.c >= kFlip && (g.pointwise() || g.n * g.h * g.w >= kTurn)) {
      const Patches p{g.ho, g.wo, g.o, g.kh, g.kw, 1, g.kh - 1 - g.padding, g.kw - 1 - g.padding, g.h, g.w};
      correlate(dy, p, as(w.flip({2, 3}).transpose(0, 1), col), nullptr, last, out.x);
      return out;
    }
    if constexpr (std::is_same_v<T, at::BFloat16>) {
      if (paired && last && g.o % 2 == 0) {
        at::Tensor weights = as(w, at::kBFloat16);
        Pairs pairs(weights.const_data_ptr<T>(), g.o, g.columns());
        spread(dy, g, as(w, col), last, out.x, &pairs);
        return out;
      }
    }
    spread(dy, g, as(w, col), last, out.x);
    return out;
  }
};

// Contiguous images whose samples are too few or too small to keep the threads busy one at a time.
bool better_last(const Geometry &g, const at::Tensor &w) {
  const bool deep = w.numel() * w.element_size() >= kChunk;
  return (deep && g.positions() < 256) || (g.n < at::get_num_threads() && !g.pointwise());
}

template <class F>
auto with_engine(at::ScalarType d, Columns columns, F &&f) {
  switch (d) {
    case at::kDouble:
      return f(Engine<double, double, double>());
    case at::kBFloat16:
      if (columns == Columns::narrow) return f(Engine<at::BFloat16, at::BFloat16, float>());
      return f(Engine<at::BFloat16, float, float>());
    default:
      return f(Engine<float, float, float>());
  }
}

}  // namespace

at::Tensor forward_cpu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const Geometry &g, bool last,
                       Columns columns) {
  const bool turn = !last && better_last(g, w);
  const at::Tensor input = turn ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
  at::Tensor y = with_engine(x.scalar_type(), columns, [&](auto e) { return e.forward(input, w, b, g, last || turn); });
  return turn ? y.contiguous() : y;
}

Gradients backward_cpu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &dy, const Geometry &g, bool last,
                       Columns columns, Wanted wanted) {
  const bool turn = !last && better_last(g, w);
  auto turned = [&](const at::Tensor &t) { return turn && t.defined() ? t.contiguous(at::MemoryFormat::ChannelsLast) : t; };
  Gradients out = with_engine(dy.scalar_type(), columns, [&](auto e) {
    return e.backward(wanted[1] ? turned(x) : x, w, turned(dy), g, last || turn, columns == Columns::pairs, wanted);
  });
  if (turn && out.x.defined()) out.x = out.x.contiguous();
  return out;
}

}  // namespace mp::conv
