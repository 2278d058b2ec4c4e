#include "movers/end/end.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "base/text.h"
#include "movers/end/ears.h"
#include "movers/end/seal.h"

namespace midstream {

namespace {

constexpr Millis kForgotten{60'000};  // ears that nobody asks are closed

class EndMover final : public Mover {
 public:
  std::string_view name() const override { return "end"; }
  Result<> start(const Context&) override { return {}; }  // nothing is remembered: silence is listened for anew

  Result<Json> observe(const Context&, const Json& desired) override {
    if (TRY(is_seal(desired))) {
      const bool sealed = TRY(is_sealed(TRY(get_string(desired, "path"))));
      return observation(sealed, sealed ? "" : "the tree can still be changed");
    }
    const auto silence = TRY(parse_silence(desired));
    const std::lock_guard lock(mutex_);
    // Ears that nobody has asked for long have heard nothing for anybody: what they say would be old.
    if (ears_ && ears_->unasked() > kForgotten) ears_.reset();
    if (!ears_) ears_ = TRY(Ears::listen());
    return ears_->judge(silence);
  }

  Result<Json> apply(const Context& context, const Json& desired) override {
    if (!TRY(is_seal(desired))) return refused("end: silence is waited for, not made");
    return seal_tree(TRY(get_string(desired, "path")), TRY(get_strings(desired, "except")), context.deadline,
                     context.stop);
  }
  Result<Json> undo(const Context&, const Json& desired) override {
    if (TRY(is_seal(desired)))
      return refused("a tree that was made read-only at the end stays so", "chattr -R -i takes that back by hand");
    return Json::object();
  }

  Result<Json> observe_undo(const Context&, const Json& desired) override {
    return undo_outlook(TRY(is_seal(desired)) ? "a tree that was made read-only at the end stays so" : "");
  }

  Result<Json> check(const Context&, const Json& desired) override {
    if (TRY(is_seal(desired))) {
      const auto sealed = is_sealed(TRY(get_string(desired, "path")));
      return Json::array(
          {finding(fmt::format("{} can be made read-only at the end", get_string_or(desired, "path", "?")),
                   sealed.has_value(), sealed ? "" : sealed.error().what, sealed ? "" : sealed.error().todo)});
    }
    const auto ears = Ears::listen();
    return Json::array({finding("who talks to this host can be heard", ears.has_value(), ears ? "" : ears.error().what,
                                "run the agent as root (CAP_NET_RAW)")});
  }

  std::string describe(const Json& desired) const override {
    if (get_string_or(desired, "kind", "") == "seal")
      return fmt::format("makes {} read-only for good", get_string_or(desired, "path", "?"));
    const auto addresses = get_strings(desired, "addresses").value_or(std::vector<std::string>{});
    const auto where = addresses.empty() ? std::string("the host") : join(addresses, ", ");
    return fmt::format("waits until nobody has talked to {} for {} s", where,
                       static_cast<double>(get_int_or(desired, "silence_ms", 0)) / 1000);
  }

 private:
  static Result<bool> is_seal(const Json& desired) {
    const auto kind = TRY(get_string(desired, "kind"));
    if (kind == "silent" || kind == "seal") return kind == "seal";
    return refused(fmt::format("end: there is no kind '{}'", printable(kind)));
  }

  std::mutex mutex_;
  std::unique_ptr<Ears> ears_;
};

}  // namespace

std::unique_ptr<Mover> make_end_mover() { return std::make_unique<EndMover>(); }

}  // namespace midstream
