#include "lab/checker/testimony.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/text.h"

namespace midstream::lab {
namespace {

Result<std::int64_t> number(const std::string& text) {
  std::int64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size())
    return corrupt(fmt::format("'{}' is not a number", printable(text)));
  return out;
}

Result<> take_line(Testimony& out, const std::vector<std::string>& fields) {
  const auto is = [&](std::string_view tag, std::size_t count) {
    return fields[0] == tag && fields.size() == count;
  };
  if (is("S", 6)) {
    if (fields[1] != "1") return corrupt("the witness's format is not version 1");
    if (!out.boot_id.empty()) return corrupt("a second start in one file");
    out.boot_id = fields[4];
    out.beats.push_back(Beat{TRY(number(fields[2])), 0});
  } else if (is("C", 7)) {
    out.claims.push_back(
        TimedClaim{TRY(number(fields[1])), Claim{fields[3], fields[4], fields[5], fields[6]}});
  } else if (is("Q", 5)) {
    out.questions.push_back(TimedQuestion{TRY(number(fields[1])), Question{fields[3], fields[4]}});
  } else if (is("B", 3) || is("E", 3)) {
    out.beats.push_back(Beat{TRY(number(fields[1])), TRY(number(fields[2]))});
    out.ended = fields[0] == "E";
  } else {
    return corrupt("not a line that the witness writes");
  }
  return {};
}

}  // namespace

std::string start_line(std::int64_t at_ns, std::int64_t wall_ms, std::string_view boot_id,
                       std::string_view interfaces) {
  return fmt::format("S\t1\t{}\t{}\t{}\t{}", at_ns, wall_ms, boot_id, interfaces);
}

std::string claim_line(const TimedClaim& timed, std::string_view interface) {
  const auto& c = timed.claim;
  return fmt::format("C\t{}\t{}\t{}\t{}\t{}\t{}", timed.at_ns, interface, c.address, c.mac, c.how, c.to);
}

std::string question_line(const TimedQuestion& timed, std::string_view interface) {
  return fmt::format("Q\t{}\t{}\t{}\t{}", timed.at_ns, interface, timed.question.address, timed.question.mac);
}

std::string beat_line(const Beat& beat, bool last) {
  return fmt::format("{}\t{}\t{}", last ? "E" : "B", beat.at_ns, beat.drops);
}

Result<Testimony> parse_testimony(std::string_view text) {
  Testimony out;
  for (std::size_t line = 1; !text.empty(); ++line) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) break;
    if (auto taken = take_line(out, split(text.substr(0, end), '\t')); !taken) {
      return with_context(taken.error(), fmt::format("witness, line {}", line));
    }
    text.remove_prefix(end + 1);
  }
  if (out.boot_id.empty()) return corrupt("the witness's file does not begin with its start");
  // Frames of several interfaces are written in batches, so that neighbours may be the wrong way round.
  std::stable_sort(out.claims.begin(), out.claims.end(),
                   [](const auto& a, const auto& b) { return a.at_ns < b.at_ns; });
  std::stable_sort(out.questions.begin(), out.questions.end(),
                   [](const auto& a, const auto& b) { return a.at_ns < b.at_ns; });
  return out;
}

std::string gap_in(const Testimony& testimony, std::int64_t from_ns, std::int64_t to_ns,
                   std::int64_t longest_gap_ns) {
  const auto& beats = testimony.beats;
  // Before its first line it was as silent as between two; so much may pass.
  if (from_ns < to_ns && beats.front().at_ns - from_ns > longest_gap_ns) {
    return fmt::format("the witness began {} ms after what it should have seen",
                       (beats.front().at_ns - from_ns) / 1000000);
  }
  if (to_ns - beats.back().at_ns > longest_gap_ns) {
    return fmt::format("the witness ended {} ms before what it should have seen",
                       (to_ns - beats.back().at_ns) / 1000000);
  }
  for (std::size_t i = 1; i < beats.size(); ++i) {
    const auto gap = beats[i].at_ns - beats[i - 1].at_ns;
    if (gap > longest_gap_ns) return fmt::format("the witness was silent for {} ms", gap / 1000000);
    if (beats[i].drops > beats[i - 1].drops)
      return fmt::format("the witness lost {} frames", beats[i].drops - beats[i - 1].drops);
  }
  return "";
}

}  // namespace midstream::lab
