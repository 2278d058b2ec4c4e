#include "movers/names/change.h"

#include <fmt/format.h>

#include <charconv>

#include "base/text.h"

namespace midstream::dns {

namespace {

constexpr std::int64_t kEpochTtl = 0;  // nobody has a reason to cache it
constexpr Millis kPatience{2'000};     // for one question
constexpr Millis kBetweenLooks{50};
constexpr int kAttempts = 3;  // somebody else may change the other type's epoch at the same moment

// What the primary holds now.
struct Held {
  std::vector<std::string> values;
  std::int64_t ttl = 0;
  std::vector<std::string> epoch;  // of the epoch record
};

Result<Answer> ask_primary(const Context& context, const Record& record, const std::string& name, Type type) {
  auto answer = TRY(ask(record.primary, name, type, context.deadline.sooner(kPatience), context.stop));
  if (!answer.authoritative) {
    return refused(fmt::format("name server {} answers {} for {} without authority", record.primary.address,
                               answer.rcode, name),
                   "name the zone's primary");
  }
  return answer;
}

Result<Held> look(const Context& context, const Record& record) {
  const auto answer = TRY(ask_primary(context, record, record.name, record.type));
  if (!answer.cname.empty()) {
    return refused(fmt::format("{} is an alias of {}", record.name, answer.cname),
                   "move the name that it points to");
  }
  const auto epoch = TRY(ask_primary(context, record, record.epoch_name(), Type::txt));
  return Held{answer.values, answer.ttl, epoch.values};
}

std::unexpected<Error> not_expected(const Record& record, const Held& held, const std::string& expected) {
  return refused(fmt::format("the record {} is not what was expected: it is {}, not {}", record.text(),
                             held.values.empty() ? "absent" : join(held.values, ", "), expected),
                 "somebody else changed it: put it back, or correct the manifest");
}

// Whether after `change` all records that this move changed under this name are as it found them: then the
// epoch record goes, in the same message.
Result<bool> restores_all(const Context& context, const Record& record, const Change& change) {
  for (const auto type : {Type::a, Type::aaaa}) {
    const auto found = TRY(load_found(context, record.name, type));
    if (!found) continue;
    if (type == record.type) {
      if (found->value != change.to || found->ttl != change.ttl) return false;
      continue;
    }
    const auto other = TRY(ask_primary(context, record, record.name, type));
    if (other.values != std::vector{found->value} || other.ttl != found->ttl) return false;
  }
  return true;
}

Update message_for(const Context& context, const Record& record, const Change& change, const Held& held,
                   bool last) {
  const EpochText ours{context.task.move, context.task.epoch, context.task.step};
  Update update;
  update.zone = record.zone;
  update.required.push_back({record.name, record.type, held.values, 0});
  update.required.push_back({record.epoch_name(), Type::txt, held.epoch, 0});
  update.replaced.push_back({record.name, record.type, {change.to}, change.ttl});
  update.replaced.push_back({record.epoch_name(), Type::txt,
                             last ? std::vector<std::string>{} : std::vector{ours.text()}, kEpochTtl});
  return update;
}

Result<bool> change_primary(const Context& context, const Record& record, const Change& change) {
  const auto key = TRY(load_key_file(record.key_file));
  for (int attempt = 1;; ++attempt) {
    const auto held = TRY(look(context, record));
    CHECK_OK(may_change(context.task, record.name, held.epoch.empty() ? "" : held.epoch.front()));
    const bool there = held.values == std::vector{change.to};
    if (there && held.ttl == change.ttl) return false;
    if (!there && held.values != std::vector{change.from}) return not_expected(record, held, change.from);
    CHECK_OK(stop_clock(context, record));
    if (!TRY(load_found(context, record.name, record.type))) {
      CHECK_OK(save_found(context, record.name, record.type, {held.values.front(), held.ttl}));
    }
    const bool last = TRY(restores_all(context, record, change));
    const auto rcode = TRY(send_update(record.primary, message_for(context, record, change, held, last), key,
                                       context.deadline, context.stop));
    if (rcode == "NOERROR") return true;
    if (attempt == kAttempts) {
      const auto now = TRY(look(context, record));
      if (now.values != held.values) return not_expected(record, now, change.from);
      return retry(
          fmt::format("name server {} answers {} although {} is {}: its epoch record changes all the time",
                      record.primary.address, rcode, record.text(), join(now.values, ", ")));
    }
  }
}

// Once the epoch record is gone, everything under this name is as it was found.
Result<> forget_if_released(const Context& context, const Record& record) {
  const auto epoch = TRY(ask_primary(context, record, record.epoch_name(), Type::txt));
  if (!epoch.values.empty()) return {};
  for (const auto type : {Type::a, Type::aaaa}) CHECK_OK(forget_found(context, record.name, type));
  return {};
}

}  // namespace

std::string EpochText::text() const {
  return fmt::format("{} {} {}", move, epoch, step);
}

std::optional<EpochText> EpochText::parse(const std::string& text) {
  const auto first = text.find(' ');
  const auto second = first == std::string::npos ? first : text.find(' ', first + 1);
  if (second == std::string::npos) return std::nullopt;
  EpochText parsed{text.substr(0, first), 0, text.substr(second + 1)};
  const auto* begin = text.data() + first + 1;
  const auto* end = text.data() + second;
  const auto [stopped, error] = std::from_chars(begin, end, parsed.epoch);
  if (error != std::errc() || stopped != end || parsed.move.empty()) return std::nullopt;
  return parsed;
}

Result<> may_change(const Task& task, const std::string& name, const std::string& text) {
  if (text.empty()) return {};
  const auto held = EpochText::parse(text);
  const auto todo = fmt::format("if that move is over, delete the TXT record _midstream.{}", name);
  if (!held) return refused(fmt::format("the TXT record _midstream.{} is not midstream's", name), todo);
  if (held->move != task.move)
    return refused(fmt::format("{} is being moved by '{}'", name, printable(held->move)), todo);
  if (held->epoch > task.epoch) {
    return failure(ErrorKind::fenced, fmt::format("{} was changed under epoch {}, this is epoch {}", name,
                                                  held->epoch, task.epoch));
  }
  return {};
}

Result<Json> make_change(const Context& context, const Record& record, const Change& change) {
  const auto servers = TRY(name_servers(context, record));
  const auto begun = boot_now();
  const bool changed = TRY(change_primary(context, record, change));
  const auto found = TRY(load_found(context, record.name, record.type));
  while (true) {
    const auto seen = ask_all(context, record, servers, kPatience);
    const auto why = disagreement(seen, change.to, change.ttl);
    if (why.empty()) {
      if (found && found->value == change.to && found->ttl == change.ttl)
        CHECK_OK(forget_if_released(context, record));
      const auto ms = std::chrono::duration_cast<Millis>(boot_now() - begun).count();
      return Json{{"servers", to_json(seen, servers)}, {"changed", changed}, {"ms", ms}};
    }
    if (context.stop.stop_requested())
      return failure(ErrorKind::cancelled, "stopped before every name server agreed");
    if (context.deadline.remaining() <= kBetweenLooks) {
      return retry(
          fmt::format("{} is changed on the primary, but not on every name server: {}", record.text(), why),
          "check NOTIFY and transfers between them");
    }
    pause_for(kBetweenLooks, context.stop);
  }
}

Result<Json> release(const Context& context, const Record& record) {
  const auto held = TRY(look(context, record));
  if (!held.epoch.empty()) {
    CHECK_OK(may_change(context.task, record.name, held.epoch.front()));
    const auto key = TRY(load_key_file(record.key_file));
    Update update{record.zone,
                  {{record.epoch_name(), Type::txt, held.epoch, 0}},
                  {{record.epoch_name(), Type::txt, {}, 0}},
                  {}};
    const auto rcode = TRY(send_update(record.primary, update, key, context.deadline, context.stop));
    if (rcode != "NOERROR")
      return retry(fmt::format("the epoch record of {} changed meanwhile ({})", record.name, rcode));
  }
  for (const auto type : {Type::a, Type::aaaa}) CHECK_OK(forget_found(context, record.name, type));
  return Json{{"changed", !held.epoch.empty()}};
}

}  // namespace midstream::dns
