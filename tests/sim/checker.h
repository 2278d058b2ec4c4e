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

  // In this order, as they happen.
  void restarted() { told_.reset(); }
  void heard(const Event& event);
  void stored(const Json& record);
  void sent(const Call& call);
  // The state of the living engine is that of its journal.
  void compare(const State& living);

  // What a successor would know.
  const State& durable() const { return shadow_.state(); }
  // Whether a stored intent covers this call.
  bool intended(const Call& call) const;

 private:
  void check_intent(const Json& record, const Step& step, const StepState& before);
  void check_outcome(const Json& record, int index);

  Loop& loop_;
  const std::vector<Truth>& truths_;
  Engine shadow_;
  std::optional<Facts> told_;  // by this controller
  std::string to_observe_;     // forward effect whose intent is from before this epoch
  std::map<std::string, std::pair<std::string, std::uint64_t>> intents_;  // step -> direction and epoch of the latest
};

}  // namespace midstream::test
