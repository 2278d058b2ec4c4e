#include "tests/scenarios/script.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>

#include "base/text.h"
#include "engine/engine.h"
#include "tests/support/engine_text.h"

namespace midstream::test {

namespace {

// One input line: words, and key=value pairs apart. "quoted words" count as one.
struct Line {
  std::vector<std::string> words;
  std::map<std::string, std::string> options;

  std::string word(std::size_t at) const { return at < words.size() ? words[at] : ""; }
  bool has(std::string_view flag) const { return std::ranges::find(words, flag) != words.end(); }
  std::string option(const std::string& key, std::string fallback = "") const {
    return options.contains(key) ? options.at(key) : fallback;
  }
};

Line parse_line(std::string_view text) {
  Line line;
  while (!(text = trim(text)).empty()) {
    if (text.front() == '"') {
      const auto end = std::min(text.find('"', 1), text.size() - 1);
      line.words.emplace_back(text.substr(1, end - 1));
      text.remove_prefix(end + 1);
      continue;
    }
    const auto token = text.substr(0, text.find(' '));
    text.remove_prefix(token.size());
    const auto equals = token.find('=');
    if (equals == token.npos) {
      line.words.emplace_back(token);
    } else {
      line.options[std::string(token.substr(0, equals))] = token.substr(equals + 1);
    }
  }
  return line;
}

Result<std::int64_t> number(std::string_view text) {
  std::int64_t value = 0;
  const auto* end = text.data() + text.size();
  if (const auto [at, code] = std::from_chars(text.data(), end, value); code != std::errc() || at != end) {
    return refused(fmt::format("'{}' is not a number", text));
  }
  return value;
}

Result<Step> parse_step(const Line& line) {
  Step step;
  step.phase = line.word(1);
  step.id = line.word(2);
  const auto kind = line.word(3);
  const std::map<std::string, StepKind> kinds{
      {"effect", StepKind::effect}, {"wait", StepKind::wait}, {"hold", StepKind::hold}, {"confirm", StepKind::confirm}};
  if (!kinds.contains(kind)) return refused(fmt::format("'{}' is no kind of step", kind));
  step.kind = kinds.at(kind);
  step.guard = line.option("guard");
  if (has_agent(step.kind)) {
    step.host = line.word(4);
    step.mover = "m";
    step.hosts = {step.host};
    for (const auto& peer : split(line.option("peers"), ',')) {
      if (!peer.empty()) step.hosts.push_back(peer);
    }
  }
  step.service = line.option("service");
  step.expected_blackout_ms = TRY(number(line.option("blackout", "0")));
  step.deadline_ms = TRY(number(line.option("deadline", "60000")));
  step.poll_ms = TRY(number(line.option("poll", "200")));
  step.attempts = static_cast<int>(TRY(number(line.option("attempts", "4"))));
  step.expected_ms = TRY(number(line.option("takes", "0")));
  step.back_ms = TRY(number(line.option("back", "0")));
  step.in_window = line.has("window");
  if (line.options.contains("keeps")) step.keeps = split(line.option("keeps"), ',');
  step.irreversible = line.has("irreversible");
  if (line.options.contains("needs")) step.needs = split(line.option("needs"), ',');
  return step;
}

class Player {
 public:
  // What one input line gives, as indented lines.
  Result<std::string> input(std::string_view text) {
    const auto line = parse_line(text);
    if (TRY(planned(line))) return "";
    if (journal_.empty()) CHECK_OK(begin());
    const auto verb = line.word(0);
    if (verb == "crash") return crash();
    std::string out;
    if (verb == "now") now_ += TRY(number(line.word(1).substr(1)));
    const auto event = TRY(parse_event(line));
    if (const auto* word = std::get_if<Confirmed>(&event)) {
      if (const auto no = engine_.objection_to_confirm(word->phase))
        out += fmt::format("  objection: {}\n", no->text());
    }
    if (const auto* ask = std::get_if<Asked>(&event)) {
      if (const auto no = engine_.objection(ask->goal)) out += fmt::format("  objection: {}\n", no->text());
    }
    return out + answer(engine_.handle(now_, event));
  }

 private:
  // A line of the plan? Then it is taken in.
  Result<bool> planned(const Line& line) {
    const auto verb = line.word(0);
    const auto lines = {"hosts", "budget", "step", "leave", "guard"};
    if (std::ranges::find(lines, verb) == lines.end()) return false;
    if (!journal_.empty()) return refused("the plan comes before the first input");
    if (verb == "hosts") plan_.hosts.assign(line.words.begin() + 1, line.words.end());
    if (verb == "budget") plan_.budgets[line.word(1)] = TRY(number(line.word(2)));
    if (verb == "leave") plan_.leave.push_back({line.word(1), line.has("off")});
    if (verb == "guard")
      plan_.guards.push_back(
          {line.word(1), line.word(2), "m", Json::object(), {}, line.option("from"), line.option("until")});
    if (verb == "step") plan_.steps.push_back(TRY(parse_step(line)));
    return true;
  }

  Result<> begin() {
    plan_.move = "scenario";
    CHECK_OK(validate(plan_));
    journal_.push_back(Engine::plan_record(now_, plan_));
    return engine_.fold(journal_.back());
  }

