#include "lab/operator_trial.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/text.h"

namespace midstream::lab {

namespace {

constexpr Millis kCommandLimit{120'000};
constexpr const char* kMark = "reached: ";  // in the line of a wait's end: the move is well under way

class OperatorTrial {
 public:
  OperatorTrial(Trial& trial, const std::function<void(std::string_view)>& tell) : trial_(trial), tell_(tell) {}

  Result<> all() {
    CHECK_OK(probe_alone());
    CHECK_OK(pause_and_go_on());
    CHECK_OK(abort_comes_too_late());
    CHECK_OK(succeed({"rollback"}));
    CHECK_OK(expect_undone());
    CHECK_OK(abort_in_time());
    return expect_undone();
  }

 private:
  struct Ended {
    int code = 0;
    std::string said;
  };
  // To its end; `at_mark` is called once, in the middle of it, when a line holds the mark.
  Result<Ended> run(const std::vector<std::string>& arguments, const std::function<Result<>()>& at_mark = nullptr) {
    auto command = TRY(trial_.midstream(arguments));
    Ended ended;
    bool struck = false;
    Result<> middle;
    ended.code = TRY(command.wait(
        [&](std::string_view line) {
          tell_(line);
          ended.said += std::string(line) + "\n";
          if (at_mark && !struck && line.find(kMark) != std::string_view::npos) {
            struck = true;
            middle = at_mark();
          }
          return true;
        },
        Deadline::in(kCommandLimit)));
    CHECK_OK(middle);
    if (at_mark && !struck) return refused(fmt::format("`midstream {}` said no line with '{}'", arguments[0], kMark));
    return ended;
  }

  Result<> succeed(const std::vector<std::string>& arguments) {
    const auto ended = TRY(run(arguments));
    if (ended.code == 0) return {};
    return refused(fmt::format("`midstream {}` ended with exit code {}: {}", arguments[0], ended.code, ended.said));
  }

  Result<Json> status() {
    return parse_json(TRY(trial_.lab().must(trial_.lab().scenario().ops, {"/opt/midstream/bin/midstream", "status", "--json", "/root/move.yaml"})));
  }

  // Where the move's own vantage point is, before anything of the move is there.
  Result<> probe_alone() {
    const auto& s = trial_.lab().scenario();
    const auto manifest = TRY(trial_.lab().must(s.ops, {"cat", "/root/move.yaml"}));
    TRY(trial_.lab().must(s.out, {"sh", "-c", "cat >/tmp/move.yaml"}, manifest));
    const auto text = TRY(trial_.lab().must(s.out, {"timeout", "--preserve-status", "-s", "INT", "4", "/opt/midstream/bin/midstream", "probe", "--log",
                                                    "/tmp/probe.log", "/tmp/move.yaml"}));
    const auto meter = TRY(parse_json(text));
    int seen = 0;
    for (const auto& one : meter.value("services", Json::array())) {
      const auto name = get_string_or(one, "name", "");
      const auto down = one.value("downtime_ms", Json::object());
      const bool complete = down.contains("lower") && down.contains("upper") && one.contains("longest_pause_ms");
      if (!complete || get_int_or(one, "requests", 0) < 20 || get_int_or(one, "failed", -1) != 0)
        return refused(fmt::format("the figures of `midstream probe` for {} are not what was to be: {}", name, one.dump()));
      seen += name == s.web_service || name == s.db_service ? 1 : 0;
    }
    if (seen != 2) return refused("`midstream probe` does not tell of both services: " + text);
    tell_("probe alone: both services measured from outside");
    return {};
  }

  Result<> pause_and_go_on() {
    const auto ended = TRY(run({"run", "--yes", "--until", "switch"}, [this] { return paused(); }));
    if (ended.code == 0) return {};
    return refused(fmt::format("`midstream run` ended with exit code {} after a pause", ended.code));
  }

  // The step under way ends, then nothing begins.
  Result<> paused() {
    CHECK_OK(succeed({"pause"}));
    const auto limit = Deadline::in(Millis(60'000));
    auto now = TRY(status());
    while (get_string_or(now, "waiting", "").find("paused; `continue` goes on") != 0) {
      if (!get_bool_or(now, "paused", false)) return refused("`status` does not say that the move is paused: " + now.dump());
      if (limit.expired()) return refused("the pause does not take effect: " + get_string_or(now, "waiting", ""));
      pause_for(Millis(50), {});
      now = TRY(status());
    }
    // Steps of this phase take a fraction of a second each.
    for (const auto until = Deadline::in(Millis(2'500)); !until.expired(); pause_for(Millis(100), {})) {
      const auto later = TRY(status());
      if (later["steps_done"] != now["steps_done"] || get_string_or(later, "waiting", "") != get_string_or(now, "waiting", ""))
        return refused(fmt::format("while paused the move went from {} to {}", now.dump(), later.dump()));
    }
    tell_(fmt::format("paused at {} of {} steps", get_int_or(now, "steps_done", 0), get_int_or(now, "steps", 0)));
    CHECK_OK(succeed({"continue"}));
    const auto going = TRY(status());
    if (get_bool_or(going, "paused", true)) return refused("`status` says paused after `continue`");
    return {};
  }

  Result<> abort_comes_too_late() {
    const auto before = TRY(status());
    const auto ended = TRY(run({"abort"}));
    if (ended.code != 5 || ended.said.find("use `rollback`") == std::string::npos)
      return refused(fmt::format("`abort` after the switch ended with {} and said: {}", ended.code, ended.said));
    const auto after = TRY(status());
    if (before["steps_done"] != after["steps_done"] || before["goal"] != after["goal"]) return refused("the refused abort did something: " + after.dump());
    return {};
  }

  // Through the controller that runs, which ends with the exit code of what was taken back.
  Result<> abort_in_time() {
    const auto ended = TRY(run({"run", "--yes"}, [this] { return succeed({"abort"}); }));
    if (ended.code == 5) return {};
    return refused(fmt::format("the run that was aborted ended with exit code {}", ended.code));
  }

  Result<> expect_undone() {
    const auto now = TRY(status());
    if (get_int_or(now, "steps_done", -1) != 0 || !get_bool_or(now, "complete", false))
      return refused("not everything is undone: " + now.dump());
    const auto& s = trial_.lab().scenario();
    const auto report = TRY(parse_json(TRY(trial_.lab().must(s.ops, {"/opt/midstream/bin/midstream", "report", "--json", "/root/move.yaml"}))));
    if (get_string_or(report, "verdict", "") == "rolled-back") return {};
    return refused("the report's verdict is '" + get_string_or(report, "verdict", "") + "'");
  }

  Trial& trial_;
  const std::function<void(std::string_view)>& tell_;
};

}  // namespace

Result<> try_operator(Trial& trial, const std::function<void(std::string_view)>& tell) {
  return OperatorTrial(trial, tell).all();
}

}  // namespace midstream::lab
