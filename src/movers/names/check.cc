#include "movers/names/check.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/text.h"
#include "movers/names/change.h"

namespace midstream::dns {

namespace {

constexpr Millis kPatience{2'000};

struct Findings {
  Json list = Json::array();
  void add(std::string what, bool ok, std::string detail, std::string todo = "") {
    list.push_back(finding(std::move(what), ok, std::move(detail), std::move(todo)));
  }
  void fail(std::string what, const Error& error) { add(std::move(what), false, error.what, error.todo); }
};

void check_update(Findings& findings, const Context& context, const Record& record) {
  const auto readable = fmt::format("the TSIG key {} can be used", record.key_file);
  const auto key = load_key_file(record.key_file);
  if (!key) return findings.fail(readable, key.error());
  struct stat about {};
  const bool open_to_all = ::stat(record.key_file.c_str(), &about) == 0 && (about.st_mode & 0007) != 0;
  findings.add(readable, !open_to_all,
               open_to_all ? "every user of the host may read it"
                           : fmt::format("key '{}', {}", key->name, key->algorithm),
               fmt::format("chmod 600 {}", record.key_file));

  Update nothing{record.zone, {}, {}, {}};
  nothing.removed.push_back({record.name, record.type, {record.type == Type::a ? "0.0.0.0" : "::"}, 0});
  nothing.removed.push_back({record.epoch_name(), Type::txt, {"midstream check"}, 0});
  const auto what = fmt::format("the key may change {} and TXT {}", record.text(), record.epoch_name());
  const auto rcode = send_update(record.primary, nothing, *key, context.deadline, context.stop);
  if (!rcode) return findings.fail(what, rcode.error());
  findings.add(what, *rcode == "NOERROR",
               fmt::format("an update that changes nothing is answered {}", *rcode));
}

void check_value(Findings& findings, const Context& context, const Record& record,
                 const std::string& expected, std::int64_t ttl) {
  const auto what = fmt::format("{} is {}", record.text(), expected);
  const auto now =
      ask(record.primary, record.name, record.type, context.deadline.sooner(kPatience), context.stop);
  if (!now) return findings.fail(what, now.error());
  if (!now->cname.empty()) {
    return findings.add(what, false, fmt::format("it is an alias of {}", now->cname),
                        "move the name that it points to");
  }
  const bool same = now->values == std::vector{expected};
  findings.add(what, same && (ttl < 0 || now->ttl == ttl),
               fmt::format("{} with a TTL of {} s", now->values.empty() ? "absent" : join(now->values, ", "),
                           now->ttl),
               same ? fmt::format("the plan was made for a TTL of {} s: plan again", ttl)
                    : "correct the record or the manifest");

  const auto epoch =
      ask(record.primary, record.epoch_name(), Type::txt, context.deadline.sooner(kPatience), context.stop);
  if (epoch && !epoch->values.empty()) {
    const auto held = EpochText::parse(epoch->values.front());
    findings.add(fmt::format("{} is in no other move", record.name),
                 held && (context.task.move.empty() || held->move == context.task.move),
                 fmt::format("its epoch record says '{}'", printable(epoch->values.front())),
                 fmt::format("if that move is over, delete the TXT record {}", record.epoch_name()));
  }
}

// IPv6 beside IPv4: what is forgotten there keeps some clients on old.
void check_other_family(Findings& findings, const Context& context, const Record& record) {
  const auto other = record.type == Type::a ? Type::aaaa : Type::a;
  const auto beside =
      ask(record.primary, record.name, other, context.deadline.sooner(kPatience), context.stop);
  if (!beside || beside->values.empty()) return;
  findings.add(fmt::format("{} has {} beside {}", record.name, to_string(other), to_string(record.type)),
               true,
               fmt::format("{}; it stays unless the manifest names it too", join(beside->values, ", ")));
}

void check_servers(Findings& findings, const Context& context, const Record& record,
                   const std::string& expected) {
  const auto what = fmt::format("every name server of {} says {}", record.zone, expected);
  const auto servers = name_servers(context, record);
  if (!servers) return findings.fail(what, servers.error());
  const auto seen = ask_all(context, record, *servers, kPatience);
  const auto why = disagreement(seen, expected, -1);
  std::vector<std::string> skipped;
  for (const auto& server : *servers) {
    if (!server.reachable) skipped.push_back(fmt::format("{} ({})", server.name, server.at.address));
  }
  auto detail = why.empty() ? fmt::format("{} addresses agree", seen.size()) : why;
  if (!skipped.empty())
    detail += fmt::format("; not asked, because this host has no route there: {}", join(skipped, ", "));
  findings.add(what, why.empty(), detail,
               "check NOTIFY and transfers between them, and that each answers this host");
}

}  // namespace

Result<Json> check_record(const Context& context, const Json& desired, const std::string& expected,
                          std::int64_t ttl) {
  Findings findings;
  const auto record = read_record(context, desired);
  const auto answers =
      fmt::format("name server {} is authoritative for {}", get_string_or(desired, "server", "?"),
                  get_string_or(desired, "zone", "?"));
  if (!record) {
    findings.fail(answers, record.error());
    return findings.list;
  }
  findings.add(answers, true, record->primary.address);
  const auto value = TRY(canonical_address(record->type, expected));
  check_value(findings, context, *record, value, ttl);
  check_other_family(findings, context, *record);
  check_update(findings, context, *record);
  check_servers(findings, context, *record, value);
  return findings.list;
}

}  // namespace midstream::dns
