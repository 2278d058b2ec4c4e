// What must hold of the controller: of every record that it stores and every command that it sends. It folds what is
// stored into an engine of its own, as a successor would.
#pragma once

#include <optional>
#include <string>

#include "engine/engine.h"
#include "tests/sim/loop.h"

namespace midstream::test {

enum class Truth { none, partly, done };

class Checker {
 public:
  Checker(Loop& loop, const std::vector<Truth>& truths) : loop_(loop), truths_(truths) {}

  // Observations may lie: what is recorded as done for having been seen may not be true.
  void believe_nothing() { lies_ = true; }

  // In this order, as they happen; `who` is the controller.
  void restarted(const void* who) {
    told_[who].reset();
    verdicts_[who].clear();
    unheeded_.erase(who);
    words_.erase(who);
    kept_.erase(who);
    newest_ = who;
    way_back_[who].reset();
  }
  void heard(const void* who, const Event& event);
  void stored(const void* who, const Json& record);
  // The journal was lost; this one takes its place.
  void adopted(const std::vector<Json>& records);
  void sent(const Call& call);
  // The state of the living engine is that of its journal.
  void compare(const State& living);

  // What a successor would know.
  const State& durable() const { return shadow_.state(); }
  // Whether a stored intent covers this call.
  bool intended(const Call& call) const;

 private:
  void check_intent(const void* who, const Json& record, const Step& step, const StepState& before);
  void check_rules(const Step& step, const std::optional<Facts>& told);
  void note_to_observe();
  void check_stop(const Json& record, int index);
  void check_outcome(const Json& record, int index);
  bool guarded_now(const std::string& service) const;
  void check_hold(const void* who, const Step& step);
  void check_window(const Step& step, const Facts& told);
  void check_taken_back();

  Loop& loop_;
  const std::vector<Truth>& truths_;
  Engine shadow_;
  Plan begun_;  // as the move began, and as the world goes by: what was measured and tuned since is not in it
  bool lies_ = false;
  std::map<const void*, std::optional<GoingBack>>
      way_back_;                                      // told to each controller, since the last step that was felt
  std::map<const void*, std::optional<Facts>> told_;  // each controller, since the last attempt that could be felt
  std::map<const void*, std::map<std::string, midstream::Verdict>>
      verdicts_;                                 // heard by each controller, of the share at hand
  std::map<const void*, std::string> unheeded_;  // a guard's failing that a controller has heard and not yet stored
  std::map<const void*, std::string> words_;     // the phase that the operator has just let begin
  std::map<const void*, std::pair<std::string, std::string>> kept_;  // the latest look of each controller: hold, why
  const void* newest_ = nullptr;                                     // the controller that knows the whole journal
  std::string held_;                                                 // a step that was last seen to be held half-way
  std::string to_observe_;  // forward effect whose intent is from before this epoch
  std::map<std::string, std::pair<std::string, std::uint64_t>> intents_;  // step -> direction and epoch of the latest
};

}  // namespace midstream::test
