#include "movers/end/end.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "base/text.h"
#include "movers/end/ears.h"

namespace midstream {

namespace {

constexpr Millis kForgotten{60'000};  // ears that nobody asks are closed

class EndMover final : public Mover {
 public:
  std::string_view name() const override { return "end"; }
  Result<> start(const Context&) override { return {}; }  // nothing is remembered: silence is listened for anew

  Result<Json> observe(const Context&, const Json& desired) override {
    CHECK_OK(known(desired));
    const auto silence = TRY(parse_silence(desired));
    const std::lock_guard lock(mutex_);
    // Ears that nobody has asked for long have heard nothing for anybody: what they say would be old.
    if (ears_ && ears_->unasked() > kForgotten) ears_.reset();
    if (!ears_) ears_ = TRY(Ears::listen());
    return ears_->judge(silence);
  }

  Result<Json> apply(const Context&, const Json&) override { return refused("end: silence is waited for, not made"); }
  Result<Json> undo(const Context&, const Json&) override { return Json::object(); }

  Result<Json> check(const Context&, const Json& desired) override {
    CHECK_OK(known(desired));
    const auto ears = Ears::listen();
    return Json::array({finding("who talks to this host can be heard", ears.has_value(), ears ? "" : ears.error().what, "run the agent as root (CAP_NET_RAW)")});
  }

  std::string describe(const Json& desired) const override {
    const auto addresses = get_strings(desired, "addresses").value_or(std::vector<std::string>{});
    const auto where = addresses.empty() ? std::string("the host") : join(addresses, ", ");
    return fmt::format("waits until nobody has talked to {} for {} s", where, static_cast<double>(get_int_or(desired, "silence_ms", 0)) / 1000);
  }

 private:
  static Result<> known(const Json& desired) {
    const auto kind = TRY(get_string(desired, "kind"));
    if (kind == "silent") return {};
    return refused(fmt::format("end: there is no kind '{}'", printable(kind)));
  }

  std::mutex mutex_;
  std::unique_ptr<Ears> ears_;
};

}  // namespace

std::unique_ptr<Mover> make_end_mover() { return std::make_unique<EndMover>(); }

}  // namespace midstream
