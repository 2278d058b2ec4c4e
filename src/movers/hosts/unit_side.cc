#include "movers/hosts/unit_side.h"

#include <fmt/format.h>

#include "base/text.h"
#include "sys/file.h"

namespace midstream {

namespace {

constexpr Millis kPoll{20};

// Bytes of no known encoding: in hexadecimal.
Json to_json(const HoldFiles& files) {
  Json by_path = Json::object();
  for (const auto& [path, bytes] : files) by_path[path] = to_hex(bytes);
  return by_path;
}

Result<HoldFiles> hold_files_from_json(const Json& by_path) {
  HoldFiles files;
  for (const auto& [path, unused] : by_path.items()) {
    auto bytes = from_hex(TRY(get_string(by_path, path)));
    if (!bytes) return corrupt(fmt::format("what held {} is not noted as bytes in hexadecimal", path));
    files[path] = std::move(*bytes);
  }
  return files;
}

}  // namespace

Result<UnitMove> parse_unit_move(const Json& desired) {
  UnitMove move{.name = TRY(get_string(desired, "name")), .raw = desired};
  if (move.name.empty() || move.name.size() > 100 || move.name[0] == '.' || move.name[0] == '-' ||
      move.name.find_first_of("/ \n") != std::string::npos)
    return corrupt(fmt::format("'{}' is not the name of a unit", printable(move.name)));
  move.from = TRY(get_string(TRY(get_object(desired, "from")), "host"));
  move.to = TRY(get_string(TRY(get_object(desired, "to")), "host"));
  move.deadline = Millis(get_int_or(desired, "deadline_ms", move.deadline.count()));
  return move;
}

UnitSide::UnitSide(UnitMove move, std::string host, std::filesystem::path state, const HostsOptions& options,
                   std::stop_token stop)
    : move_(std::move(move)),
      host_(std::move(host)),
      state_(std::move(state)),
      options_(options),
      stop_(std::move(stop)) {}

std::filesystem::path UnitSide::path(std::string_view suffix) const {
  return state_ / fmt::format("{}.{}", move_.name, suffix);
}

Result<std::optional<Json>> UnitSide::load(std::string_view suffix) const {
  std::error_code error;
  if (!std::filesystem::exists(path(suffix), error)) return std::optional<Json>();
  return std::optional(TRY(parse_json(TRY(read_file(path(suffix))))));
}

Result<Unit*> UnitSide::unit() {
  if (!unit_) unit_ = TRY(find_unit(move_.name, options_.root));
  return unit_.get();
}

Result<Title> UnitSide::title() {
  if (const auto stored = TRY(load("unit-title"))) return title_from_json(TRY(get_object(*stored, "title")));
  Title implied;
  if (host_ != move_.from) return implied;
  if (TRY(TRY(unit())->state()).running) implied.holding = Holding::owner;
  return implied;
}

Result<> UnitSide::store_title(const Title& title, const Task& task) {
  const Json record{
      {"title", to_json(title)}, {"host", host_}, {"move", task.move}, {"step", task.step}, {"desired", move_.raw}};
  return write_file_durably(path("unit-title"), record.dump());
}

Result<> UnitSide::store_found(const Found& found) {
  return write_file_durably(path("unit-found"),
                            Json{{"held", found.held},
                                 {"hold_files", to_json(found.hold_files)},
                                 {"enabled_by_us", found.enabled_by_us}}
                                .dump());
}

Result<UnitSide::Found> UnitSide::load_found() {
  const auto stored = TRY(load("unit-found"));
  if (!stored) return Found{};
  return Found{TRY(get_bool(*stored, "held")), TRY(hold_files_from_json(TRY(get_object(*stored, "hold_files")))),
               TRY(get_bool(*stored, "enabled_by_us"))};
}

Result<Json> UnitSide::status() {
  const auto state = TRY(TRY(unit())->state());
  return Json{{"title", to_json(TRY(title()))}, {"known", state.known},         {"held", state.held},
              {"running", state.running},       {"processes", state.processes}, {"supervisor", state.supervisor},
              {"at_boot", state.at_boot},       {"unfit", state.unfit}};
}

Result<> UnitSide::hold_and_stop() {
  Unit& one = *TRY(unit());
  CHECK_OK(one.hold(fmt::format("held by midstream: {} runs on one host only, and it is not {}", move_.name, host_)));
  options_.checkpoint("unit: held");
  return one.stop();
}

Result<> UnitSide::release_and_start() {
  Unit& one = *TRY(unit());
  CHECK_OK(one.release());
  options_.checkpoint("unit: released");
  return one.start();
}

Result<> UnitSide::await_end() {
  const auto until = Deadline::in(move_.deadline);
  while (true) {
    const auto state = TRY(TRY(unit())->state());
    if (!state.running && state.processes.empty()) return {};
    const auto who =
        state.processes.empty() ? std::string("its supervisor still looks after it") : join(state.processes, ", ");
    if (until.expired())
      return retry(fmt::format("{} on {} did not end within {} ms: {}", move_.name, host_, move_.deadline.count(), who),
                   "wait for the run to end, or end it; a longer `deadline` of the unit waits longer");
    if (!pause_for(kPoll, stop_))
      return failure(ErrorKind::cancelled, fmt::format("stopped while {} was ending", move_.name));
  }
}

// Up, and still up a moment later: a service that ends at once has not started.
Result<> UnitSide::await_start() {
  const auto until = Deadline::in(options_.start_patience);
  std::optional<std::chrono::nanoseconds> since;
  while (true) {
    const auto state = TRY(TRY(unit())->state());
    const bool up = state.running && (!state.processes.empty() || move_.name.ends_with(".timer"));
    if (!up) since.reset();
    if (up && !since) since = boot_now();
    if (since && boot_now() - *since >= options_.steady) return {};
    if (until.expired())
      return refused(fmt::format("{} does not run on {} although it was started", move_.name, host_),
                     "see its log there");
    if (!pause_for(kPoll, stop_))
      return failure(ErrorKind::cancelled, fmt::format("stopped while {} was starting", move_.name));
  }
}

Result<Json> UnitSide::ready(const std::string& at_boot, const Task& task) {
  const Title now = TRY(title());
  const auto state = TRY(TRY(unit())->state());
  if (!state.known)
    return refused(fmt::format("{} has no unit {}", host_, move_.name),
                   fmt::format("install it on {}, without starting it", host_));
  if (now.holding != Holding::standby && now.holding != Holding::yielded) return Json::object();
  if (!TRY(load("unit-found")))
    CHECK_OK(store_found({state.held, state.hold_files, at_boot == "enabled" && state.at_boot == "disabled"}));
  // The record first: an agent that starts again then holds it.
  CHECK_OK(store_title(now, task));
  options_.checkpoint("ready: recorded");
  if (state.running) {
    if (!TRY(load_found()).held && now.turn == 0)
      return refused(fmt::format("{} runs on {} too", move_.name, host_),
                     fmt::format("stop it on {}: it must run on one side only", host_));
    CHECK_OK(hold_and_stop());
    CHECK_OK(await_end());
  }
  CHECK_OK(TRY(unit())->hold(fmt::format("held by midstream: {} runs on {} until the switch", move_.name, move_.from)));
  if (TRY(load_found()).enabled_by_us) CHECK_OK(TRY(unit())->enable(true));
  return Json::object();
}

Result<Json> UnitSide::unready() {
  const Title now = TRY(title());
  if (now.holding == Holding::owner || now.holding == Holding::yielding)
    return refused(fmt::format("{} runs on {}", move_.name, host_), "hand it back first");
  if (!TRY(load("unit-found"))) return Json::object();
  const Found found = TRY(load_found());
  if (found.enabled_by_us) CHECK_OK(TRY(unit())->enable(false));
  if (found.held) CHECK_OK(TRY(unit())->hold_as(found.hold_files));
  // Released without being started: a service directory has no third state, so there it stays held.
  if (!found.held && TRY(TRY(unit())->state()).supervisor == "systemd") CHECK_OK(TRY(unit())->release());
  CHECK_OK(forget());
  return Json::object();
}

Result<Json> UnitSide::yield(std::uint64_t turn, const Task& task) {
  const Title before = TRY(title());
  const Title next = TRY(begin_yield(before, turn, task.epoch));
  if (next.holding == Holding::yielded) return Json{{"waited_ms", 0}};
  CHECK_OK(store_title(next, task));
  options_.checkpoint("yield: yielding");
  const auto asked = boot_now();
  auto done = hold_and_stop();
  if (done) done = await_end();
  if (done) options_.checkpoint("yield: ended");
  if (done) done = store_title(TRY(finish_yield(next, turn, task.epoch)), task);
  if (!done) {  // not yielded: it is still ours alone
    if (auto back = keep(turn, task); !back)
      return with_context(done.error(), fmt::format("and it could not be started again ({})", back.error().what));
    return std::unexpected(done.error());
  }
  options_.checkpoint("yield: yielded");
  return Json{{"waited_ms", std::chrono::duration_cast<Millis>(boot_now() - asked).count()}};
}

Result<Json> UnitSide::keep(std::uint64_t turn, const Task& task) {
  const Title next = TRY(midstream::keep(TRY(title()), turn, task.epoch));
  CHECK_OK(store_title(next, task));
  CHECK_OK(release_and_start());
  return Json::object();
}

Result<Json> UnitSide::take(std::uint64_t turn, const Task& task) {
  const Title next = TRY(midstream::take(TRY(title()), turn, task.epoch));
  CHECK_OK(store_title(next, task));
  options_.checkpoint("take: owner");
  auto done = release_and_start();
  const auto started = boot_now();
  if (done) done = await_start();
  if (done) return Json{{"since_started_ms", std::chrono::duration_cast<Millis>(boot_now() - started).count()}};
  if (done.error().kind == ErrorKind::cancelled) return std::unexpected(done.error());
  // Ours, and of no use here: given up at a turn of its own, so that the other side can have it.
  CHECK_OK(store_title(TRY(begin_yield(next, turn + 1, task.epoch)), task));
  CHECK_OK(hold_and_stop());
  CHECK_OK(await_end());
  CHECK_OK(store_title(TRY(finish_yield(TRY(title()), turn + 1, task.epoch)), task));
  return std::unexpected(done.error());
}

Result<Json> UnitSide::renounce(std::uint64_t turn, const Task& task) {
  CHECK_OK(store_title(TRY(midstream::renounce(TRY(title()), turn, task.epoch)), task));
  return Json::object();
}

Result<> UnitSide::forget() {
  CHECK_OK(remove_file_durably(path("unit-title")));
  return remove_file_durably(path("unit-found"));
}

Result<std::string> UnitSide::recover(const Task& task) {
  const Title now = TRY(title());
  if (now.holding == Holding::yielding) {  // nobody else may own at this turn: go back
    CHECK_OK(keep(now.turn, task));
    return fmt::format("the handover of {} was cut short before it was yielded; it stayed on {}", move_.name, host_);
  }
  const auto state = TRY(TRY(unit())->state());
  if (now.holding == Holding::owner) {
    if (state.held || !state.running) CHECK_OK(release_and_start());
    return "";
  }
  if (state.held && !state.running) return "";
  if (now.turn == 0 && !TRY(load("unit-found"))) return "";  // never prepared
  CHECK_OK(hold_and_stop());
  CHECK_OK(await_end());
  return fmt::format("{} ran or could start on {} although {} has it: held again", move_.name, host_,
                     move_.other(host_));
}

}  // namespace midstream
