// Gradients written into a flat buffer as the backward pass produces them.
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/variable.h>

#include <deque>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "guard.h"

namespace {

namespace ag = torch::autograd;

// Which leaves are written, and the word that tells others. One thread of the engine owns it: a flat buffer lies on one
// device, and libtorch's engine runs a device's nodes on one thread.
class Frontier {
 public:
  Frontier(const int64_t *offsets, int n, int64_t *final_from) : offsets_(offsets), written_(n, false), next_(n), word_(final_from) {}

  bool written(int i) const { return written_[i]; }

  // Leaf i's part of the buffer (on device) is written, or on a GPU asked for.
  void write(int i, at::Device device) {
    written_[i] = true;
    int before = next_;
    while (next_ > 0 && written_[next_ - 1]) next_--;
    if (next_ == before) return;
    if (device.is_cpu()) return tell(offsets_[next_]);
    c10::Event event(device.type());
    event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    asked_.emplace_back(std::move(event), offsets_[next_]);
    while (!asked_.empty() && asked_.front().first.query()) arrive();
  }

  // Waits for the GPU, telling as it goes on.
  void finish() {
    while (!asked_.empty()) {
      asked_.front().first.synchronize();
      arrive();
    }
  }

 private:
  void tell(int64_t from) { __atomic_store_n(word_, from, __ATOMIC_RELEASE); }
  void arrive() {
    tell(asked_.front().second);
    asked_.pop_front();
  }

  const int64_t *offsets_;
  std::vector<bool> written_;
  int next_;  // leaves next_.. are all written
  int64_t *word_;
  std::deque<std::pair<c10::Event, int64_t>> asked_;
};

// Runs when the whole gradient of a leaf is known, and takes it away: the engine keeps no second copy until the end.
struct Writer : ag::FunctionPreHook {
  Writer(Frontier &frontier, int i, at::Tensor view) : frontier(frontier), i(i), view(std::move(view)) {}
  ag::variable_list operator()(const ag::variable_list &grads) override {
    if (grads.at(0).defined()) {
      TORCH_CHECK(grads[0].sizes() == view.sizes(), "the gradient of leaf ", i, " has shape ", grads[0].sizes(),
                  ", its place has ", view.sizes());
      at::NoGradGuard no_grad;
      view.copy_(grads[0]);
      frontier.write(i, view.device());
    }
    return {at::Tensor()};
  }
  Frontier &frontier;
  int i;
  at::Tensor view;
};

// The leaves' hooks for as long as one backward pass lasts.
class Hooks {
 public:
  ~Hooks() {
    for (const at::Tensor &leaf : leaves_) ag::impl::clear_hooks(leaf);
  }
  void add(const at::Tensor &leaf, std::unique_ptr<ag::FunctionPreHook> hook) {
    TORCH_CHECK(ag::impl::hooks(leaf).empty(), "a leaf takes part in two backward passes at once");
    leaves_.push_back(leaf);
    ag::impl::add_hook(leaf, std::move(hook));
  }

 private:
  std::vector<at::Tensor> leaves_;
};

// The nodes of the graph in which gradients of leaves end.
std::unordered_set<ag::Node *> ends(const at::Tensor &loss) {
  std::unordered_set<ag::Node *> seen, out;
  std::vector<ag::Node *> open;
  auto visit = [&](ag::Node *node) {
    if (node && seen.insert(node).second) open.push_back(node);
  };
  visit(ag::impl::gradient_edge(loss).function.get());
  while (!open.empty()) {
    ag::Node *node = open.back();
    open.pop_back();
    if (dynamic_cast<ag::AccumulateGrad *>(node)) out.insert(node);
    for (const ag::Edge &edge : node->next_edges()) visit(edge.function.get());
  }
  return out;
}

}  // namespace

int mp_grad_into(mp_tensor loss, const mp_tensor *leaves, const mp_tensor *views, const int64_t *offsets, int n,
                 int64_t *final_from, char *err) {
  return mp::guard(err, [&] {
    const at::Tensor &y = mp::tensor(loss);
    TORCH_CHECK(y.numel() == 1, "the loss has ", y.numel(), " elements, not one");
    TORCH_CHECK(y.requires_grad(), "the loss has no graph");
    auto reached = ends(y);
    Frontier frontier(offsets, n, final_from);
    auto zero = [&](int i) {
      at::NoGradGuard no_grad;
      mp::tensor(views[i]).zero_();
      frontier.write(i, mp::tensor(views[i]).device());
    };
    Hooks hooks;
    ag::variable_list wanted;
    for (int i = n - 1; i >= 0; i--) {
      const at::Tensor &leaf = mp::tensor(leaves[i]);
      TORCH_CHECK(leaf.requires_grad() && leaf.is_leaf(), "tensor ", i, " is no leaf that asks for a gradient");
      if (!reached.count(ag::impl::try_get_grad_accumulator(leaf).get())) {
        zero(i);
        continue;
      }
      wanted.push_back(leaf);
      hooks.add(leaf, std::make_unique<Writer>(frontier, i, mp::tensor(views[i])));
    }
    if (!wanted.empty()) {
      ag::grad({y}, wanted, {}, /*retain_graph=*/std::nullopt, /*create_graph=*/false, /*allow_unused=*/true);
    }
    for (int i = n - 1; i >= 0; i--) {
      if (!frontier.written(i)) zero(i);  // reached, but a node on the way gave no gradient
    }
    frontier.finish();
  });
}