  Result<std::string> crash() {
    engine_ = Engine();
    for (const auto& record : journal_) CHECK_OK(engine_.fold(record));
    return "";
  }

  Result<Event> parse_event(const Line& line) const {
    const auto verb = line.word(0);
    const auto subject = line.word(1);
    const auto epoch =
        static_cast<std::uint64_t>(TRY(number(line.option("epoch", fmt::format("{}", engine_.state().epoch)))));
    if (verb == "start") return Started{};
    if (verb == "now") return Tick{};
    if (verb == "adopted") return Adopted{subject, epoch};
    if (verb == "lost") return LinkLost{subject};
    if (verb == "unadopted") return NotAdopted{subject, failure(error_kind_from(line.word(2)), line.word(3)).error()};
    if (verb == "left" && line.words.size() == 2) return Left{subject, epoch, {}};
    if (verb == "left") return Left{subject, epoch, failure(error_kind_from(line.word(2)), line.word(3))};
    if (verb == "blind") return NoFacts{};
    if (verb == "way-back-open") return GoingBack{true, "", "", dead_services(line)};
    if (verb == "way-back-closed") return GoingBack{false, subject, line.word(2), dead_services(line)};
    if (verb == "pause" || verb == "continue") return Paused{verb == "pause"};
    if (verb == "facts") return parse_facts(line);
    if (verb == "kept") return Kept{subject, line.word(2)};
    if (verb == "confirm") return Confirmed{subject, "root"};
    if (verb == "measured") return Measured{subject, 0, TRY(number(line.word(2)))};
    if (verb == "judge") return Judged{subject, {verdict_from(line.word(2)), line.word(3), line.has("dead")}};
    if (verb == "ask") {
      const auto goal = subject == "run" ? Goal::run : subject == "back" ? Goal::back : Goal::finish;
      return Asked{goal, line.option("until"), line.has("anyway")};
    }
    const int index = engine_.state().plan.find(subject);
    if (index < 0) return refused(fmt::format("'{}' is neither an input nor about a step of the plan", verb));
    const auto answered = static_cast<std::uint64_t>(TRY(number(line.option("call", fmt::format("{}", latest_call_)))));
    const auto direction =
        engine_.state().steps[index].progress == Progress::undoing ? Direction::back : Direction::forward;
    if (verb == "ok") return Outcome{subject, direction, epoch, answered, Json::object()};
    if (verb == "fail") {
      return Outcome{subject, direction, epoch, answered, failure(error_kind_from(line.word(2)), line.word(3))};
    }
    if (verb == "see") return Observed{subject, epoch, answered, parse_observation(line)};
    return refused(fmt::format("'{}' is no input", verb));
  }

  static Result<Json> parse_observation(const Line& line) {
    const auto seen = line.word(2);
    if (seen == "reached") return Json{{"reached", true}, {"why", ""}};
    if (seen == "waiting") return Json{{"reached", false}, {"why", line.word(3)}};
    if (seen == "held") return Json{{"reached", false}, {"why", line.word(3)}, {"held", true}};
    return failure(error_kind_from(seen), line.word(3));
  }

  static std::set<std::string> dead_services(const Line& line) {
    std::set<std::string> dead;
    if (line.options.contains("dead")) dead.insert(line.option("dead"));
    return dead;
  }

  static Result<Event> parse_facts(const Line& line) {
    Facts facts;
    facts.window_open = line.option("window", "open") == "open";
    if (line.options.contains("left")) facts.window_left_ms = TRY(number(line.option("left")));
    for (const auto& [service, used] : line.options) {
      if (service != "window" && service != "left") facts.downtime_ms[service] = TRY(number(used));
    }
    return facts;
  }

  std::string answer(const Effects& effects) {
    std::string out;
    for (const auto& record : effects.records) {
      journal_.push_back(record);
      out += fmt::format("  store {}\n", record_line(record));
    }
    for (const auto& command : effects.commands) {
      if (const auto* call = std::get_if<Call>(&command)) latest_call_ = call->number;
      out += fmt::format("  send {}\n", command_line(command));
    }
    if (effects.wake_at) out += fmt::format("  wake at {}\n", *effects.wake_at);
    if (const auto waiting = engine_.waiting(); !waiting.empty()) out += fmt::format("  {}\n", waiting);
    if (engine_.state().complete()) out += "  complete\n";
    return out.empty() ? "  nothing\n" : out;
  }

  Plan plan_;
  std::vector<Json> journal_;
  Engine engine_;
  std::uint64_t latest_call_ = 0;
  std::int64_t now_ = 0;
};

}  // namespace

Result<std::string> play(std::string_view text) {
  Player player;
  std::string out;
  int at = 0;
  for (const auto& line : split(text, '\n')) {
    ++at;
    if (line.starts_with("  ")) continue;  // an answer: given anew
    out += line + "\n";
    if (line.empty() || line.starts_with("#")) continue;
    auto answer = player.input(line);
    if (!answer) return with_context(answer.error(), fmt::format("line {}: {}", at, line));
    out += *answer;
  }
  out.pop_back();  // the last line's end was split's too
  return out;
}

}  // namespace midstream::test
