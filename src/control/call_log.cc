#include "control/call_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <map>

#include "base/text.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream {

namespace {

std::filesystem::path log_in(const std::filesystem::path& directory) { return directory / "calls.jsonl"; }
std::filesystem::path plan_in(const std::filesystem::path& directory) { return directory / "plan.json"; }

Result<> write_all(int fd, std::string_view bytes, const std::string& what) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure("cannot write " + what, errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

// A line begins with its own newline: what a crash has left of the one before stays a line of its own, and is passed
// over when the log is read.
Result<> CallLog::append(Json line) {
  line["at"] = wall_now_ms();
  const auto text = "\n" + line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const std::lock_guard lock(mutex_);
  const auto path = log_in(directory_);
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.string()), errno);
  CHECK_OK(write_all(fd.get(), text, path.string()));
  if (::fdatasync(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", path.string()), errno);
  return {};
}

Result<> CallLog::begin(std::uint64_t epoch, std::uint64_t number, const std::string& step, const std::string& verb) {
  return append({{"epoch", epoch}, {"number", number}, {"step", step}, {"verb", verb}});
}

Result<> CallLog::end(std::uint64_t epoch, std::uint64_t number, const Result<Json>& result) {
  Json line{{"epoch", epoch}, {"number", number}, {"ok", result.has_value()}};
  if (result) {
    line["result"] = *result;
  } else {
    line["error"] = to_json(result.error());
  }
  return append(std::move(line));
}

Result<> CallLog::keep_plan(const Json& record) {
  if (get_string_or(record, "type", "") != "plan") return refused("what shall be kept is no plan");
  const std::lock_guard lock(mutex_);
  return write_file_durably(plan_in(directory_), record.dump(), 0600);
}

std::string CallLog::plan_hash() const {
  const std::lock_guard lock(mutex_);
  const auto text = read_file(plan_in(directory_));
  return text ? get_string_or(parse_json(*text).value_or(Json::object()), "hash", "") : "";
}

Result<Json> CallLog::recall() const {
  const std::lock_guard lock(mutex_);
  Json plan;
  std::error_code ignored;
  if (std::filesystem::exists(plan_in(directory_), ignored))
    plan = TRY(parse_json(TRY(read_file(plan_in(directory_)))));
  std::map<std::pair<std::int64_t, std::int64_t>, Json> calls;
  if (std::filesystem::exists(log_in(directory_), ignored)) {
    const auto text = TRY(read_file(log_in(directory_), 512u << 20));
    for (const auto& one : split(text, '\n')) {
      const auto line = parse_json(one);
      if (!line || !line->is_object()) continue;  // what a crash has left of a line
      auto& call = calls[{get_int_or(*line, "epoch", 0), get_int_or(*line, "number", 0)}];
      const bool ends = line->contains("ok");
      const auto at = line->value("at", Json(0));
      if (call.is_null() || !ends) call.update(*line);
      if (ends)
        call.update(Json{{"ok", (*line)["ok"]},
                         {"result", line->value("result", Json())},
                         {"error", line->value("error", Json())},
                         {"ended_at", at}});
    }
  }
  Json list = Json::array();
  for (auto& [at, call] : calls) {
    if (call.contains("step")) list.push_back(std::move(call));
  }
  return Json{{"plan", std::move(plan)}, {"calls", std::move(list)}};
}

}  // namespace midstream
