#include "movers/mover.h"

#include <fmt/format.h>

namespace midstream {

Result<Json> Mover::peer(const Context&, std::string_view verb, const Json&) {
  return refused(fmt::format("mover {} answers no request '{}' from other hosts", name(), verb));
}

Result<> Peers::level_epochs(const std::string& host, Deadline, const std::stop_token&) {
  return refused(fmt::format("there is no link to {} on which an epoch is agreed", host));
}

Result<> Mover::serve(const Context&, Stream&, const Json&) {
  return refused(fmt::format("mover {} takes no streams from other hosts", name()));
}

Result<Json> Mover::observe_undo(const Context&, const Json&) { return undo_outlook(""); }

Json undo_outlook(std::string why) {
  const bool possible = why.empty();
  return {{"possible", possible}, {"why", std::move(why)}};
}

Json observation(bool reached, std::string why) { return {{"reached", reached}, {"why", std::move(why)}}; }

Json finding(std::string what, bool ok, std::string detail, std::string todo) {
  return {{"what", std::move(what)}, {"ok", ok}, {"detail", std::move(detail)}, {"todo", std::move(todo)}};
}

}  // namespace midstream
